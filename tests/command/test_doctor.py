"""`keepstep doctor` and `keepstep bundle`: every check, on both sides; no secret in a bundle, no other's jobs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.e2e.world import World
from tests.harness.daemon import KEEPSTEP, Daemon

EVERYWHERE = {"reach", "open files here", "watchdog", "CUDA driver", "pull from here", "version", "daemon", "socket",
              "io_uring", "open files", "GPU", "IPC path", "ordering", "staging pool", "memlock", "/dev/shm", "pull",
              "limits", "state directory", "file ownership"}


def test_every_check_is_made_and_none_fails_here(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "root/vit", 1, 1) as world:
        world.finish()
    result = daemon.command("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    root = home.resolve() / "root"
    assert EVERYWHERE | {f"root {root}", f"O_DIRECT on {root}", "exclusive publish in vit",
                         "file ownership in vit"} <= set(checks)
    failed = [check for check in checks.values() if check["result"] == "FAILED"]
    assert not failed and result.returncode == 0
    assert all(check["remedy"] for check in checks.values() if check["result"] != "OK")
    assert "1800 s" in checks["limits"]["found"] or "30 min" in checks["limits"]["found"]
    assert "10 s" in checks["watchdog"]["found"]
    has_gpu = any(re.fullmatch(r"nvidia\d+", name) for name in os.listdir("/dev"))
    assert has_gpu or "none here" in checks["GPU"]["found"]
    assert not list(root.glob(".keepstep-doctor-*")), "scratch files are gone"


def test_a_failed_check_is_exit_1_and_says_how_to_mend(daemon: Daemon, home: Path) -> None:
    (home / "root").rename(home / "moved")
    broken = daemon.command("doctor")
    assert broken.returncode == 1
    assert re.search(r"^FAIL +root ", broken.stdout, re.MULTILINE) and "mend: Let uid" in broken.stdout


def test_without_a_daemon_this_side_is_checked(home: Path) -> None:
    result = subprocess.run([str(KEEPSTEP), "--address", f"unix://{home}/keepstep.sock", "doctor"],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert re.search(r"^FAIL +reach ", result.stdout, re.MULTILINE) and "watchdog" in result.stdout
    assert "keepstep up" in result.stderr


def test_a_bundle_has_everything_but_secrets(home: Path) -> None:
    secret = "hunter2-4c1d"
    token_file = home / f"{secret}.token"
    token_file.write_text(secret * 4 + "\n")
    token_file.chmod(0o600)
    (home / "keepstep.yaml").write_text(
        f"# {secret}\nlog: {{level: info}}\nhttp: {{listen: '127.0.0.1:0', token_file: {token_file}}}\n")
    with Daemon(home, "--config", str(home / "keepstep.yaml"),
                environment={"AWS_SECRET_ACCESS_KEY": secret, "KEEPSTEP_NOTE": secret}) as daemon:
        with World(daemon, home / "root/vit", 1, 2) as world:
            world.finish()
        file = home / "bundle.txt"
        environment = {**os.environ, "MY_TOKEN": secret}
        made = subprocess.run([str(KEEPSTEP), "--address", daemon.address, "bundle", str(file)], env=environment,
                              capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        again = daemon.command("bundle", str(file))
        assert again.returncode == 1, "it replaces no file"
    text = file.read_text()
    sections = re.findall(r"^==== (.*) ====$", text, re.MULTILINE)
    assert sections == ["client", "client checks", "client limits", "daemon", "status", "why", "doctor", "log",
                        "configuration", "limits", "memory", "mounts"]
    assert secret not in text and "token_file: (left out)" in text
    assert "vit/2 committed" in text and "nothing is wrong" in text and "log:" in text
    assert file.stat().st_mode & 0o777 == 0o600 and len(text) < 12 << 20


def test_a_bundle_without_a_daemon_says_so(home: Path) -> None:
    result = subprocess.run([str(KEEPSTEP), "--address", f"unix://{home}/keepstep.sock", "bundle", "-"],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "no answer: no daemon listens" in result.stdout
