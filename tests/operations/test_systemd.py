"""The unit, as far as it can be shown without systemd as process 1, and the protocol that it relies on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness.daemon import KEEPSTEPD, REPOSITORY, Daemon
from tests.operations.http import get, save_once
from tests.operations.notify_listener import NotifyListener
from tests.operations.stopped_threads import stopped_threads

UNIT = REPOSITORY / "deploy/systemd/keepstepd.service"


def test_the_manager_is_told_of_every_state(home: Path) -> None:
    with (NotifyListener(home, watchdog_seconds=0.3) as manager,
          Daemon(home, environment=manager.environment) as daemon):
        ready = manager.until(lambda message: "READY" in message)
        assert ready == {"READY": "1", "STATUS": f"serves {daemon.address}"}
        for _ in range(3):
            assert manager.until(lambda message: "WATCHDOG" in message) == {"WATCHDOG": "1"}
        os.kill(daemon.pid, signal.SIGHUP)
        assert "MONOTONIC_USEC" in manager.until(lambda message: "RELOADING" in message)
        manager.until(lambda message: "READY" in message)
        assert daemon.stop() == 0
        assert "draining" in manager.until(lambda message: "STOPPING" in message)["STATUS"]


def test_a_daemon_whose_logic_is_stuck_is_not_fed(home: Path) -> None:
    with (NotifyListener(home, watchdog_seconds=0.6) as manager,
          Daemon(home, "--http-listen", "127.0.0.1:0", environment=manager.environment) as daemon):
        save_once(daemon, home / "root/job")
        with stopped_threads(daemon.pid, "ks-logic") as held:
            assert held == 2
            told = manager.until(lambda message: "WATCHDOG" not in message and "READY" not in message)
            assert "has not moved" in told["STATUS"]
            assert manager.receive(1.5) is None, "not fed while it is stuck"
            status, _, why = get(daemon, "/healthz")
            assert status == 503 and "a job's logic has not moved" in why
            assert get(daemon, "/readyz")[0] == 503 and get(daemon, "/metrics")[0] == 200
        assert manager.until(lambda message: "WATCHDOG" in message)["STATUS"] == "moving again"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_unit_is_sound_and_closed(home: Path) -> None:
    unit = home / "keepstepd.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/keepstepd", str(KEEPSTEPD)))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in verified.stderr.splitlines() if "keepstepd.service" in line]
    assert not complaints, complaints
    judged = subprocess.run(["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True,
                            text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    exposure = re.search(r"exposure level for keepstepd.service: ([\d.]+)", judged.stdout)
    assert exposure is not None, judged.stdout + judged.stderr
    assert float(exposure.group(1)) <= 3.0, judged.stdout


def test_the_installed_configuration_is_valid() -> None:
    checked = subprocess.run([str(KEEPSTEPD), "--check", "--config", str(REPOSITORY / "deploy/keepstep.yaml")],
                             capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
