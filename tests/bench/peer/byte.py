"""ByteCheckpoint, by its FSDP2 interface on a CPU mesh. Its host memory is not pinned: there is no device."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("BYTECHECKPOINT_ENABLE_PINNED_MEM_D2H", "0")

import bytecheckpoint
import torch.distributed as dist
from bytecheckpoint.storage._storage import _local_storage_writer

from tests.bench.peer.workload import Trained


class ByteCheckpoint:
    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def state(self) -> dict[str, object]:
        return {"model": self.trained, "optimizer": self.trained.optimizer}

    def save(self, directory: Path) -> None:
        bytecheckpoint.save(str(directory), self.state(), framework="fsdp2", fast_saving=True)

    def before_update(self) -> None: ...

    def wait(self) -> None:
        """It gives no handle: what is queued for its writing threads has been written when the queues are empty."""
        for queue in _local_storage_writer._sync_queues.values():
            if queue is not None:
                queue.join()
        dist.barrier()

    def load(self, directory: Path) -> None:
        bytecheckpoint.load(str(directory), self.state(), framework="fsdp2")
        self.trained.optimizer.bind()

    def close(self) -> None: ...
