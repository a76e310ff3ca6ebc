"""System calls that fail, in short; `faults.py --all` is all of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.crash import faults

ROUNDS = 36


def test_every_failed_call_is_a_clean_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(tempfile.mkdtemp(prefix="ksc-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    monkeypatch.setattr(sys, "argv", ["faults", "--rounds", str(ROUNDS), "--home", str(home)])
    try:
        status = faults.main()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    printed = capsys.readouterr().out
    with capsys.disabled():
        print("\n" + printed.splitlines()[-1])
    assert status == 0, printed
