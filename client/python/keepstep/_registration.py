"""From what the caller registered to the `ks_shard` array of one registration.

Every `Spec` keeps its array alive: the library reads and writes that memory until a later registration drops it.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keepstep import _ffi, dtypes
from keepstep.shards import (
    Array,
    Box,
    Component,
    Placement,
    Shape,
    Sharded,
    StridedShard,
    address,
    allocation,
    as_array,
    byte_bounds,
    check_strides,
)  # fmt: skip
from keepstep.shards import Shard as ShardPlacement


@dataclass(frozen=True, eq=False)
class Spec:
    """One tensor's part, resolved to memory: `data` and `data_bytes` name the buffer that `boxes` count from."""

    name: str
    source: Sharded
    array: Array
    dtype: str
    component: Component
    data: int
    data_bytes: int
    boxes: tuple[Box, ...] | None = None

    @property
    def writeable(self) -> bool:
        return bool(self.array.flags.writeable)


def resolve(name: str, value: Any, component: Component) -> Spec:
    """Checks one registered value and finds its memory. TypeError or ValueError names the tensor and what to do."""
    try:
        return _resolve(name, value, component)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _resolve(name: str, value: Any, component: Component) -> Spec:
    array = as_array(value.array if isinstance(value, Sharded) else value)
    source = value if isinstance(value, Sharded) else Sharded(array, array.shape)
    dtype = _dtype_name(source, array)
    chosen = source.component or component
    if source.boxes is not None:
        low, high = byte_bounds(array)
        return Spec(name, source, array, dtype, chosen, low, high - low, source.boxes)
    if source.flat is not None or source.placements is not None:
        if source.flat is not None:
            _check_flat(source, array)
        low, high = byte_bounds(array)
        if address(array) != low:
            raise ValueError("negative strides; register a copy of the array")
        return Spec(name, source, array, dtype, chosen, low, high - low)
    owner = allocation(array)
    low, high = byte_bounds(owner)
    origin = source.origin if source.origin is not None else (0,) * array.ndim
    if source.origin is None and array.shape != source.global_shape:
        raise ValueError(
            f"the array has shape {array.shape}, the tensor {source.global_shape}; say which part it is: "
            "origin=, boxes=, flat= or placements="
        )
    box = Box(origin, array.shape, address(array) - low if array.size else 0, check_strides(array))
    return Spec(name, source, array, dtype, chosen, low, high - low, (box,))


def _dtype_name(source: Sharded, array: Array) -> str:
    if source.dtype is None:
        return dtypes.from_numpy(array.dtype)
    # The memory of `boxes` may be one raw allocation of another dtype; elsewhere the elements are the array's.
    if source.boxes is None and dtypes.item_bytes(source.dtype) != array.itemsize:
        raise ValueError(f"dtype {source.dtype} and the array's {array.dtype} differ in size")
    return source.dtype


def _check_flat(source: Sharded, array: Array) -> None:
    assert source.flat is not None
    begin, end = source.flat
    if end - begin != array.size:
        raise ValueError(f"flat range {begin}:{end} has {end - begin} elements, the array {array.size}")
    if not array.flags.c_contiguous:
        raise ValueError("a flat range lies in contiguous memory; register a contiguous array")


def marshal(specs: Sequence[Spec]) -> tuple[Any, list[Any]]:
    """A `ks_shard` array, and what must stay alive while the library reads it."""
    shards = (_ffi.Shard * max(1, len(specs)))()
    keep: list[Any] = []
    for shard, spec in zip(shards, specs, strict=False):
        _fill(shard, spec, keep)
    return shards, keep


def _fill(shard: Any, spec: Spec, keep: list[Any]) -> None:
    source = spec.source
    shard.fqn = spec.name.encode()
    shard.dtype = spec.dtype.encode()
    shard.global_shape = _held(keep, source.global_shape)
    shard.ndim = len(source.global_shape)
    shard.component = _ffi.COMPONENTS[spec.component]
    shard.group = source.group
    shard.module_buffer = int(source.module_buffer)
    shard.data, shard.data_bytes = spec.data, spec.data_bytes
    if source.replicated_over:
        ranks = (c.c_int32 * len(source.replicated_over))(*source.replicated_over)
        keep.append(ranks)
        shard.replica_ranks, shard.replica_count = ranks, len(ranks)
    if spec.boxes is not None:
        shard.where = _ffi.BOXES
        shard.boxes, shard.box_count = _boxes(spec.boxes, keep), len(spec.boxes)
    elif source.flat is not None:
        shard.where = _ffi.FLAT
        shard.flat_begin, shard.flat_end = source.flat
        if source.flat_of is not None:
            shard.flat_origin = _held(keep, source.flat_of.origin)
            shard.flat_shape = _held(keep, source.flat_of.shape)
    else:
        assert source.placements is not None
        shard.where = _ffi.PLACED
        shard.placements, shard.placement_count = _placements(source.placements, keep), len(source.placements)
        shard.local_strides_bytes = _held(keep, spec.array.strides)


def _held(keep: list[Any], values: Shape) -> Any:
    array = _ffi.int64s(values)
    keep.append(array)
    return array


def _boxes(boxes: tuple[Box, ...], keep: list[Any]) -> Any:
    filled = (_ffi.Box * max(1, len(boxes)))()
    for target, box in zip(filled, boxes, strict=False):
        target.origin, target.shape = _held(keep, box.origin), _held(keep, box.shape)
        target.offset_bytes = box.offset_bytes
        if box.strides_bytes is not None:
            target.strides_bytes = _held(keep, box.strides_bytes)
    keep.append(filled)
    return filled


def _placements(placements: tuple[Placement, ...], keep: list[Any]) -> Any:
    filled = (_ffi.Placement * max(1, len(placements)))()
    for target, placement in zip(filled, placements, strict=False):
        if isinstance(placement, StridedShard):
            target.kind, target.tensor_dim, target.split_factor = 2, placement.dim, placement.split_factor
        elif isinstance(placement, ShardPlacement):
            target.kind, target.tensor_dim = 1, placement.dim
    keep.append(filled)
    return filled
