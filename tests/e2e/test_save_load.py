"""Save and load through the daemon: other world sizes, both transfers, restarts, and the reader beside them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keepstep
import numpy as np
import pytest

from tests.e2e.content import SHAPES, expected
from tests.e2e.world import World, committed, restored
from tests.harness.daemon import Daemon


@pytest.mark.parametrize("transfer", ["pull", "window"])
def test_every_world_restores_what_another_saved(daemon: Daemon, home: Path, transfer: str) -> None:
    directory = home / "job"
    step = 0
    for size in (2, 1, 3):
        with World(daemon, directory, size, steps=2, transfer=transfer) as world:
            events = world.finish()
        assert restored(events) == {(step, "yes")}
        step += 2
        assert sorted(committed(events)) == sorted([step - 1, step] * size), events
    checkpoint = keepstep.open(directory)
    assert checkpoint.step == step
    for name in SHAPES:
        assert np.array_equal(checkpoint.tensor(name)[:], expected(name, step))
        assert np.array_equal(checkpoint.tensor(name)[5:7], expected(name, step)[5:7])


def test_a_pool_smaller_than_the_state_streams(home: Path) -> None:
    with Daemon(home, "--pool-bytes", str(16 << 20)) as daemon:
        with World(daemon, home / "job", 2, steps=2) as world:
            assert len(committed(world.finish())) == 4
        with World(daemon, home / "job", 1, steps=1) as world:
            assert restored(world.finish()) == {(2, "yes")}


def test_restart_with_nothing_in_flight(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "job", 2, steps=2) as world:
        world.finish()
    assert daemon.stop() == 0
    daemon.start()
    with World(daemon, home / "job", 2, steps=1) as world:
        assert restored(world.finish()) == {(2, "yes")}


def test_a_daemon_that_lost_its_catalog_rebuilds_it(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "job", 2, steps=2) as world:
        world.finish()
    daemon.stop()
    for file in (home / "state").rglob("*"):
        if file.is_file() and file.suffix in (".sst", ".log"):
            file.write_bytes(b"\0" * file.stat().st_size)
    daemon.start()
    with World(daemon, home / "job", 2, steps=1) as world:
        assert restored(world.finish()) == {(2, "yes")}
    listed = daemon.command("ls", str(home / "job"))
    assert listed.returncode == 0, listed.stderr
    assert [f"job/{step}" in listed.stdout for step in (1, 2, 3)] == [True] * 3


def test_a_rank_that_holds_nothing_takes_part(daemon: Daemon, home: Path) -> None:
    weights = np.arange(4096.0)

    def rank(number: int) -> int:
        with keepstep.Checkpointer(home / "job", daemon=daemon.address, rank=number, world_size=2, rng=False,
                                   on_error="raise") as checkpointer:
            checkpointer.register(model={"w": weights} if number == 0 else {})
            return checkpointer.save(1).result(60)

    with ThreadPoolExecutor(2) as ranks:
        assert list(ranks.map(rank, range(2))) == [1, 1]
    assert np.array_equal(keepstep.open(home / "job").tensor("w").numpy(), weights)
