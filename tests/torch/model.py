"""A tiny model in the shape of a transformer, with dropout, and a buffer that forward changes."""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY, WIDTH, HIDDEN = 13, 8, 12


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.dropout(self.down(self.up(self.norm(x)).relu()), self.dropout, self.training)


class Tiny(nn.Module):
    """`parts`: which children this pipeline stage keeps; the names stay those of the whole model."""

    def __init__(
        self, parts: tuple[str, ...] = ("emb", "0", "1", "norm", "head"), dropout: float = 0.1
    ) -> None:
        super().__init__()
        if "emb" in parts:
            self.emb = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleDict({name: Block(dropout) for name in ("0", "1") if name in parts})
        if "head" in parts:
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
            self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.emb(x) if hasattr(self, "emb") else x
        for layer in self.layers.values():
            x = layer(x)
        if hasattr(self, "head"):
            self.seen += 1
            x = self.head(self.norm(x))
        return x


def tokens(step: int, rank: int = 0) -> torch.Tensor:
    """The batch of a step: the same wherever the step is run."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randint(0, VOCABULARY, (4, 6), generator=generator)
