"""What a rank holds of one named parameter, so that whatever is laid out like it can be described like it.

An optimizer keeps tensors that are laid out as their parameter is (`exp_avg`), and small ones that every holder of the
parameter keeps whole (`step`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.distributed.tensor import DTensor

from keepstep.shards import Shape, Sharded
from keepstep.torch.replication import Holders, Ranks
from keepstep.torch.tensors import flat_shard, local_of, shard


class Part(Protocol):
    """One parameter's part on this rank."""

    @property
    def name(self) -> str:
        """The registered name."""

    def describe(self, tensor: torch.Tensor, **options: Any) -> Sharded | None:
        """The parameter itself, or a tensor of its optimizer state; None: this rank holds nothing of it.

        ValueError: it is laid out neither as the parameter nor as one small tensor.
        """


@dataclass(frozen=True)
class TensorPart:
    """A plain parameter or a DTensor."""

    name: str
    parameter: torch.Tensor
    holders: Holders

    def describe(self, tensor: torch.Tensor, **options: Any) -> Sharded | None:
        if isinstance(tensor, DTensor):
            return shard(tensor, replicated_over=self.holders.of(tensor), **options)
        if not isinstance(self.parameter, DTensor):
            return shard(tensor, replicated_over=self.holders.whole(), **options)
        if tensor.dim() and tensor.shape == local_of(self.parameter).shape:
            over = self.holders.of(self.parameter)
            return shard(self.parameter, memory_of=tensor, replicated_over=over, **options)
        if tensor.numel() == 1:
            return shard(tensor, replicated_over=self.holders.whole(), **options)
        raise ValueError(
            f"a plain tensor of shape {tuple(tensor.shape)} beside a parameter that is a DTensor of local shape "
            f"{tuple(local_of(self.parameter).shape)}: which part of what it is nobody says"
        )


@dataclass(frozen=True)
class FlatPart:
    """A range of a parameter's flattening that lies at `offset` of a flat local tensor of `local_size` elements."""

    name: str
    shape: Shape
    begin: int
    size: int
    offset: int
    local_size: int
    replicas: Ranks  # of the range
    holders: Ranks  # of any range of the parameter: they keep its small state whole

    def describe(self, tensor: torch.Tensor, **options: Any) -> Sharded | None:
        if tensor.dim() and tensor.numel() == self.local_size:
            if not self.size:
                return None
            held = tensor.detach().view(-1)[self.offset : self.offset + self.size]
            return flat_shard(held, self.shape, self.begin, replicated_over=self.replicas, **options)
        if tensor.numel() == 1:
            return shard(tensor, replicated_over=self.holders, **options) if self.size else None
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} beside a flat parameter of {self.local_size} elements: which "
            "part of what it is nobody says"
        )
