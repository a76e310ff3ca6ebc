"""Every rank of a world in one process: torch's fake process group communicates with nobody, and knows its rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore


def each_rank(world_size: int) -> Iterator[int]:
    """Each rank in turn, as the default process group of this process."""
    for rank in range(world_size):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        try:
            yield rank
        finally:
            dist.destroy_process_group()
