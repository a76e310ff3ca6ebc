"""Runs that overlap: dead ones whose saves still commit, hung ones that wake up, ones that only look.

What must hold: no rank sees another step than its peers, and nobody is aborted who did nothing wrong.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keepstep
import numpy as np

from tests.attack.api import LIMIT_SECONDS, Api
from tests.attack.raw_session import COMMITTED, SNAPSHOTTED, RawSession
from tests.e2e.world import World, committed, restored
from tests.harness.daemon import Daemon

SIZE = 8 << 20
ROUNDS = int(os.environ.get("KEEPSTEP_EPOCHS", "6"))


class Rank:
    """Rank r of two, with a half of the state each: every byte is the step."""

    def __init__(self, daemon: Daemon, directory: Path, rank: int) -> None:
        self.session = RawSession(daemon, directory)
        self.rank = rank
        self.values = np.zeros(SIZE, np.uint8)

    def open(self) -> None:
        self.session.open(rank=self.rank, world_size=2)
        self.session.register(f"half{self.rank}", self.values)

    def save(self, number: int, step: int) -> None:
        """Saves and seals; does not wait for the commit."""
        self.values[:] = step
        self.session.save(number, step)
        self.session.wait(number, SNAPSHOTTED)
        self.session.seal(number)

    def load(self) -> tuple[int, bool]:
        """The step, and whether every byte is right."""
        report = self.session.load()
        return report.step, bool(np.all(self.values == report.step))


def both(ranks: list[Rank], work: Any) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, ranks))


def test_a_dead_runs_save_that_commits_between_two_restores_is_seen_by_both_or_none(
    daemon: Daemon, home: Path
) -> None:
    """The old run has sealed and died; its save becomes durable while the new run's ranks ask one after the other."""
    rng = random.Random(31)
    directory = home / "job"
    directory.mkdir()
    newest, steps = 0, []
    for round_ in range(ROUNDS):
        old = [Rank(daemon, directory, rank) for rank in range(2)]
        both(old, lambda rank: rank.open())
        step = newest + 1
        both(old, lambda rank, step=step: rank.save(1, step))
        for rank in old:
            rank.session.goodbye()
        new = [Rank(daemon, directory, rank) for rank in range(2)]
        time.sleep(rng.random() * 0.02)

        def restore(rank: Rank, round_: int = round_) -> tuple[int, bool]:
            rank.open()
            if rank.rank == round_ % 2:  # the later one, anywhere in the other's restore
                time.sleep(rng.random() * 0.05)
            return rank.load()

        seen = both(new, restore)
        assert seen[0] == seen[1] and seen[0][1], f"round {round_}: {seen}"
        assert seen[0][0] in (newest, step)
        newest = seen[0][0]
        steps.append(newest)
        for rank in [*old, *new]:
            rank.session.goodbye()
            rank.session.close()
    print(f"\na dead run's save between two restores: 0 of {ROUNDS} split ({steps}); rate ≤ {3 / ROUNDS:.2g}")


def test_a_hung_rank_that_wakes_up_cannot_touch_the_new_run(daemon: Daemon, home: Path) -> None:
    """SIGSTOP, a new run takes over and trains, SIGCONT: the old rank is told, the job is as the new run left it."""
    directory = home / "job"
    with World(daemon, directory, 2, steps=1000) as old:
        old.until(lambda event: event[1][0] == "COMMITTED")
        hung = old.processes[1]
        os.kill(hung.pid, signal.SIGSTOP)
        old.kill(0)
        with World(daemon, directory, 2, steps=2) as new:
            events = new.finish()
        ((start, right),) = restored(events)
        assert right == "yes" and sorted(committed(events)) == sorted([start + 1, start + 2] * 2)
        before = keepstep.open(directory)
        os.kill(hung.pid, signal.SIGCONT)
        assert hung.wait(LIMIT_SECONDS) != 0
        assert "STALE_EPOCH" in old.log.read_text() or "taken" in old.log.read_text(), old.log.read_text()[-2000:]
    after = keepstep.open(directory)
    assert (after.step, after.info.attempt) == (before.step, before.info.attempt) == (start + 2, before.info.attempt)


# ---- one process after the other


class Run:
    """A world of one, whose state is every element equal to a value."""

    def __init__(self, daemon: Daemon, directory: Path, **options: Any) -> None:
        self.values = np.zeros(1000, np.float32)
        self.checkpointer = keepstep.Checkpointer(
            directory, daemon=daemon.address, rank=0, world_size=1, rng=False, **options
        )
        self.checkpointer.register(model={"t": self.values})

    def save(self, step: int, value: float) -> None:
        self.values.fill(value)
        self.checkpointer.save(step).result(LIMIT_SECONDS)

    def load(self, step: Any = "latest") -> tuple[int | None, float]:
        return self.checkpointer.load(step), float(self.values[0])

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpointer.close(LIMIT_SECONDS)


