"""Trainers, daemons and device workers that are stopped or killed at each point of a save of GPU memory.

What must hold: a save commits what was there when it was asked for, or fails by name; nobody else waits; a dead
trainer's memory is let go within 5 s; no daemon, alive or dead, keeps a gate shut beyond the watchdog's time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keepstep
import pytest

from tests.device.gpus import LONG_SECONDS, Gpus, Trainer, until
from tests.device.tensors import F32, expected
from tests.fake_cuda.environment import LIBRARY, MISSING

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

FREED_WITHIN_SECONDS = 5.0  # docs/gpu.md
SLOW_GBPS = 0.03  # 32 MiB take a second, in four chunks
POINTS = [(point, path) for point in ("fences", "copy", "queued") for path in ("ipc", "vmm", "window")
          if (point, path) != ("queued", "window")]  # by the window the host waits


@pytest.fixture
def gpus(home: Path) -> Iterator[Gpus]:
    with Gpus(home, "on", d2h_gbps=[SLOW_GBPS, 0]) as gpus:
        yield gpus


def reach(gpus: Gpus, trainer: Trainer, point: str) -> None:
    """Returns when the trainer's save of step 2 stands at `point`."""
    assert trainer.heard() == "started"
    trainer.go_on()
    assert trainer.heard() == "there"
    if point != "fences":
        until(lambda: any(flight["stage"] == "copy" and int(flight["bytes_done"]) > 0 for flight in gpus.in_flight()),
              "the copy is under way")


def stage(gpus: Gpus) -> str:
    """Of the save of step 2."""
    (flight,) = gpus.in_flight()
    return str(flight["stage"])


def served(gpus: Gpus, job: str) -> None:
    """Another trainer saves and loads, beside whatever the first one does."""
    with gpus.trainer("round_trip", "two_gpus", job=job) as other:
        told = other.heard()
        assert told["differing"] == {"1": [], "2": []}
        other.close()


def committed(gpus: Gpus) -> int | None:
    """The newest step, which is bit for bit what the trainer had then; None: there is none."""
    checkpoint = keepstep.open(gpus.home / "root/job")
    held = checkpoint.tensor("w")[...]
    assert held.tobytes() == expected("w", held.shape, F32, checkpoint.step).tobytes(), "torn"
    return checkpoint.step


def go_through(trainer: Trainer) -> Any:
    """Lets it pass the gate; what came of step 2."""
    trainer.go_on()
    assert trainer.heard().keys() == {"gate_seconds"}
    trainer.go_on()
    return trainer.heard()


def end(gpus: Gpus, trainer: Trainer) -> None:
    """It saves once more, closes, and nothing is left of it."""
    trainer.go_on()
    assert trainer.heard()["next"] == committed(gpus)
    trainer.close()
    gpus.await_unmapped(trainer)
    trainer.finish()


@pytest.mark.parametrize(("point", "path"), POINTS)
def test_a_stopped_trainer_goes_on_and_nobody_waits_for_it(gpus: Gpus, point: str, path: str) -> None:
    with gpus.trainer(point, path, program="points") as trainer:
        reach(gpus, trainer, point)
        trainer.stop()
        served(gpus, "beside")
        # By a handle the daemon copies on; without the trainer's word for it nothing is committed.
        if point != "fences" and path != "window":
            until(lambda: stage(gpus) == "seal", "the copy is over")
        assert committed(gpus) == 1
        trainer.wake()
        assert go_through(trainer) == {"failure": None, "ran": point == "queued"}
        assert committed(gpus) == 2
        end(gpus, trainer)


@pytest.mark.parametrize(("point", "path"), POINTS)
def test_a_killed_trainers_save_is_over_and_its_memory_free(gpus: Gpus, point: str, path: str) -> None:
    with gpus.trainer(point, path, program="points") as trainer:
        reach(gpus, trainer, point)
        assert any(gpus.mapped(trainer).values()) == (path != "window")
        trainer.kill()
        gpus.await_unmapped(trainer, FREED_WITHIN_SECONDS)
        until(lambda: not gpus.in_flight(), "its save is over", FREED_WITHIN_SECONDS)
        assert committed(gpus) == 1
        served(gpus, "after")


@pytest.mark.parametrize("path", ["ipc", "vmm"])
def test_a_trainer_that_dies_between_its_copy_and_its_seal_commits_nothing(gpus: Gpus, path: str) -> None:
    with gpus.trainer("copy", path, program="points") as trainer:
        reach(gpus, trainer, "copy")
        trainer.stop()
        until(lambda: stage(gpus) == "seal", "the copy is over")
        trainer.kill()
        gpus.await_unmapped(trainer, FREED_WITHIN_SECONDS)
        until(lambda: not gpus.in_flight(), "its save is over")
        assert committed(gpus) == 1


# A trainer that stands still has bytes of its own save in staging memory, and the daemon's pool is everybody's.
@pytest.mark.parametrize("path", ["vmm", "window"])
def test_a_stopped_trainer_does_not_hold_the_pool(home: Path, path: str) -> None:
    with (Gpus(home, "on", d2h_gbps=[SLOW_GBPS, 0], arguments=["--pool-bytes", "96MiB"]) as gpus,
          gpus.trainer("fences" if path == "vmm" else "copy", path, "128", program="points") as trainer):
        reach(gpus, trainer, "fences" if path == "vmm" else "copy")
        trainer.stop()
        served(gpus, "beside")
        trainer.wake()
        assert go_through(trainer)["failure"] is None
        end(gpus, trainer)


@pytest.mark.parametrize(("point", "path"), [("copy", "ipc"), ("queued", "vmm"), ("fences", "vmm"), ("copy", "window")])
def test_a_daemon_that_dies_during_a_copy_leaves_the_gate_open(gpus: Gpus, point: str, path: str) -> None:
    with gpus.trainer(point, path, program="points") as trainer:
        reach(gpus, trainer, point)
        gpus.daemon.kill()
        trainer.go_on()
        assert trainer.heard()["gate_seconds"] < FREED_WITHIN_SECONDS
        trainer.go_on()
        assert trainer.heard() == {"failure": ["ABORTED", "DAEMON_LOST"], "ran": point == "queued"}
        gpus.daemon.start()
        assert committed(gpus) == 1
        end(gpus, trainer)


# The gate opens over a copy that goes on: what it reads is two steps' bytes, and only the verdict can say so.
@pytest.mark.parametrize("path", ["ipc", "vmm"])
def test_a_worker_that_copies_on_after_the_watchdog_commits_nothing(gpus: Gpus, path: str) -> None:
    with gpus.trainer("copy", path, program="points", progress_ms=1000, watchdog_period_ms=50) as trainer:
        reach(gpus, trainer, "copy")
        worker = gpus.worker(trainer)
        os.kill(worker, signal.SIGSTOP)
        trainer.go_on()
        assert trainer.heard()["gate_seconds"] < LONG_SECONDS
        os.kill(worker, signal.SIGCONT)
        trainer.go_on()
        assert trainer.heard()["failure"] == ["ABORTED", "DAEMON_STUCK"]
        until(lambda: not gpus.in_flight(), "the save is over")
        assert committed(gpus) == 1
        end(gpus, trainer)
