"""Items of a DCP plan as what Keepstep registers, over the same memory where that is possible."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from keepstep._registration import Spec, resolve
from keepstep.shards import Array, Box, Memory, Shape, Sharded
from keepstep.torch.dcp import names
from keepstep.torch.dcp.record import StoredChunk
from keepstep.torch.tensors import any_memory, dtype_name, local_of, memory


@dataclass(frozen=True)
class Piece:
    """One chunk of the stored tensor `name`: `array` holds the box at `origin` of a tensor of `global_shape`."""

    name: str
    array: Memory
    dtype: str
    global_shape: Shape
    origin: Shape
    fqn: str
    tensor: torch.Tensor  # whose elements they are


def plain_memory(tensor: torch.Tensor) -> Memory:
    """The tensor's own memory, on the CPU or a CUDA device, or a copy where it has none that can be read as it is."""
    local = local_of(tensor).detach()
    if local.device.type not in ("cpu", "cuda"):
        local = local.cpu()
    local = local.resolve_conj().resolve_neg()
    if any(stride == 0 and extent > 1 for stride, extent in zip(local.stride(), local.shape, strict=True)):
        local = local.contiguous()
    return any_memory(local)


def on_the_cpu(part: Piece) -> Array:
    """The piece's elements, copied where they lie elsewhere."""
    return part.array if isinstance(part.array, np.ndarray) else memory(local_of(part.tensor).detach().cpu())


def partial(plan: SavePlan) -> set[str]:
    """Tensors of which the plan, alone in the world, does not hold every element."""
    sizes: dict[str, int] = {}
    held: dict[str, int] = {}
    for item in plan.items:
        if item.type != WriteItemType.BYTE_IO and item.tensor_data is not None:
            sizes[item.index.fqn] = math.prod(item.tensor_data.size)
            held[item.index.fqn] = held.get(item.index.fqn, 0) + math.prod(item.tensor_data.chunk.sizes)
    return {fqn for fqn, size in sizes.items() if held[fqn] != size}


def place(item: WriteItem, *, own_rank: int | None, apart: bool) -> tuple[StoredChunk, Shape]:
    """Where the item's chunk is stored, and the shape of that tensor.

    `own_rank`: the tensor is that rank's affair. `apart`: the chunk is a tensor of its own.
    """
    data = item.tensor_data
    assert data is not None and data.chunk is not None
    fqn, offsets, size = item.index.fqn, tuple(data.chunk.offsets), tuple(data.size)
    if apart:
        return StoredChunk(names.own(fqn, own_rank, offsets), (0,) * len(offsets)), tuple(data.chunk.sizes)
    return StoredChunk(fqn if own_rank is None else names.own(fqn, own_rank, None), offsets), size


def piece(item: WriteItem, at: StoredChunk, global_shape: Shape, tensor: torch.Tensor) -> Piece:
    """ValueError, TypeError: what the planner gave for the item is not its chunk, or cannot be stored."""
    fqn = item.index.fqn
    assert item.tensor_data is not None
    wanted = tuple(item.tensor_data.chunk.sizes)
    try:
        array = plain_memory(tensor)
    except TypeError as error:
        raise TypeError(f"{fqn}: {error}") from None
    if array.shape != wanted:
        raise ValueError(f"{fqn}: the planner resolved a tensor of shape {array.shape} for a chunk of shape {wanted}")
    return Piece(at.name, array, dtype_name(tensor.dtype), global_shape, at.origin, fqn, tensor)


def specs(pieces: Iterable[Piece]) -> list[Spec]:
    """One registration for each stored tensor. Empty chunks of tensors that are not empty need none."""
    by_name: dict[str, list[Piece]] = {}
    for part in pieces:
        if part.array.size or not math.prod(part.global_shape):
            by_name.setdefault(part.name, []).append(part)
    return [_spec(name, parts) for name, parts in by_name.items()]


def raw(name: str, data: bytes | bytearray) -> Spec:
    """Bytes as a tensor of their own, beside model and optimizer."""
    return resolve(name, np.frombuffer(data, np.uint8), "extra")


def _spec(name: str, parts: list[Piece]) -> Spec:
    first = parts[0]
    component = names.component(first.fqn)
    if not first.array.size:
        box = Box(first.origin, first.array.shape)
        return resolve(name, Sharded(first.array, first.global_shape, boxes=(box,), dtype=first.dtype), component)
    if len(parts) == 1:
        held = Sharded(first.array, first.global_shape, origin=first.origin, dtype=first.dtype)
        return resolve(name, held, component)
    # Several chunks on one rank (ShardedTensor) lie in several allocations; a registration has one.
    packed = np.empty(sum(part.array.size for part in parts), first.array.dtype)
    boxes, at = [], 0
    for part in parts:
        packed[at : at + part.array.size] = on_the_cpu(part).ravel()
        boxes.append(Box(part.origin, part.array.shape, at * packed.itemsize))
        at += part.array.size
    return resolve(name, Sharded(packed, first.global_shape, boxes=tuple(boxes), dtype=first.dtype), component)
