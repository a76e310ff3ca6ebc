"""Which rank of how many this process is, when the caller does not say."""

from __future__ import annotations

import os
import sys


def rank_and_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """What the caller gave, else what torch.distributed says once it is set up, else $RANK and $WORLD_SIZE."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        known = distributed.get_rank(), distributed.get_world_size()
    else:
        known = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return known[0] if rank is None else rank, known[1] if world_size is None else world_size