def latest(daemon: Daemon, directory: Path) -> tuple[int, float]:
    """By the reader alone, which must agree with the daemon."""
    with Api(daemon.address) as api:
        get = api.messages.GetRequest(name={"job": str(directory), "latest": True})
        told = api.checkpoints.Get(get, timeout=LIMIT_SECONDS).decision
    stored = keepstep.open(directory)
    assert (stored.step, stored.info.attempt) == (told.step, told.attempt)
    return stored.step, float(stored.tensor("t")[0])


def test_saving_a_step_again_after_going_back_makes_the_new_branch_the_latest(daemon: Daemon) -> None:
    directory = daemon.root / "job"
    with Run(daemon, directory) as first:
        for step in (1, 2, 3):
            first.save(step, step)
    with Run(daemon, directory) as second:
        assert second.load(1) == (1, 1.0)
        assert latest(daemon, directory) == (3, 3.0)
        second.save(2, 20.0)
        assert latest(daemon, directory) == (2, 20.0)
    with Run(daemon, directory) as third:
        assert third.load() == (2, 20.0)
        assert third.load(3) == (3, 3.0)  # the old branch is still there


def test_a_debug_run_that_loads_an_old_step_and_exits_changes_nothing(daemon: Daemon) -> None:
    directory = daemon.root / "job"
    with Run(daemon, directory) as first:
        for step in (1, 2, 3):
            first.save(step, step)
    for old in (1, 2):
        with Run(daemon, directory) as debug:
            assert debug.load(old) == (old, float(old))
        assert latest(daemon, directory) == (3, 3.0)
    with Run(daemon, directory) as next_:
        assert next_.load() == (3, 3.0)


def test_an_evaluation_beside_the_training_claims_nothing_and_aborts_nobody(daemon: Daemon) -> None:
    directory = daemon.root / "job"
    stop = threading.Event()
    seen: list[tuple[int | None, float]] = []

    def evaluate(number: int) -> None:
        while not stop.is_set():
            with Run(daemon, directory, read_only=True, run=f"{number}-{len(seen)}") as reader:
                seen.append(reader.load())

    with Run(daemon, directory) as trainer, ThreadPoolExecutor(2) as readers:
        trainer.save(1, 1)
        claims = sorted(path.name for path in (directory / "epochs").iterdir())
        running = [readers.submit(evaluate, number) for number in range(2)]
        for step in range(2, 22):
            trainer.save(step, step)  # raises if anything of it fails
        stop.set()
        for each in running:
            each.result()
        assert sorted(path.name for path in (directory / "epochs").iterdir()) == claims
        trainer.save(30, 30)
    assert len(seen) > 4 and all(step == value for step, value in seen), seen
    assert len({step for step, _ in seen}) > 1, "the readers never met a new step"
    print(f"\nevaluations beside training: {len(seen)} loads, 0 torn, 20 of 20 saves committed, no epoch claimed")


def test_a_run_killed_while_it_starts_leaves_the_next_ones_ranks_together(daemon: Daemon, home: Path) -> None:
    rng = random.Random(32)
    directory = home / "job"
    directory.mkdir()
    first = [Rank(daemon, directory, rank) for rank in range(2)]
    both(first, lambda rank: rank.open())
    both(first, lambda rank: rank.save(1, 7))
    assert [rank.session.wait(1, COMMITTED).state for rank in first] == [COMMITTED] * 2
    for rank in first:
        rank.session.goodbye()
    tries = 12
    for _ in range(tries):
        starting = [Rank(daemon, directory, rank) for rank in range(2)]
        threads = [threading.Thread(target=quietly, args=(rank,), daemon=True) for rank in starting]
        for thread in threads:
            thread.start()
            time.sleep(rng.random() * 0.01)
        for rank in starting:  # whatever each has reached
            rank.session.goodbye()
        ranks = [Rank(daemon, directory, rank) for rank in range(2)]

        def restore(rank: Rank) -> tuple[int, bool]:
            rank.open()
            return rank.load()

        assert both(ranks, restore) == [(7, True)] * 2
        for rank in [*starting, *ranks]:
            rank.session.goodbye()
            rank.session.close()
        for thread in threads:
            thread.join(LIMIT_SECONDS)
    print(f"\nruns killed while they start: 0 of {tries} next runs split or aborted")


def quietly(rank: Rank) -> None:
    """What a rank does at its start, however far it comes."""
    rank.session.api.error(lambda: (rank.open(), rank.load()))
