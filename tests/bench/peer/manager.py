"""torch_checkpointing: its CheckpointManager, asynchronous, updates guarded by its lock.

Its resharder gathers metadata on CUDA devices, so here each rank's items are its own. Its direct writes are not
aligned, which ext4 refuses, so here they are buffered.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch_checkpointing import CheckpointManager
from torch_checkpointing.config import AsyncCheckpointSaverConfig
from torch_checkpointing.staging import CheckpointStagerConfig
from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

from tests.bench.peer.workload import Trained


class Manager:
    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        # As its documentation says for machines without CUDA.
        staging = CheckpointStagerConfig(use_pinned_memory=False, use_non_blocking_copy=False)
        saver = AsyncCheckpointSaverConfig(staging_config=staging)
        self.manager = CheckpointManager(CheckpointManager.Config(
            save=saver, storage_config=LocalFileSystemStorageConfig(use_direct_io=False)))
        self.pending: Future[Any] | None = None

    def state(self) -> dict[str, Any]:
        """Its payload are the live tensors, by name."""
        trained = self.trained
        state = {}
        for name, parameter in trained.named_parameters():
            for key, value in trained.optimizer.state[parameter].items():
                state[f"{key}.{name}"] = value
        return {"model": trained.state_dict(), "optimizer": state}

    def save(self, directory: Path) -> None:
        self.pending = self.manager.save(str(directory), self.state())

    def before_update(self) -> None:
        with self.manager.lock():
            pass  # while a copy is under way this waits for it

    def wait(self) -> None:
        if self.pending is not None:
            self.pending.result()
            self.pending = None
        dist.barrier()

    def load(self, directory: Path) -> None:
        self.manager.load(str(directory), into=self.state())
        self.trained.optimizer.bind()

    def close(self) -> None:
        self.manager.close()
