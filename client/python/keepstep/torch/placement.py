"""From a mesh and one placement per mesh dimension to the boxes that one rank holds. Pure geometry, no torch.

1. Mesh dimensions are applied left to right; `Shard(d)` takes this coordinate's chunk of what is left of tensor
   dimension d, in chunks of ceil(n / k), so that the last ranks may hold fewer elements, or none (torch.chunk).
2. `StridedShard(d, f)` cuts what is left into f chunks and takes this coordinate's part of each: d was already cut f
   ways by mesh dimensions further right (FSDP over tensor parallelism). Where f is exactly their product, they are
   applied first: that is how FSDP2 cuts, and with uneven sizes the two orders differ.
3. `Replicate` leaves the box alone: ranks that differ in such coordinates only hold the same.

The daemon has the same rules for the mesh of a whole job (reshard/layout.h). Here each tensor has a mesh of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from keepstep.shards import Placement, Replicate, Shape, StridedShard

Interval = tuple[int, int]  # begin, size
Step = tuple[Placement, int, int]  # placement, size of its mesh dimension, this rank's coordinate in it


@dataclass(frozen=True)
class Held:
    """What one rank holds: boxes of the tensor, and where each begins in the local tensor of `local_shape`."""

    local_shape: Shape
    boxes: tuple[tuple[Shape, Shape, Shape], ...]  # origin and shape in the tensor, origin in the local tensor


def held(
    global_shape: Shape, mesh_sizes: Sequence[int], coordinate: Sequence[int], placements: Sequence[Placement]
) -> Held:
    """The boxes of the rank at `coordinate`; one box without elements where it holds none."""
    dims = []
    for dim, extent in enumerate(global_shape):
        steps = [
            (placement, size, at)
            for placement, size, at in zip(placements, mesh_sizes, coordinate, strict=True)
            if not isinstance(placement, Replicate) and placement.dim % len(global_shape) == dim
        ]
        dims.append(_apply(steps, [(0, extent)]))
    local_shape = tuple(sum(size for _, size in intervals) for intervals in dims)
    if not math.prod(local_shape):
        origin = (0,) * len(global_shape)
        return Held(local_shape, ((origin, local_shape, origin),))
    boxes = []
    for combination in itertools.product(*(_with_local_begin(intervals) for intervals in dims)):
        begins, sizes, local = zip(*combination, strict=True) if combination else ((), (), ())
        boxes.append((begins, sizes, local))
    return Held(local_shape, tuple(boxes))


def _with_local_begin(intervals: list[Interval]) -> list[tuple[int, int, int]]:
    begins = itertools.accumulate((size for _, size in intervals), initial=0)
    return [(begin, size, local) for (begin, size), local in zip(intervals, begins, strict=False)]


def _apply(steps: Sequence[Step], intervals: list[Interval]) -> list[Interval]:
    if not steps:
        return intervals
    (placement, count, at), rest = steps[0], steps[1:]
    if isinstance(placement, StridedShard):
        if placement.split_factor == math.prod(size for _, size, _ in rest):
            return _cut(_apply(rest, intervals), [_chunk(_total(_apply(rest, intervals)), count, at)])
        whole = _total(intervals)
        pieces = []
        for part in range(placement.split_factor):
            begin, size = _chunk(whole, placement.split_factor, part)
            inner, inner_size = _chunk(size, count, at)
            pieces.append((begin + inner, inner_size))
        return _apply(rest, _cut(intervals, pieces))
    return _apply(rest, _cut(intervals, [_chunk(_total(intervals), count, at)]))


def _total(intervals: list[Interval]) -> int:
    return sum(size for _, size in intervals)


def _chunk(extent: int, count: int, index: int) -> Interval:
    """Chunk `index` of `count` of a range of `extent` elements, as torch.chunk has it."""
    size = -(-extent // count)
    begin = min(extent, size * index)
    return begin, min(size, extent - begin)


def _cut(intervals: list[Interval], ranges: list[Interval]) -> list[Interval]:
    """The positions of the concatenated intervals that lie in `ranges`, which ascend; neighbours are joined."""
    result: list[Interval] = []
    for wanted, wanted_size in ranges:
        at = 0
        for begin, size in intervals:
            low, high = max(wanted - at, 0), min(wanted + wanted_size - at, size)
            if low < high:
                if result and sum(result[-1]) == begin + low:
                    result[-1] = (result[-1][0], result[-1][1] + high - low)
                else:
                    result.append((begin + low, high - low))
            at += size
    return result
