"""torch.distributed.checkpoint's adapter hands GPU memory to the daemon as it is."""

from __future__ import annotations

from pathlib import Path

import keepstep
import pytest

from tests.device.gpus import Gpus
from tests.device.tensors import F32, expected
from tests.fake_cuda.environment import LIBRARY, MISSING

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)


def test_gpu_tensors_are_saved_and_loaded_without_a_copy_on_the_host(home: Path) -> None:
    with Gpus(home, "on") as gpus, gpus.trainer("-", "-", program="dcp_trainer") as trainer:
        assert trainer.heard() == {"differing": {"1": [], "2": []}, "untouched": True}
        saved_bytes = 0
        for step in (1, 2):
            checkpoint = keepstep.open(home / f"root/job-{step}")
            for name in ("model.w", "optim.m"):
                held = checkpoint.tensor(name)[...]
                saved_bytes += held.nbytes
                assert held.tobytes() == expected(name, held.shape, F32, step).tobytes(), name
        (worker,) = gpus.others(trainer)
        assert worker.counts["device_to_host_bytes"] >= saved_bytes, "the daemon's worker has copied both"
        trainer.finish()
