"""Orbax, asynchronous. It shards by JAX's arrays alone, so that each rank saves its tensors as a program of its own."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import torch

from tests.bench.peer.workload import Trained


def view(tensor: torch.Tensor) -> np.ndarray:  # type: ignore[type-arg]
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


class Orbax:
    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())

    def state(self) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return {name: view(tensor) for name, tensor in self.trained.named().items()}

    def _path(self, directory: Path) -> Path:
        return directory / f"rank{self.trained.rank}"

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.checkpointer.save(self._path(directory), args=ocp.args.PyTreeSave(self.state()))

    def before_update(self) -> None: ...

    def wait(self) -> None:
        self.checkpointer.wait_until_finished()

    def load(self, directory: Path) -> None:
        target = self.state()
        stored = self.checkpointer.restore(self._path(directory), args=ocp.args.PyTreeRestore(
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in target}))
        for name, array in target.items():
            np.copyto(array, stored[name])

    def close(self) -> None:
        self.checkpointer.close()
