"""A hundred kills of the daemon in the suite; `tests/crash/run.sh` is the long sweep."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.crash import sweep
from tests.crash.control import KEEPSTEPD_FAILPOINTS

ROUNDS = 70  # about 110 kills


def test_nothing_is_lost_wherever_the_daemon_is_killed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not KEEPSTEPD_FAILPOINTS.exists():
        pytest.fail(f"{KEEPSTEPD_FAILPOINTS} is not built: bazel build //tests/crash:keepstepd_failpoints")
    # A kill loses nothing that a system call has taken, whatever the file system; memory is faster.
    home = Path(tempfile.mkdtemp(prefix="ksc-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    monkeypatch.setattr(sys, "argv", ["sweep", "--rounds", str(ROUNDS), "--home", str(home)])
    try:
        status = sweep.main()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    printed = capsys.readouterr().out
    with capsys.disabled():
        print("\n" + printed, end="")
    assert status == 0, printed
