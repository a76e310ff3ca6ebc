"""A file system without room for a save, with the catalog on it: `disk_full.py` has every size."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness.daemon import REPOSITORY


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which only root may")
def test_a_full_disk_is_a_clear_error_and_locks_nobody_out(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}"}
    run = subprocess.run([sys.executable, "-m", "tests.crash.disk_full", "--step", "15"], capture_output=True,
                         text=True, timeout=600, env=environment, cwd=REPOSITORY, check=False)
    with capsys.disabled():
        print("\n" + (run.stdout.splitlines() or ["nothing printed"])[-1])
    assert run.returncode == 0, run.stdout + run.stderr
