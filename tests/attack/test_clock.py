"""A wall clock that jumps by years: leases and limits are measured by the monotonic clock, "newest" goes by steps.

`jumping_clock.cc` is loaded into the daemon and the trainers, and moves the wall time that they see. The protocol
itself has no clock (daemon/logic); in tests/sim each start of a daemon finds one that has jumped.
"""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keepstep
import numpy as np
import pytest
from keepstep import reader

from tests.attack.api import LIMIT_SECONDS, tensor, write
from tests.attack.raw_session import RawSession
from tests.e2e.world import World, committed, restored
from tests.harness.daemon import BUILT, Daemon

SHIM = BUILT / "tests/attack/libjumping_clock.so"
YEARS_NS = 10 * 365 * 86_400 * 10**9
STEPS = int(os.environ.get("KEEPSTEP_CLOCK_STEPS", "30"))


class Clock:
    """The wall clock of every process that is started with `environment`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {"LD_PRELOAD": str(SHIM), "KEEPSTEP_CLOCK_FILE": str(file)}
        self.jump(0)

    def jump(self, offset_ns: int) -> None:
        """Moves it to so far from the machine's. Written in place: it is mapped."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", offset_ns))


@pytest.fixture
def clock(home: Path) -> Clock:
    return Clock(home / "clock")


@pytest.fixture
def jumpy(home: Path, clock: Clock) -> Iterator[Daemon]:
    """A daemon that a lost client may come back to for 4 s, and that waits 3 s for missing ranks."""
    with Daemon(home, "--limits-resume", "4s", "--limits-roster", "3s", environment=clock.environment) as daemon:
        yield daemon


def test_the_newest_step_is_the_newest_whatever_time_it_was_written_at(jumpy: Daemon, clock: Clock) -> None:
    directory = jumpy.root / "llama"
    weights = np.zeros(1024, np.float32)

    def checkpointer() -> keepstep.Checkpointer:
        return keepstep.Checkpointer(directory, daemon=jumpy.address, rank=0, world_size=1, rng=False,
                                     on_error="raise", keep_last=3)

    with checkpointer() as ck:
        ck.register(model={"w": weights})
        assert ck.load() is None
        for step, jump_ns in enumerate([0, YEARS_NS, -YEARS_NS, YEARS_NS, -YEARS_NS // 2], start=1):
            clock.jump(jump_ns)
            weights.fill(step)
            ck.save(step).result(60)
    assert jumpy.command("gc", "llama", "--yes").returncode == 0
    kept = reader.list_checkpoints(str(directory))
    assert [info.step for info in kept] == [3, 4, 5]
    times = [info.time_unix_ms for info in kept]
    assert times[1] - times[0] > 600_000_000_000 > 0 > times[2] - times[1], "the daemon's clock has not jumped"
    clock.jump(-YEARS_NS)
    jumpy.kill()
    jumpy.start()
    with checkpointer() as ck:
        ck.register(model={"w": weights})
        assert ck.load() == 5 and (weights == 5).all()


@pytest.mark.parametrize("jump_ns", [YEARS_NS, -YEARS_NS], ids=["forward", "back"])
def test_limits_take_as_long_as_they_say(jumpy: Daemon, clock: Clock, jump_ns: int) -> None:
    jobs = [jumpy.root / name for name in ("gone", "alone")]
    for job in jobs:
        job.mkdir()
    gone, alone = (RawSession(jumpy, job) for job in jobs)
    gone.open(rank=0, world_size=1)
    alone.open(rank=0, world_size=2)
    alone.register("half", np.zeros(64, np.uint8))
    writing = alone.api.checkpoints.Begin(alone.api.messages.BeginRequest(
        job="gone", step=1, shards=[tensor(alone.api, "w", "U8", [4])]))
    began = time.monotonic()
    gone.close()  # its process lives: it may come back
    jump = threading.Timer(1, clock.jump, [jump_ns])
    jump.start()

    missing = alone.api.error(alone.load)
    waited = time.monotonic() - began
    assert missing is not None and missing.reason == "RANKS_MISSING", missing
    assert 2.9 < waited < 20
    while "has lost its connection" in jumpy.command("why", "gone").stdout:
        waited = time.monotonic() - began
        assert waited < 30
    assert waited > 3.5
    write(alone.api, writing.attempt, "w", b"data")
    alone.api.checkpoints.Commit(alone.api.messages.CommitRequest(attempt=writing.attempt), timeout=LIMIT_SECONDS)
    jump.join()
    alone.close()


def test_a_clock_that_jumps_all_the_time_costs_nothing(
    jumpy: Daemon, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under daemon and trainers alike, the watchdog's and the connection's waits among them."""
    rng = random.Random(13)
    over = threading.Event()
    jumps = 0

    def jump() -> None:
        nonlocal jumps
        while not over.wait(0.01):
            clock.jump(rng.randint(-YEARS_NS, YEARS_NS))
            jumps += 1

    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    directory = jumpy.root / "llama"
    jumper = threading.Thread(target=jump)
    jumper.start()
    try:
        for run in range(2):
            with World(jumpy, directory, 2, STEPS) as world:
                events = world.finish()
            assert restored(events) == {(run * STEPS, "yes")}
            assert sorted(committed(events)) == sorted(2 * list(range(run * STEPS + 1, (run + 1) * STEPS + 1)))
    finally:
        over.set()
        jumper.join()
    print(f"clock: {jumps} jumps within ten years, 0 of {4 * STEPS} saves failed")
