"""Registered values, checked and resolved to memory, and their way into the structs of client/keepstep.h.

A model may have 100,000 tensors, so what is done for each is little: an array that is a whole tensor needs no
description of its own, and `marshal` fills the structs column by column.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keepstep import _ffi, dtypes
from keepstep._device import DeviceArray
from keepstep.shards import (
    Array,
    Box,
    Component,
    Memory,
    Placement,
    Shape,
    Sharded,
    StridedShard,
    address,
    allocation,
    as_memory,
    byte_bounds,
    check_strides,
    is_torch,
)  # fmt: skip
from keepstep.shards import Shard as ShardPlacement

Bounds = dict[int, tuple[int, int]]  # of allocations, by identity of the array that owns them


@dataclass(eq=False)
class Spec:
    """One tensor's part, resolved to memory: `data` and `data_bytes` name the buffer that `boxes` count from."""

    name: str
    array: Memory
    dtype: str
    component: Component
    data: int
    data_bytes: int
    group: int = 0
    source: Sharded | None = None  # None: the array is the whole tensor, `offset_bytes` into its buffer
    offset_bytes: int = 0
    boxes: tuple[Box, ...] | None = None

    @property
    def writeable(self) -> bool:
        return bool(self.array.flags.writeable)

    @property
    def on_device(self) -> bool:
        """Whether it lies in the memory of a GPU."""
        return isinstance(self.array, DeviceArray)


def resolve(name: str, value: Any, component: Component, bounds: Bounds | None = None) -> Spec:
    """Checks one registered value and finds its memory. TypeError or ValueError names the tensor and what to do.

    `bounds` remembers allocations between calls, all of whose values stay alive.
    """
    try:
        if isinstance(value, Sharded):
            return _resolve(name, value, as_memory(value.array), component)
        return _resolve_whole(name, as_memory(value), component, {} if bounds is None else bounds)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _resolve_whole(name: str, array: Memory, component: Component, bounds: Bounds) -> Spec:
    dtype = _element(array)
    at = address(array)
    if not array.flags.c_contiguous:
        check_strides(array)
    elif isinstance(array, DeviceArray) or array.base is None:
        return Spec(name, array, dtype, component, at, array.nbytes)
    owner = allocation(array)
    low, high = bounds.setdefault(id(owner), byte_bounds(owner)) if id(owner) not in bounds else bounds[id(owner)]
    return Spec(name, array, dtype, component, low, high - low, offset_bytes=at - low if array.size else 0)


def _resolve(name: str, source: Sharded, array: Memory, component: Component) -> Spec:
    dtype = _dtype_name(source, array)
    chosen = source.component or component
    if source.boxes is not None:
        low, high = byte_bounds(array)
        return Spec(name, array, dtype, chosen, low, high - low, source.group, source, boxes=source.boxes)
    if source.flat is not None or source.placements is not None:
        if source.flat is not None:
            _check_flat(source, array)
        low, high = byte_bounds(array)
        if address(array) != low:
            raise ValueError("negative strides; register a copy of the array")
        return Spec(name, array, dtype, chosen, low, high - low, source.group, source)
    low, high = byte_bounds(allocation(array))
    origin = source.origin if source.origin is not None else (0,) * array.ndim
    if source.origin is None and array.shape != source.global_shape:
        raise ValueError(
            f"the array has shape {array.shape}, the tensor {source.global_shape}; say which part it is: "
            "origin=, boxes=, flat= or placements="
        )
    box = Box(origin, array.shape, address(array) - low if array.size else 0, check_strides(array))
    return Spec(name, array, dtype, chosen, low, high - low, source.group, source, boxes=(box,))


def _element(array: Memory) -> str:
    if isinstance(array, DeviceArray) and array.element is not None:
        return array.element
    return dtypes.from_numpy(array.dtype)


def _own_dtype(value: Any, array: Memory) -> str:
    if not is_torch(value):
        return _element(array)
    from keepstep.torch import dtype_name

    return dtype_name(value.dtype)


def _dtype_name(source: Sharded, array: Memory) -> str:
    if source.dtype is None:
        return _own_dtype(source.array, array)
    # The memory of `boxes` may be one raw allocation of another dtype; elsewhere the elements are the array's.
    if source.boxes is None and dtypes.item_bytes(source.dtype) != array.itemsize:
        raise ValueError(f"dtype {source.dtype} and the array's {array.dtype} differ in size")
    return source.dtype


def _check_flat(source: Sharded, array: Memory) -> None:
    assert source.flat is not None
    begin, end = source.flat
    if end - begin != array.size:
        raise ValueError(f"flat range {begin}:{end} has {end - begin} elements, the array {array.size}")
    if not array.flags.c_contiguous:
        raise ValueError("a flat range lies in contiguous memory; register a contiguous array")


def marshal(specs: Sequence[Spec]) -> tuple[Any, list[Any]]:
    """A `ks_shard` array, and what must stay alive while the library reads it."""
    packer = _Packer()
    for spec in specs:
        packer.add(spec)
    return packer.finish()


_NULL = -1
# What a row has in the fields that its tensor does not use.
_NOT_FLAT: tuple[int, int, int, int] = (_NULL, _NULL, 0, 0)
_NOT_PLACED: tuple[int, int, int] = (0, 0, _NULL)
_NO_REPLICAS: tuple[int, int] = (0, 0)
_WHOLE = (*_NOT_FLAT, *_NOT_PLACED, *_NO_REPLICAS)
_SHARD = _ffi.record(_ffi.Shard)
_BOX = _ffi.record(_ffi.Box)


