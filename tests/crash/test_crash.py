"""A hundred kills of the daemon in the suite; `tests/crash/run.sh` is the long sweep."""

from __future__ import annotations

import pytest

from tests.crash import sweep
from tests.crash.short import play

ROUNDS = 70  # about 110 kills


def test_nothing_is_lost_wherever_the_daemon_is_killed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(sweep.main, ROUNDS, 3, capsys, monkeypatch)
