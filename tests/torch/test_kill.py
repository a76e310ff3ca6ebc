"""SIGKILL of ranks, of the daemon, and of both, at random moments of an FSDP2 training.

Each resume starts at the newest step that any rank was told is committed, or at a newer one, holds exactly what was
there when it was saved, and goes on with the losses of a run that nobody killed. KEEPSTEP_KILLS asks for more.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.torch.nursery_client import Nursery
from tests.torch.world import environment

KILLS = int(os.environ.get("KEEPSTEP_KILLS", "20"))
RANKS = 2
LIMIT_SECONDS = 60.0


class Training:
    """Launches of one job, one after the other."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.notes = daemon.home / "notes"
        self.notes.mkdir()
        self.log = daemon.home / "ranks.log"
        self.nursery = Nursery(self.log, environment(daemon))
        self.pids: list[int] = []
        self._launches = 0

    def launch(self, last: int) -> None:
        self._launches += 1
        self.pids = [
            self.nursery.fork("tests.torch.killable", "run", folder=str(self.notes), rank=rank, size=RANKS, last=last,
                              directory=str(self.daemon.root / "job"), store=f"{self.notes}/store{self._launches}")
            for rank in range(RANKS)]

    def lines(self, name: str) -> list[list[str]]:
        """Of every rank, whole ones."""
        found: list[list[str]] = []
        for rank in range(RANKS):
            with contextlib.suppress(FileNotFoundError):
                text = (self.notes / f"{name}-{rank}").read_text()
                found += [line.split() for line in text.splitlines() if line]
        return found

    def committed(self) -> int:
        return max((int(line[0]) for line in self.lines("committed")), default=0)

    def trained(self) -> int:
        return max((int(line[0]) for line in self.lines("losses")), default=0)

    def until(self, what: str, condition: object) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():  # type: ignore[operator]
            if time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-3000:]
                pytest.fail(f"not in time: {what}\n{said}\n{self.daemon.tail()}")
            time.sleep(0.005)

    def kill(self, chance: random.Random) -> None:
        """One rank first, sometimes; all in the end."""
        for pid in chance.sample(self.pids, len(self.pids)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(chance.choice([0, 0, 0.02]))
        for pid in self.pids:
            self.until("a killed rank is gone", lambda pid=pid: not Path(f"/proc/{pid}").exists())

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nursery.close()


@pytest.fixture
def training(daemon: Daemon) -> Iterator[Training]:
    training = Training(daemon)
    yield training
    training.close()


def test_every_resume_goes_on_from_the_newest_committed_step(training: Training) -> None:
    chance = random.Random(11)
    daemon = training.daemon
    for kill in range(KILLS):
        before, resumes, trained = training.committed(), len(training.lines("resumed")), training.trained()
        training.launch(last=10**6)
        if before:
            training.until("both ranks have loaded", lambda n=resumes: len(training.lines("resumed")) >= n + RANKS)
            steps = {int(line[0]) for line in training.lines("resumed")[resumes:] if line}
            newest = [int(line[0]) for line in training.lines("resumed")]
            assert max(newest) >= before and steps, f"kill {kill}"
        training.until("it trains", lambda n=trained: training.trained() > n)
        training.until("a save is committed", lambda n=before: training.committed() > n)
        time.sleep(chance.uniform(0, 0.15))
        match kill % 20:
            case 9:  # the daemon alone: training goes on, and saves again once there is one
                daemon.kill()
                reached = training.trained()
                training.until("it trains without a daemon", lambda n=reached: training.trained() > n + 2)
                lost = training.committed()
                daemon.start()
                training.until("it saves again", lambda n=lost: training.committed() > n)
                training.kill(chance)
            case 3 | 6 | 13 | 16:  # both
                daemon.kill()
                training.kill(chance)
                daemon.start()
            case _:
                training.kill(chance)
    final = training.trained() + 4
    training.launch(last=final)
    training.until("it ends", lambda: all((training.notes / f"done-{rank}").exists() for rank in range(RANKS)))
    resumed = training.lines("resumed")
    assert len(resumed) == RANKS * KILLS and {line[1] for line in resumed} == {"right"}
    for rank in range(RANKS):
        seen: dict[str, str] = {}
        for line in (training.notes / f"losses-{rank}").read_text().splitlines():
            step, loss = line.split()
            assert seen.setdefault(step, loss) == loss, f"rank {rank}, step {step}: another loss after a resume"
        assert sorted(map(int, seen)) == list(range(1, final + 1))
    print(f"{KILLS} kills over {final} steps: every resume right, no loss differs")
