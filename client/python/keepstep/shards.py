"""How a program says which part of a global tensor an array holds. Pure values; nothing here talks to a daemon.

A plain array (or buffer) in `Checkpointer.register` is a whole tensor. Everything else is a `Sharded`, best made by

    piece(w_local, (384, 384), np.s_[:, 0:96])          this rank holds columns 0:96 of a 384 × 384 tensor
    flat(m_local, (384, 384), begin=36864)              … a range of its row-major flattening (ZeRO, FSDP)
    pieces((3072, 384), [(np.s_[0:96], gate), (np.s_[1536:1632], up)])   … several boxes, views of one allocation
    replica(bias, ranks=range(4))                       … the same content on ranks 0 to 3
    placed(w_local, (384, 384), [Replicate(), Shard(1)])  … as the mesh of the Checkpointer places it

Indices are half-open; every length is in elements unless its name ends in `_bytes`.
"""

from __future__ import annotations

import ctypes as c
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from keepstep import dtypes
from keepstep._device import DeviceArray, device_array, is_device_array

Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = npt.NDArray[Any]
Memory: TypeAlias = "Array | DeviceArray"  # of this process, or of a GPU
Component: TypeAlias = Literal["model", "optimizer", "extra"]
Index: TypeAlias = "slice | tuple[slice | int, ...] | int"


@dataclass(frozen=True)
class Box:
    """A hyper-rectangle of a tensor, and where it lies in the local array: `strides_bytes` None is row-major."""

    origin: Shape
    shape: Shape
    offset_bytes: int = 0
    strides_bytes: Shape | None = None


@dataclass(frozen=True)
class Replicate:
    """This mesh dimension holds the tensor whole, everywhere."""


@dataclass(frozen=True)
class Shard:
    """This mesh dimension splits dimension `dim` of the tensor in even chunks; the last ones may be short or empty."""

    dim: int


@dataclass(frozen=True)
class StridedShard:
    """As PyTorch's `_StridedShard`: split after a right-hand mesh dimension has split the same `dim` already."""

    dim: int
    split_factor: int


Placement: TypeAlias = Replicate | Shard | StridedShard


@dataclass(frozen=True, eq=False)
class Sharded:
    """An array and the part of a global tensor that it holds: at most one of origin, boxes, flat, placements.

    None of them: the array is the whole tensor. `flat` is (begin, end) in the flattening of `flat_of`, a box, or of the
    whole tensor. `replicated_over` names every rank that holds this same content, this one included. Tensors that one
    update changes share a `group` (0 to 255). `dtype` names the element type where NumPy lacks it ("BF16").
    """

    array: Any
    global_shape: Shape
    origin: Shape | None = None
    boxes: tuple[Box, ...] | None = None
    flat: tuple[int, int] | None = None
    flat_of: Box | None = None
    placements: tuple[Placement, ...] | None = None
    replicated_over: tuple[int, ...] = ()
    component: Component | None = None
    group: int = 0
    module_buffer: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("origin", "boxes", "flat", "placements") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}, not both")
        if self.placements is not None and self.replicated_over:
            raise ValueError("replicas follow from placements; leave replicated_over out")
        if self.flat_of is not None and self.flat is None:
            raise ValueError("flat_of says which box is flattened; give flat=(begin, end) too")
        if not 0 <= self.group <= 255:
            raise ValueError(f"group {self.group} is outside 0..255")


def _bounds(index: Index, global_shape: Shape) -> tuple[Shape, Shape]:
    """Origin and shape of a basic index with step 1. An int keeps its dimension, with extent 1."""
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > len(global_shape):
        raise IndexError(f"{len(parts)} indices for a tensor of shape {global_shape}")
    origin, shape = [], []
    for dim, extent in enumerate(global_shape):
        part = parts[dim] if dim < len(parts) else slice(None)
        if isinstance(part, slice):
            begin, end, step = part.indices(extent)
            if step != 1:
                raise IndexError("a piece is contiguous in the tensor's coordinates: slices have step 1")
        else:
            begin, end = part, part + 1
            if not 0 <= begin < extent:
                raise IndexError(f"index {begin} is outside dimension {dim} of extent {extent}")
        origin.append(begin)
        shape.append(max(0, end - begin))
    return tuple(origin), tuple(shape)


def piece(array: Any, global_shape: Sequence[int], index: Index, **options: Any) -> Sharded:
    """`array` holds `tensor[index]`; its shape must be that of the index. Options are fields of Sharded."""
    shape = tuple(global_shape)
    origin, extent = _bounds(index, shape)
    local = as_memory(array).shape
    if local != extent:
        raise ValueError(f"the index selects shape {extent} of {shape}, the array has shape {local}")
    return Sharded(array, shape, origin=origin, **options)


