"""Saves that come faster than they can be written, and a daemon that is told to end meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import keepstep
import numpy as np
import pytest

from tests.harness.daemon import Daemon

STATE_BYTES = 256 << 20
STEPS = 5


def burst(
    daemon: Daemon, directory: Path, on_busy: Literal["wait", "skip", "supersede"]
) -> list[keepstep.SaveHandle]:
    """STEPS saves back to back, without an update in between, each told to its end."""
    value = np.arange(STATE_BYTES // 8, dtype=np.int64)
    with keepstep.Checkpointer(
        directory, daemon=daemon.address, rank=0, world_size=1, rng=False, gated=True, on_busy=on_busy, max_failures=99
    ) as checkpointer:
        checkpointer.register(model={"value": value})
        handles = [checkpointer.save(step) for step in range(1, STEPS + 1)]
        for handle in handles:
            handle.exception(120)
        checkpointer.before_update()
    return handles


def committed_steps(directory: Path) -> list[int]:
    return keepstep.open(directory).steps()


def test_wait_commits_every_one(daemon: Daemon, home: Path) -> None:
    handles = burst(daemon, home / "job", "wait")
    assert [handle.state for handle in handles] == ["COMMITTED"] * STEPS
    assert committed_steps(home / "job") == list(range(1, STEPS + 1))


@pytest.mark.parametrize("policy", ["skip", "supersede"])
def test_the_third_in_flight_gives_way(daemon: Daemon, home: Path, policy: Literal["skip", "supersede"]) -> None:
    handles = burst(daemon, home / "job", policy)
    states = [handle.state for handle in handles]
    left_out = {"skip": {"SKIPPED"}, "supersede": {"SKIPPED", "SUPERSEDED"}}[policy]
    # With supersede a save is skipped when both in flight are being copied already.
    kept = states[:2] if policy == "skip" else [state for state in states if state != "SKIPPED"][-1:]
    assert set(kept) == {"COMMITTED"}, states
    assert set(states) == {"COMMITTED"} | (set(states) & left_out) and set(states) & left_out, states
    steps = [handle.step for handle in handles if handle.state == "COMMITTED"]
    assert committed_steps(home / "job") == steps


def test_sigterm_commits_what_is_in_flight(home: Path) -> None:
    value = np.arange(STATE_BYTES // 8, dtype=np.int64)
    daemon = Daemon(home).start()
    try:
        with keepstep.Checkpointer(
            home / "job", daemon=daemon.address, rank=0, world_size=1, rng=False, gated=True
        ) as checkpointer:
            checkpointer.register(model={"value": value})
            handle = checkpointer.save(1)
            handle.staged(60)
            assert daemon.stop() == 0, daemon.tail()
            assert handle.exception(60) is None
        checkpoint = keepstep.open(home / "job")
        assert checkpoint.step == 1
        assert np.array_equal(checkpoint.tensor("value")[:1000], value[:1000])
    finally:
        daemon.kill()
