"""A driver that fails in the daemon's worker, seen by the trainer: one save fails by name, the next one is committed.

Which calls there are, and what each of them does to the worker, is in daemon/device/driver_faults_test.cc.
"""

from __future__ import annotations

from pathlib import Path

import keepstep
import pytest

from tests.device.gpus import Gpus
from tests.fake_cuda.environment import LIBRARY, MISSING

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

FAULTS = {
    "a copy that CUDA refuses": ("cuMemcpyDtoHAsync:3:1:once", "DEVICE_ERROR", "cuMemcpyDtoHAsync"),
    "an event that cannot be opened": ("cuIpcOpenEventHandle:1:1:once", "DEVICE_ERROR", "cuIpcOpenEventHandle"),
    "an error that ends the context": ("cuMemcpyDtoHAsync:3:700:once", "DEVICE_LOST", "CUDA_ERROR_ILLEGAL_ADDRESS"),
    "a lost GPU": ("cuEventQuery:1:702:once", "DEVICE_LOST", "702"),
}
OF_A_TENSOR = {name for name, (fault, _, _) in FAULTS.items() if "Memcpy" in fault}


@pytest.mark.parametrize("name", FAULTS)
def test_a_driver_that_fails_costs_one_save(home: Path, name: str) -> None:
    fault, reason, named = FAULTS[name]
    with Gpus(home, "on", faults=[fault]) as gpus, gpus.trainer("faulty", "segment") as trainer:
        told = trainer.heard()
        ((code, found, rank, text),) = told["failures"]
        assert (code, found, rank) == ("ABORTED", reason, 0), text
        assert "GPU-" in text and named in text
        assert ("w0" in text) == (name in OF_A_TENSOR), text
        assert told["differing"] == [] and told["step"] == told["last"] == keepstep.open(home / "root/job").step
        with gpus.trainer("round_trip", "mixed", job="other") as other:
            assert other.heard()["differing"] == {"1": [], "2": []}
            other.close()
        trainer.close()
        gpus.await_unmapped(trainer)
        trainer.finish()
