"""Megatron-Core's dist_checkpointing: the `torch_dist` format, saved by its queue of asynchronous calls.

Each call forks a process, which has the tensors as they were; so on the CPU nothing is copied, and no update waits.
Megatron-Core asks CUDA for a device to reduce flags on and to wait for: where there is none, the CPU takes that part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from tests.bench.peer.workload import Trained


def _without_cuda() -> None:
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]


class Megatron:
    def __init__(self, trained: Trained) -> None:
        if not torch.cuda.is_available():
            _without_cuda()
        self.trained = trained
        self.queue = AsyncCallsQueue()
        # As Megatron-LM makes it with --ckpt-assume-constant-structure: plans are made once.
        self.strategy = TorchDistSaveShardedStrategy("torch_dist", 1, cached_metadata=True)

    def state(self) -> dict[str, Any]:
        """Every tensor, as this rank's share of its first dimension."""
        trained = self.trained
        place = (0, trained.rank, trained.world)
        state: dict[str, Any] = {
            name: ShardedTensor.from_rank_offsets(name, tensor, place) for name, tensor in trained.named().items()
        }
        steps = [trained.optimizer.state[parameter]["step"] for parameter in trained.parameters()]
        return {**state, "step": steps, "options": [group["lr"] for group in trained.optimizer.param_groups]}

    def save(self, directory: Path) -> None:
        if self.trained.rank == 0:
            directory.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        request = dist_checkpointing.save(
            self.state(), str(directory), self.strategy, validate_access_integrity=False, async_sharded_save=True
        )
        self.queue.schedule_async_request(request)

    def before_update(self) -> None: ...

    def wait(self) -> None:
        self.queue.maybe_finalize_async_calls(blocking=True)
        dist.barrier()

    def load(self, directory: Path) -> None:
        state = self.state()
        own = {name: value.data for name, value in state.items() if isinstance(value, ShardedTensor)}
        loaded = dist_checkpointing.load(state, str(directory), validate_access_integrity=False)
        for name, tensor in own.items():
            if loaded[name] is not tensor:
                tensor.copy_(loaded[name])

    def close(self) -> None:
        self.queue.close()