def pieces(global_shape: Sequence[int], views: Iterable[tuple[Index, Array]], **options: Any) -> Sharded:
    """Several boxes of one tensor, each a view of one allocation (fused weights under tensor parallelism).

    Of host memory; for a GPU's, give `Sharded` the allocation and its `boxes`.
    """
    shape = tuple(global_shape)
    listed = list(views)
    if not listed:
        raise ValueError("pieces() needs at least one (index, view)")
    base = allocation(listed[0][1])
    low, _ = byte_bounds(base)
    boxes = []
    for index, view in listed:
        if allocation(view) is not base:
            raise ValueError("the views lie in different allocations; make them slices of one array")
        origin, extent = _bounds(index, shape)
        if view.shape != extent:
            raise ValueError(f"the index selects shape {extent} of {shape}, its view has shape {view.shape}")
        boxes.append(Box(origin, extent, address(view) - low, check_strides(view)))
    options.setdefault("dtype", dtypes.from_numpy(listed[0][1].dtype))
    return Sharded(base, shape, boxes=tuple(boxes), **options)


def flat(array: Any, global_shape: Sequence[int], begin: int, *, of: Index | None = None, **options: Any) -> Sharded:
    """`array` holds elements begin … begin + size of the row-major flattening of the tensor, or of its box `of`."""
    shape = tuple(global_shape)
    box = None if of is None else Box(*_bounds(of, shape))
    return Sharded(array, shape, flat=(begin, begin + as_memory(array).size), flat_of=box, **options)


def replica(array: Any, ranks: Iterable[int], *, of: Sharded | None = None, **options: Any) -> Sharded:
    """The same content on every one of `ranks`: a whole tensor, or the part that `of` describes."""
    over = tuple(sorted(set(ranks)))
    if of is not None:
        return replace(of, replicated_over=over, **options)
    if is_torch(array):
        return _replica_of_torch(array, over, **options)
    return Sharded(array, as_memory(array).shape, replicated_over=over, **options)


def _replica_of_torch(value: Any, ranks: tuple[int, ...], **options: Any) -> Sharded:
    from keepstep.torch import tensors

    if not hasattr(value, "data_ptr"):
        raise TypeError(f"a {type(value).__name__} holds many tensors: register(..., replicated={list(ranks)})")
    told = tensors.shard(value, replicated_over=ranks, **options)
    if told is None:
        raise ValueError("this rank is outside the DTensor's mesh and holds no replica of it")
    return replace(told, array=value) if told.boxes is None else told


def placed(array: Any, global_shape: Sequence[int], placements: Iterable[Placement], **options: Any) -> Sharded:
    """The local part that the Checkpointer's mesh gives this rank: one placement per mesh dimension."""
    return Sharded(array, tuple(global_shape), placements=tuple(placements), **options)


def is_torch(value: Any) -> bool:
    """Whether PyTorch made it: a tensor, a module or an optimizer. Never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor | torch.nn.Module | torch.optim.Optimizer)


def as_memory(value: Any) -> Memory:
    """An array over the same memory: arrays as they are, buffers by their format, raw ones (mmap) as bytes.

    Values in the memory of a GPU become a DeviceArray, which has no elements to read.
    """
    if isinstance(value, np.ndarray):
        return value
    if is_torch(value):
        from keepstep.torch import tensors

        return tensors.any_memory(tensors.local_of(value))
    if is_device_array(value):
        return device_array(value)
    view = memoryview(value)
    return np.asarray(view) if view.format != "B" else np.frombuffer(view, dtype=np.uint8)


# NumPy's ABI has an array's address right behind the object's head; asking by `__array_interface__` takes ten times as
# long, and a model may have 100,000 arrays.
_DATA_OFFSET = object.__basicsize__


def _data_of(array: Array) -> int:
    return c.c_void_p.from_address(id(array) + _DATA_OFFSET).value or 0


def _data_by_interface(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _lies_where_expected() -> bool:
    array = np.zeros((3, 2), np.int16)
    return sys.implementation.name == "cpython" and all(
        _data_of(view) == _data_by_interface(view) for view in (array, array[1:], array[::-1, 1])
    )


_data = _data_of if _lies_where_expected() else _data_by_interface


def address(array: Memory) -> int:
    """Where the array's first element lies."""
    return array.address if isinstance(array, DeviceArray) else _data(array)


def byte_bounds(array: Memory) -> tuple[int, int]:
    """Lowest address of the array's elements, and one past their highest."""
    low = high = address(array)
    if array.size == 0:
        return low, low
    for extent, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (extent - 1) * stride
        else:
            high += (extent - 1) * stride
    return low, high + array.itemsize


def allocation(array: Memory) -> Memory:
    """The array that owns the memory of a view, so that views of one allocation are registered as one buffer.

    What a GPU allocated together the library finds out by itself.
    """
    if isinstance(array, DeviceArray):
        return array
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    low, high = byte_bounds(owner)
    first, last = byte_bounds(array)
    return owner if low <= first and last <= high else array


def check_strides(array: Memory) -> Shape:
    """The strides, refused where an element would be stored twice or backwards."""
    for extent, stride in zip(array.shape, array.strides, strict=True):
        if extent > 1 and stride <= 0 and array.size:
            raise ValueError(f"strides {array.strides} repeat or reverse elements; register a copy of the array")
    return tuple(array.strides)
