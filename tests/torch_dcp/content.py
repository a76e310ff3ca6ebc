"""States whose every element is known, in several layouts of the same global tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

SHAPES: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "even": ((8, 12), torch.float32),
    "uneven": ((7, 5), torch.bfloat16),
    "short": ((2, 6), torch.float16),  # fewer rows than ranks: some hold nothing
    "vector": ((13,), torch.int64),
    "scalar": ((), torch.float32),
    "eighth": ((16, 4), torch.float8_e4m3fn),
    "truth": ((9,), torch.bool),
    "nothing": ((0, 4), torch.float32),
}
LAYOUTS = {  # mesh over ranks, and one placement per mesh dimension
    "2x2": ((2, 2), (Shard(0), Shard(1))),
    "rows": ((4,), (Shard(0),)),
    "columns": ((4,), (Shard(1),)),
    "hybrid": ((2, 2), (Replicate(), Shard(0))),
    "replicated": ((4,), (Replicate(),)),
    "twice": ((2, 2), (Shard(0), Shard(0))),
    "pair": ((2,), (Shard(0),)),  # ranks 0 and 1 alone
}


def whole(name: str, seed: int) -> torch.Tensor:
    """The global tensor: a pattern of its name and seed, in every bit."""
    shape, dtype = SHAPES[name]
    generator = torch.Generator().manual_seed(seed * 1000 + sum(name.encode()))
    count = math.prod(shape)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_floating_point and dtype.itemsize > 1:
        return torch.randn(count, generator=generator).to(dtype).reshape(shape)
    values = torch.randint(0, 120, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8)
    return values.view(dtype).reshape(shape)


def mesh_of(layout: str) -> DeviceMesh:
    """The layout's mesh; every rank of the world calls this."""
    sizes, _ = LAYOUTS[layout]
    if layout == "pair":
        return DeviceMesh("cpu", [0, 1])
    return init_device_mesh("cpu", sizes)


def sharded(layout: str, seed: int | None, mesh: DeviceMesh) -> dict[str, torch.Tensor]:
    """Every tensor as a DTensor of this layout, or as zeros of it where `seed` is None."""
    _, placements = LAYOUTS[layout]
    state: dict[str, torch.Tensor] = {}
    for name, (shape, dtype) in SHAPES.items():
        full = torch.zeros(shape).to(dtype) if seed is None else whole(name, seed)
        wanted = tuple(_fitting(placement, len(shape)) for placement in placements)
        state[name] = distribute_tensor(full, mesh, wanted, src_data_rank=None)  # every rank has it all
    return state


def wrong(layout: str, seed: int, state: dict[str, torch.Tensor], mesh: DeviceMesh) -> list[str]:
    """Names of tensors of which this rank does not hold exactly what it should."""
    expected = sharded(layout, seed, mesh)
    return [name for name in SHAPES if not same(state[name], expected[name])]


def same(one: Any, other: Any) -> bool:
    """Whether two tensors hold the same bits on this rank."""
    if isinstance(one, DTensor):
        one, other = one.to_local(), other.to_local()
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def _fitting(placement: Placement, ndim: int) -> Placement:
    if isinstance(placement, Shard):
        return Replicate() if ndim == 0 else Shard(min(placement.dim, ndim - 1))
    return placement
