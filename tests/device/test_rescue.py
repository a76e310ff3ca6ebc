"""Crash flush: trainers are killed at each point, and the daemon saves what they held whole, exactly, or nothing.

What is rescued is read from the directory by Keepstep's reader and compared with what the tensors held after that step,
bit for bit, by a process that has never seen them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keepstep
import pytest

from tests.device.gpus import SECONDS, Trainer, child
from tests.device.tensors import expected
from tests.fake_cuda.counters import Counters
from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.harness.daemon import Daemon

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

FREED_SECONDS = 5.0  # docs/gpu.md


class Job:
    """A daemon, a job, and ranks that are started and killed."""

    def __init__(self, home: Path, *flags: str, daemon_faults: Sequence[str] = (), off: Sequence[str] = (),
                 d2h_gbps: float = 0) -> None:
        self.home = home
        self.directory = home / "root/job"
        self._ranks: list[int] = []
        self.counters = Counters(home / "cuda-counters")
        self.variables = environment(counters=self.counters.path, off=off)
        of_daemon = environment(counters=self.counters.path, off=off, faults=daemon_faults, d2h_gbps=d2h_gbps)
        self.daemon = Daemon(home, "--gpu", "on", *flags, environment=of_daemon)

    def __enter__(self) -> Job:
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.kill()

    @contextmanager
    def rank(self, scenario: str, layout: str = "segment", rank: int = 0, world: int = 1) -> Iterator[Trainer]:
        with child("rescue_trainer", scenario, layout, self.daemon.address, str(self.directory), str(rank), str(world),
                   variables=self.variables) as trainer:
            self._ranks.append(trainer.pid)
            yield trainer

    def log(self) -> str:
        return self.daemon.log.read_text()

    def await_log(self, text: str, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log():
            assert time.monotonic() < deadline, f"{text!r} is not in\n{self.log()}"
            time.sleep(0.01)

    def await_rescued(self, step: int) -> None:
        self.await_log(f"job/{step} was rescued")

    def mapped(self) -> int:
        """Mappings of the ranks' memory that others have."""
        return sum(process.counts["imports"] + process.counts["vmm_mappings"]
                   for process in self.counters.processes() if process.alive and process.pid not in self._ranks)

    def await_freed(self, seconds: float = FREED_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while self.mapped():
            assert time.monotonic() < deadline, self.counters.processes()
            time.sleep(0.01)

    def steps(self) -> list[int]:
        return [int(name) for name in os.listdir(self.directory) if name.isdigit()] if self.directory.exists() else []

    def check(self, step: int) -> None:
        """The newest checkpoint is of `step`, whole and exact."""
        checkpoint = keepstep.open(self.directory)
        assert checkpoint.step == step
        names = checkpoint.names()
        assert names
        for name in names:
            held = checkpoint.tensor(name)[...]
            assert held.tobytes() == expected(name, held.shape, held.dtype, step).tobytes(), name


# The record outlives the daemon, and the page that the GPU writes stays pinned where it is.
@pytest.mark.parametrize("layout", ["segment", "many"])
def test_a_new_daemon_is_handed_the_record_again(home: Path, layout: str) -> None:
    with Job(home) as job, job.rank("reconnected", layout) as trainer:
        assert trainer.heard() == "trained"
        job.daemon.kill()
        job.daemon.start()
        trainer.go_on()
        assert trainer.heard() == {"on": True, "why_not": "", "noted": 5}
        trainer.kill()
        job.await_rescued(5)
        job.check(5)
        job.await_freed()


# What each death leaves: the step that is rescued, or what the log says instead.
POINTS: dict[str, int | str] = {
    "between": 3,
    "queued": 3,
    "saving": 3,
    "unnoted": "rank 0: it had noted no step",
    "half_run": "rank 0: an update of group 0 was half run",
    "not_noted": "rank 0: group 0 had done 4 updates, its note of step 3 is of 3",
    "saved": "step 3 is saved already",
    "loaded": "rank 0: it had noted no step",
    "unordered": "rank 0: group 0 is updated without a stream",
}


@pytest.mark.parametrize("layout", ["segment", "one_each", "many"])
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_trainers_step_is_saved_exactly_or_not_at_all(home: Path, point: str, layout: str) -> None:
    left = POINTS[point]
    # Slow where the copy has to be under way when the process dies.
    with Job(home, d2h_gbps=0.05 if point == "saving" else 0) as job, job.rank(point, layout) as trainer:
        assert trainer.heard()["on"] is (point != "unordered")
        before = keepstep.open(job.directory).step if point in ("saved", "loaded") else None
        trainer.kill()
        if isinstance(left, int):
            job.await_rescued(left)
            job.check(left)
        else:
            job.await_log(f"nothing was rescued: {left}")
            if before is not None:
                assert keepstep.open(job.directory).step == before
        job.await_freed()


def test_host_memory_alone_is_saved_out_of_the_record(home: Path) -> None:
    with Job(home) as job, job.rank("between", "host") as trainer:
        assert trainer.heard() == {"on": True, "why_not": "", "noted": 3}
        trainer.kill()
        job.await_rescued(3)
        job.check(3)


# The kill lands anywhere: in an update, between its pieces, in a note, in the gate.
def test_killed_anywhere_it_is_exact_or_nothing(home: Path) -> None:
    dice = random.Random(5)
    rescued = 0
    with Job(home) as job:
        for life in range(12):
            with job.rank("running", "many") as trainer:
                assert trainer.heard()["on"]
                time.sleep(dice.uniform(0.0, 0.4))  # where it is killed, not what it waits for
                trainer.kill()
                deadline = time.monotonic() + SECONDS
                while job.log().count("was rescued") <= life:
                    assert time.monotonic() < deadline, job.log()
                    time.sleep(0.01)
                now = job.log().count("was rescued") - job.log().count("nothing was rescued")
                if now > rescued:
                    job.check(keepstep.open(job.directory).step)
                rescued = now
                job.await_freed()
    assert rescued, "no kill in twelve was rescued"


def test_all_ranks_at_one_step_are_saved_as_one(home: Path) -> None:
    with Job(home) as job, job.rank("between", rank=0, world=2) as first, job.rank("queued", rank=1, world=2) as second:
        first.heard(), second.heard()
        first.kill()
        second.kill()
        job.await_rescued(3)
        job.check(3)
        job.await_freed()


def test_ranks_at_different_steps_leave_nothing(home: Path) -> None:
    with Job(home) as job, job.rank("between", rank=0, world=2) as first, job.rank("ahead", rank=1, world=2) as second:
        first.heard(), second.heard()
        first.kill()
        second.kill()
        job.await_log("nothing was rescued: rank 0 was at step 3, the others at 4")
        assert not job.steps()
        job.await_freed()


# An open mapping keeps a dead process's memory: a rank that lives on must not keep it for ever.
def test_a_rank_that_survives_ends_the_hold(home: Path) -> None:
    with (Job(home, "--rescue-hold", "1s") as job, job.rank("between", rank=0, world=2) as first,
          job.rank("between", rank=1, world=2) as second):
        first.heard(), second.heard()
        held = job.mapped()
        first.kill()
        job.await_log("nothing was rescued: after 1 s (rescue.hold) rank 1 was still alive")
        deadline = time.monotonic() + FREED_SECONDS
        while job.mapped() >= held:
            assert time.monotonic() < deadline, job.counters.processes()
            time.sleep(0.01)
        assert not job.steps()


def test_a_rank_that_left_leaves_nothing_to_wait_for(home: Path) -> None:
    with Job(home) as job, job.rank("closed", rank=0, world=2) as first, job.rank("between", rank=1, world=2) as second:
        assert first.heard() == "closed"
        second.heard()
        second.kill()
        job.await_log("nothing was rescued: rank 0")
        job.await_freed()


def test_a_clean_close_is_no_crash(home: Path) -> None:
    with Job(home) as job, job.rank("closed") as trainer:
        assert trainer.heard() == "closed"
        job.await_freed()
        assert "rescued" not in job.log() and not job.steps()


# The new run must load the rescued step, however early it comes.
def test_a_new_run_waits_for_the_rescue(home: Path) -> None:
    with Job(home, d2h_gbps=0.02) as job, job.rank("between", "many") as trainer:
        trainer.heard()
        trainer.kill()
        with job.rank("resumed", "many") as resumed:
            assert resumed.heard() == {"step": 3, "loop": 3, "differing": []}
        job.check(3)


def test_memory_is_let_go_when_the_hold_is_over(home: Path) -> None:
    with Job(home, "--rescue-hold", "1s", d2h_gbps=0.005) as job, job.rank("between") as trainer:
        trainer.heard()
        trainer.kill()
        job.await_log("nothing was rescued: the save failed: after 1 s (rescue.hold) rank 0 had not been copied")
        job.await_freed(SECONDS)
        with pytest.raises(keepstep.KeepstepError):
            keepstep.open(job.directory)


# A fork of the trainer has its GPU's files, and the record: work that goes on behind the daemon's back.
def test_words_that_change_during_the_copy_unmake_the_rescue(home: Path) -> None:
    with Job(home, d2h_gbps=0.01) as job, job.rank("forked", "many") as trainer:
        trainer.heard()
        trainer.kill()
        job.await_log("is saved for its trainers")
        (job.directory / "go").touch()
        job.await_log("nothing was rescued: the save failed: rank 0: its memory was written to while it was copied")
        with pytest.raises(keepstep.KeepstepError):
            keepstep.open(job.directory)
        job.await_freed()


REFUSED = {
    "off": (("--rescue-enabled", "off"), (), (), "rescue.enabled"),
    "size": (("--rescue-bytes", "1MiB"), (), (), "rescue.bytes"),
    "probe": ((), ("cuMemcpyDtoHAsync:1:1",), (), "does not outlive its process"),
    "memory": ((), (), ("outliving",), "does not outlive its process"),
    "words": ((), (), ("stream_memory_operations",), "writes no words in stream order"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_where_nothing_can_be_proved_training_goes_on(home: Path, why: str) -> None:
    flags, faults, off, told = REFUSED[why]
    with Job(home, *flags, daemon_faults=faults, off=off) as job, job.rank("between") as trainer:
        heard = trainer.heard()
        assert not heard["on"] and told in heard["why_not"], heard
        trainer.kill()
        job.await_freed()
        assert not job.steps()


def test_memory_that_goes_by_the_window_is_not_promised(home: Path) -> None:
    with Job(home) as job, job.rank("between", "pool") as trainer:
        heard = trainer.heard()
        assert not heard["on"] and "goes by the window" in heard["why_not"], heard


def test_what_was_rescued_is_shown_and_what_was_not_is_explained(home: Path) -> None:
    with Job(home) as job:
        with job.rank("between") as trainer:
            trainer.heard()
            trainer.kill()
        job.await_rescued(3)
        listed = job.daemon.command("ls", str(job.directory)).stdout
        assert "rescue" in listed, listed
        shown = job.daemon.command("show", f"{job.directory}/3").stdout
        assert "tags        rescue" in shown, shown
        doctor = job.daemon.command("doctor").stdout
        assert "outlives its process" in doctor, doctor
        with job.rank("half_run") as trainer:
            trainer.heard()
            trainer.kill()
        job.await_log("half run")
        why = job.daemon.command("why", str(job.directory)).stdout
        assert "an update of group 0 was half run" in why, why
