"""Runs the first rounds of a sweep in the suite, and shows what it printed of itself."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.control import KEEPSTEPD_FAILPOINTS


def play(
    main: Callable[[], int], rounds: int, totals: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails when `main`, told to play so many rounds, finds something; shows its last `totals` lines."""
    if not KEEPSTEPD_FAILPOINTS.exists():
        pytest.fail(f"{KEEPSTEPD_FAILPOINTS} is not built: bazel build //tests/crash:keepstepd_failpoints")
    # What has no power cut loses nothing that a system call has taken, whatever the file system; memory is faster.
    home = Path(tempfile.mkdtemp(prefix="ksc-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    monkeypatch.setattr(sys, "argv", ["sweep", "--rounds", str(rounds), "--home", str(home)])
    try:
        status = main()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    printed = capsys.readouterr().out
    with capsys.disabled():
        print("", *printed.splitlines()[-totals:], sep="\n")
    assert status == 0, printed