class _Packer:
    """Collects the structs as rows of integers, in which a pointer is an index into a pool; `finish` lays them out."""

    def __init__(self) -> None:
        self._names: list[bytes] = []
        self._ints: list[int] = []  # the pool of every int64_t array
        self._boxes: list[tuple[int, ...]] = []
        self._rows: list[tuple[int, ...]] = []
        self._dtypes: dict[str, int] = {}  # addresses of their names
        self._shapes: dict[Shape, int] = {}
        self._keep: list[Any] = []

    def add(self, spec: Spec) -> None:
        self._names.append(spec.name.encode())
        dtype = self._dtypes.get(spec.dtype) or self._add_dtype(spec.dtype)
        memory = _ffi.CUDA if spec.on_device else _ffi.HOST
        source = spec.source
        boxes = len(self._boxes)
        if source is None:
            array, shape = spec.array, spec.array.shape
            strides = _NULL if array.flags.c_contiguous else self._pool(array.strides)
            at = self._pool(shape)
            self._boxes.append((self._pool((0,) * len(shape)), at, strides, spec.offset_bytes))
            self._rows.append(
                (dtype, at, len(shape), _ffi.COMPONENTS[spec.component], spec.group, 0, spec.data, spec.data_bytes,
                 _ffi.BOXES, boxes, 1, *_WHOLE, memory)
            )  # fmt: skip
            return
        shape = source.global_shape
        where, flat, placements, replicas = _ffi.BOXES, _NOT_FLAT, _NOT_PLACED, _NO_REPLICAS
        if spec.boxes is not None:
            for box in spec.boxes:
                strides = _NULL if box.strides_bytes is None else self._pool(box.strides_bytes)
                self._boxes.append((self._pool(box.origin), self._pool(box.shape), strides, box.offset_bytes))
        elif source.flat is not None:
            where, flat = _ffi.FLAT, self._flat(source.flat, source.flat_of)
        else:
            assert source.placements is not None
            held = _placements(source.placements)
            self._keep.append(held)
            where = _ffi.PLACED
            placements = (c.addressof(held), len(source.placements), self._pool(spec.array.strides))
        if source.replicated_over:
            ranks = (c.c_int32 * len(source.replicated_over))(*source.replicated_over)
            self._keep.append(ranks)
            replicas = (c.addressof(ranks), len(ranks))
        self._rows.append(
            (
                dtype, self._pool(shape), len(shape), _ffi.COMPONENTS[spec.component], spec.group,
                int(source.module_buffer), spec.data, spec.data_bytes, where,
                boxes, len(self._boxes) - boxes, *flat, *placements, *replicas, memory,
            )
        )  # fmt: skip

    # The fields of a row; those of _POINTERS are indices, `boxes` an index of boxes.
    _FIELDS = (
        "dtype", "global_shape", "ndim", "component", "group", "module_buffer", "data", "data_bytes", "where", "boxes",
        "box_count", "flat_origin", "flat_shape", "flat_begin", "flat_end", "placements", "placement_count",
        "local_strides_bytes", "replica_ranks", "replica_count", "memory",
    )  # fmt: skip
    _POINTERS = frozenset({"global_shape", "flat_origin", "flat_shape", "local_strides_bytes"})

    def finish(self) -> tuple[Any, list[Any]]:
        ints = np.array([*self._ints, 0], np.int64)
        boxes = np.zeros(max(1, len(self._boxes)), _BOX)
        if self._boxes:
            columns = np.array(self._boxes, np.int64).T
            for field, column in zip(("origin", "shape", "strides_bytes"), columns, strict=False):
                boxes[field] = _pointers(ints, column)
            boxes["offset_bytes"] = columns[3]
        names = np.frombuffer(b"\0".join(self._names) + b"\0", np.uint8)
        shards = np.zeros(max(1, len(self._rows)), _SHARD)
        if self._rows:
            lengths = np.fromiter(map(len, self._names), np.int64, len(self._names)) + 1
            shards["fqn"] = names.ctypes.data + np.cumsum(lengths) - lengths
            for field, column in zip(self._FIELDS, np.array(self._rows, np.int64).T, strict=True):
                shards[field] = _pointers(ints, column) if field in self._POINTERS else column
            shards["boxes"] = boxes.ctypes.data + shards["boxes"] * boxes.itemsize
        keep = [*self._keep, ints, boxes, names, shards]
        return (_ffi.Shard * len(shards)).from_buffer(shards), keep

    def _add_dtype(self, name: str) -> int:
        held = c.create_string_buffer(name.encode())
        self._keep.append(held)
        self._dtypes[name] = c.addressof(held)
        return self._dtypes[name]

    def _pool(self, values: Shape) -> int:
        """The index of these values, which equal arrays share."""
        at = self._shapes.get(values)
        if at is None:
            at = self._shapes[values] = len(self._ints)
            self._ints.extend(values)
        return at

    def _flat(self, flat: tuple[int, int], of: Box | None) -> tuple[int, int, int, int]:
        if of is None:
            return _NULL, _NULL, *flat
        return self._pool(of.origin), self._pool(of.shape), *flat


def _pointers(ints: Array, indices: Array) -> Array:
    return np.where(indices == _NULL, 0, ints.ctypes.data + indices * ints.itemsize)


def _placements(placements: tuple[Placement, ...]) -> Any:
    filled = (_ffi.Placement * max(1, len(placements)))()
    for target, placement in zip(filled, placements, strict=False):
        if isinstance(placement, StridedShard):
            target.kind, target.tensor_dim, target.split_factor = 2, placement.dim, placement.split_factor
        elif isinstance(placement, ShardPlacement):
            target.kind, target.tensor_dim = 1, placement.dim
    return filled
