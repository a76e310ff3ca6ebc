"""System calls that fail, in short; `faults.py --all` is all of it."""

from __future__ import annotations

import pytest

from tests.crash import faults
from tests.crash.short import play

ROUNDS = 36


def test_every_failed_call_is_a_clean_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(faults.main, ROUNDS, 1, capsys, monkeypatch)
