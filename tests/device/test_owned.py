"""GPU memory that the daemon owns and lends: allocated, saved, loaded, freed; and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.device.gpus import Gpus, Trainer
from tests.device.owned import POOL, await_pieces, pieces_held
from tests.fake_cuda.environment import LIBRARY, MISSING, environment

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)


def owning(home: Path) -> Gpus:
    """A daemon that owns memory, of GPUs whose new memory is not clean."""
    return Gpus(home, "on", arguments=POOL, dirty=True)


@contextmanager
def trainer_of(gpus: Gpus, scenario: str, layout: str = "owned") -> Iterator[Trainer]:
    with gpus.trainer(scenario, layout, program="owned_trainer") as trainer:
        yield trainer


@pytest.mark.parametrize("layout", ["owned", "owned_mixed"])
def test_owned_memory_is_saved_and_restored_and_freed_with_the_client(home: Path, layout: str) -> None:
    with owning(home) as gpus, trainer_of(gpus, "round_trip", layout) as trainer:
        told = trainer.heard()
        assert told["differing"] == {"1": [], "2": []}
        assert told["paths"] == {"owned": "host by pull; 3 allocations by vmm",
                                 "owned_mixed": "host by window; 6 allocations by ipc, 12 by vmm, 2 by window"}[layout]
        assert pieces_held(gpus) == {"owned": 3, "owned_mixed": 3 + 9}[layout], "and the segment's"
        trainer.close()
        await_pieces(gpus, 0)
        gpus.await_unmapped(trainer)
        trainer.finish()


def test_a_killed_trainers_owned_memory_is_freed(home: Path) -> None:
    with owning(home) as gpus, trainer_of(gpus, "round_trip", "owned") as trainer:
        trainer.heard()
        assert pieces_held(gpus) == 3
        trainer.kill()
        gpus.await_unmapped(trainer, seconds=5.0)
        await_pieces(gpus, 0)


# Another daemon has no descriptor of it: it gets one, and the memory is the trainer's own from then on.
def test_a_restarted_daemon_is_handed_what_the_last_one_owned(home: Path) -> None:
    with owning(home) as gpus, trainer_of(gpus, "restarted", "owned") as trainer:
        assert trainer.heard() == "saved"
        gpus.daemon.kill()
        gpus.daemon.start()
        trainer.go_on()
        told = trainer.heard()
        assert told == {"differing": {"False": [], "True": []}, "paths": "host by pull; 3 allocations by vmm"}
        trainer.close()
        gpus.await_unmapped(trainer)
        trainer.finish()


def refused(gpus: Gpus, *wishes: tuple[int, int]) -> list[str]:
    """What a trainer is told that asks for (GPU, bytes): a reason, or "" where it got memory that works."""
    with trainer_of(gpus, "allocates", ",".join(f"{device}:{size}" for device, size in wishes)) as trainer:
        told: list[str] = trainer.heard()
        trainer.close()
        trainer.finish()
        return told


def test_what_cannot_be_had_is_refused_by_name(home: Path) -> None:
    with owning(home) as gpus:
        whole = 64 << 20
        wishes = [(0, 0), (0, -1), (0, whole + 1), (5, 4096), (-1, 4096), (0, whole), (0, 1), (1, whole), (1, 2**62)]
        assert refused(gpus, *wishes) == ["BAD_ALLOCATION", "BAD_ALLOCATION", "GPU_POOL_FULL", "BAD_ARGUMENT",
                                          "BAD_ARGUMENT", "", "GPU_POOL_FULL", "", "GPU_POOL_FULL"]
        await_pieces(gpus, 0)
        assert refused(gpus, (0, whole)) == [""], "another process has all of it once the first is gone"


@pytest.mark.parametrize(("use", "reason"), [("on", "GPU_POOL_OFF"), ("off", "GPU_OFF")])
def test_a_daemon_that_owns_none_says_so(home: Path, use: str, reason: str) -> None:
    with Gpus(home, use) as gpus:
        assert refused(gpus, (0, 4096)) == [reason]


# The daemon's worker calls the same functions; the fault is the trainer's alone.
MAPPING = ("cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess")


@pytest.mark.parametrize("call", MAPPING)
def test_a_trainer_whose_driver_does_not_map_it_has_nothing_left_of_it(home: Path, call: str) -> None:
    with owning(home) as gpus:
        gpus.variables = environment(counters=gpus.counters.path, faults=[f"{call}:1:1"])
        assert refused(gpus, (0, 60 << 20), (0, 60 << 20)) == ["DEVICE_ERROR", ""]
        await_pieces(gpus, 0)


def test_freed_and_asked_for_again_for_ever(home: Path) -> None:
    with owning(home) as gpus, trainer_of(gpus, "frees", "owned") as trainer:
        assert trainer.heard() == {"wrong": []}
        assert pieces_held(gpus) == 3
        assert len(os.listdir(f"/proc/{gpus.daemon.pid}/fd")) < 400
        trainer.close()
        await_pieces(gpus, 0)
        trainer.finish()


# As PyTorch's CUDAPluggableAllocator calls them.
def test_an_allocator_that_knows_no_client(home: Path) -> None:
    with owning(home) as gpus, trainer_of(gpus, "pool") as trainer:
        assert trainer.heard() == "open"
        assert pieces_held(gpus) == 2
        trainer.close()
        await_pieces(gpus, 0)
        trainer.finish()
