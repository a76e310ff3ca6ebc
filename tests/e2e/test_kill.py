"""SIGKILL of trainers and of the daemon in the middle of saves: nothing committed is lost, nothing else is seen."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import keepstep
import numpy as np
import pytest

from tests.e2e.content import SHAPES, expected
from tests.e2e.world import World, committed, restored
from tests.harness.daemon import Daemon

MOMENTS = int(os.environ.get("KEEPSTEP_KILLS", "20"))
WORLD = 2


def check_store(directory: Path, at_least: int) -> int:
    """The newest step that a reader without daemon or library finds, every element of it compared."""
    checkpoint = keepstep.open(directory)
    assert checkpoint.step >= at_least, f"step {at_least} was reported committed, the newest is {checkpoint.step}"
    for name in SHAPES:
        assert np.array_equal(checkpoint.tensor(name)[:], expected(name, checkpoint.step)), name
    return int(checkpoint.step)


def undecided_bytes(directory: Path) -> int:
    """Bytes of attempts that a reader would not see: what an abort must give back."""
    total = 0
    for attempt in directory.glob("[0-9]*/e*-a*"):
        decision = attempt / "DECISION"
        if decision.exists() and any(attempt.glob("*.safetensors")) and any(attempt.glob("part-*")):
            continue
        total += sum(file.stat().st_size for file in attempt.glob("*.safetensors"))
    return total


def settle(daemon: Daemon, directory: Path, timeout_seconds: float = 30.0) -> None:
    """Until no attempt without a decision holds bytes any more."""
    deadline = time.monotonic() + timeout_seconds
    while undecided_bytes(directory):
        assert time.monotonic() < deadline, f"{undecided_bytes(directory)} bytes not given back\n{daemon.tail()}"
        daemon.command("status")


@pytest.mark.parametrize("victim", ["trainer", "daemon", "both"])
def test_kill_at_random_moments(home: Path, victim: str) -> None:
    rng = random.Random(f"{victim}-2")
    directory = home / "job"
    newest = 0
    daemon = Daemon(home).start()
    try:
        for _ in range(MOMENTS // 3 + 1):
            with World(daemon, directory, WORLD, steps=1000) as world:
                events = world.until(lambda event: event[1][0] == "RESTORED")
                # A few steps, then some moment within the next save.
                for _ in range(rng.randrange(1, 4)):
                    events += world.until(lambda event: event[1][0] == "COMMITTED")
                events += world.events(0)
                deadline = time.monotonic() + rng.random() * 0.05
                while time.monotonic() < deadline:
                    events += world.events(0)
                if victim != "daemon":
                    world.kill(rng.randrange(WORLD))
                if victim != "trainer":
                    daemon.kill()
                if victim == "daemon":
                    daemon.start()
                    events += world.until(lambda event: event[1][0] == "COMMITTED")  # training goes on
                world.kill()
                events += world.events(0)
            if victim == "both":
                daemon.start()
            # A save that every rank had sealed may still have been committed after the check of the round before.
            ((step, right),) = restored(events)
            assert step >= newest and right == "yes", events[:4]
            newest = check_store(directory, max([step, *committed(events)]))
        settle(daemon, directory)
        newest = check_store(directory, newest)
        with World(daemon, directory, 3, steps=1) as world:
            events = world.finish()
        assert restored(events) == {(newest, "yes")}
        assert committed(events) == [newest + 1] * 3
    finally:
        daemon.kill()
