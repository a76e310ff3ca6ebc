"""Text that every Debian machine has, as bytes, and the batches of each step.

A batch is a function of the step alone, so every layout trains on the same sequences, and a step that is run again
after a kill sees what it saw before.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

LICENCES = Path("/usr/share/common-licenses")
SEQUENCES = 12  # of one step, all ranks together: 1, 2, 3 and 4 divide it
LENGTH = 64


@functools.cache
def corpus() -> torch.Tensor:
    """Every licence once, one byte a token: uint8, some 250,000 of them."""
    files = [file for file in sorted(LICENCES.iterdir()) if file.is_file() and not file.is_symlink()]
    if not files:
        raise FileNotFoundError(f"{LICENCES} is empty; Debian's base-files package fills it")
    return torch.frombuffer(bytearray(b"\n".join(file.read_bytes() for file in files)), dtype=torch.uint8)


def batch(step: int, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of update `step`, int64 [SEQUENCES / world, LENGTH]: the share of one data-parallel rank."""
    text = corpus()
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(0, len(text) - LENGTH - 1, (SEQUENCES,), generator=generator)
    share = SEQUENCES // world
    mine = starts[rank * share : (rank + 1) * share].tolist()
    rows = torch.stack([text[start : start + LENGTH + 1] for start in mine])
    return rows[:, :-1].long(), rows[:, 1:].long()
