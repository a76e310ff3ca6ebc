"""One torch tensor as a `keepstep.Sharded` over the same memory: nothing is copied, nothing is pickled.

A DTensor says by its mesh and placements which boxes of the global tensor this rank holds, and who holds the same.
A plain tensor is a whole tensor; who else holds the same content is for the caller to say.

The array keeps the tensor's storage alive, and leaves it resizable: `Tensor.numpy()` would not, and FSDP resizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

from keepstep import shards
from keepstep._device import DeviceArray
from keepstep.shards import Array, Box, Component, Memory, Placement, Shape, Sharded
from keepstep.torch.placement import Held, held

# torch's dtype → its name on disk, and a NumPy type of the same size: elements are never converted.
_DTYPES: dict[torch.dtype, tuple[str, str]] = {
    torch.bool: ("BOOL", "|b1"), torch.uint8: ("U8", "|u1"), torch.int8: ("I8", "|i1"),
    torch.int16: ("I16", "<i2"), torch.uint16: ("U16", "<u2"), torch.int32: ("I32", "<i4"),
    torch.uint32: ("U32", "<u4"), torch.int64: ("I64", "<i8"), torch.uint64: ("U64", "<u8"),
    torch.float16: ("F16", "<f2"), torch.float32: ("F32", "<f4"), torch.float64: ("F64", "<f8"),
    torch.complex64: ("C64", "<c8"), torch.complex128: ("C128", "<c16"),
    torch.bfloat16: ("BF16", "<u2"),
    torch.float8_e4m3fn: ("F8_E4M3", "|u1"), torch.float8_e5m2: ("F8_E5M2", "|u1"),
    torch.float8_e4m3fnuz: ("F8_E4M3FNUZ", "|u1"), torch.float8_e5m2fnuz: ("F8_E5M2FNUZ", "|u1"),
    torch.float8_e8m0fnu: ("F8_E8M0", "|u1"),
}  # fmt: skip
# No name on disk of their own: two 4-bit floats in a byte, two 16-bit floats in a word.
for _name, _as in (("float4_e2m1fn_x2", ("U8", "|u1")), ("complex32", ("U32", "<u4"))):
    if hasattr(torch, _name):
        _DTYPES[getattr(torch, _name)] = _as


def dtype_name(dtype: torch.dtype) -> str:
    """The name on disk. TypeError: it has none (quantized and sub-byte types)."""
    return _dtype(dtype)[0]


def torch_dtype(name: str) -> torch.dtype:
    """The type of tensors that are stored as `name`. ValueError: torch lacks it."""
    for dtype, (stored, _) in _DTYPES.items():
        if stored == name:
            return dtype
    raise ValueError(f"torch has no type for {name}")


def _dtype(dtype: torch.dtype) -> tuple[str, str]:
    try:
        return _DTYPES[dtype]
    except KeyError:
        raise TypeError(f"tensors of {dtype} cannot be stored; save their integer representation") from None


class _Memory:
    """What np.asarray reads an array from; the array keeps it, and with it the storage."""

    __slots__ = ("__array_interface__", "_storage")

    def __init__(self, tensor: torch.Tensor, kind: str, item_bytes: int) -> None:
        self._storage = tensor.untyped_storage()
        self.__array_interface__ = {
            "version": 3,
            "typestr": kind,
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * item_bytes for stride in tensor.stride()),
            "data": (tensor.data_ptr(), False),
        }


def any_memory(tensor: torch.Tensor) -> Memory:
    """The memory of a plain tensor on the CPU or on CUDA; errors are those of `memory`."""
    if tensor.device.type != "cuda":
        return memory(tensor)
    _, kind = _dtype(tensor.dtype)
    _check(tensor)
    strides = tuple(stride * tensor.element_size() for stride in tensor.stride())
    storage = None if tensor.numel() == 0 else tensor.untyped_storage()
    at = 0 if storage is None else tensor.data_ptr()
    return DeviceArray(at, tuple(tensor.shape), strides, np.dtype(kind), storage, dtype_name(tensor.dtype),
                       torch_device=tensor.get_device())  # fmt: skip


def memory(tensor: torch.Tensor) -> Array:
    """A NumPy array over the elements of a plain CPU tensor, whatever its strides.

    Types that NumPy lacks (bfloat16, 8-bit floats) appear as unsigned integers of the same size.

    Raises:
        TypeError: there is no such memory; the message says why, and what to register instead.
    """
    _, kind = _dtype(tensor.dtype)
    if tensor.device.type not in ("cpu", "meta"):
        raise TypeError(f"a tensor on {tensor.device}, which is neither CPU nor CUDA memory: register a CPU copy")
    _check(tensor)
    if tensor.numel() == 0:
        return np.empty(tuple(tensor.shape), np.dtype(kind))
    return np.asarray(_Memory(tensor, kind, tensor.element_size()))


def _check(tensor: torch.Tensor) -> None:
    """TypeError: no memory that holds the elements one by one."""
    if tensor.layout is not torch.strided:
        raise TypeError(f"a tensor of layout {tensor.layout}; register its indices and values as tensors of their own")
    if tensor.device.type == "meta":
        raise TypeError("a tensor without memory (device meta); materialise the module first: module.to_empty(...)")
    if tensor.is_conj() or tensor.is_neg():
        raise TypeError("a conjugated or negated view; register tensor.resolve_conj().resolve_neg()")
    if any(stride == 0 and extent > 1 for stride, extent in zip(tensor.stride(), tensor.shape, strict=True)):
        raise TypeError("an expanded view, whose elements share memory; register tensor.contiguous()")
    if hasattr(tensor, "__tensor_flatten__"):
        raise TypeError(f"a {type(tensor).__name__} keeps its content in other tensors; register those")
    if tensor.numel() and tensor.data_ptr() == 0:
        raise TypeError("a tensor whose storage is freed at this moment; register outside of forward and backward")


_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, torch.nn.Buffer})


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor whose memory this rank holds: a DTensor's local one, any other itself. Costs no autograd."""
    local: torch.Tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    if type(local) in _PLAIN:
        return local
    wait = getattr(local, "wait", None)  # the result of a collective that still runs
    return local if wait is None else wait()


def shard(
    tensor: torch.Tensor,
    *,
    memory_of: torch.Tensor | None = None,
    replicated_over: Iterable[int] = (),
    module_buffer: bool = False,
    component: Component | None = None,
    group: int = 0,
) -> Sharded | None:
    """The part of `tensor` that this rank holds, over the same memory.

    `replicated_over` names the global ranks that hold the same content, this one included; a DTensor's replicas are
    those of its mesh unless the caller knows more. `memory_of` is a tensor of the local shape and another content that
    is laid out in the same way, as an optimizer may keep one beside a DTensor.

    None: this rank is outside the DTensor's mesh and holds nothing.

    Raises:
        TypeError: memory that cannot be saved, or a pending reduction (`Partial`).
    """
    ranks = tuple(sorted(set(replicated_over)))
    local = local_of(tensor) if memory_of is None else memory_of
    array = any_memory(local)
    boxes: tuple[Box, ...] | None = None
    if isinstance(tensor, DTensor):
        place = _place(tensor)
        if place is None:
            return None
        ranks = ranks or replicas(tensor)
        boxes = _boxes(place, local)
    return Sharded(
        array,
        tuple(tensor.shape),
        boxes=boxes,
        replicated_over=ranks if len(ranks) > 1 else (),
        component=component,
        group=group,
        module_buffer=module_buffer,
        dtype=dtype_name(local.dtype),
    )


def flat_shard(
    tensor: torch.Tensor, global_shape: Iterable[int], begin: int, *, of: Box | None = None, **options: Any
) -> Sharded:
    """A one-dimensional tensor that holds elements begin … begin + numel of the row-major flattening of a tensor.

    `of` names the box that is flattened where it is not the whole tensor. Options are fields of Sharded.
    """
    if tensor.dim() != 1:
        raise ValueError(f"a flat shard has one dimension, this tensor has {tensor.dim()}")
    return Sharded(
        any_memory(tensor),
        tuple(global_shape),
        flat=(begin, begin + tensor.numel()),
        flat_of=of,
        dtype=dtype_name(tensor.dtype),
        **options,
    )


def replicas(tensor: DTensor, also: Iterable[int] = ()) -> tuple[int, ...]:
    """Global ranks, ascending, that hold the same content as this one; empty when it is alone.

    `also` names mesh dimensions, by index, over which the caller knows the tensor to be replicated.
    """
    mesh: DeviceMesh = tensor.device_mesh
    open_dims = {dim for dim, placement in enumerate(tensor.placements) if isinstance(placement, Replicate)}
    return ranks_along(mesh, frozenset(open_dims | set(also)))


def ranks_along(mesh: DeviceMesh, dims: frozenset[int]) -> tuple[int, ...]:
    """Global ranks of the mesh that differ from this one in `dims` only; empty when that is this one alone."""
    return _ranks_along(mesh, torch.distributed.get_rank(), dims)


def coordinate_of(mesh: DeviceMesh) -> Shape | None:
    """This rank's place in the mesh; None when it has none."""
    return _coordinate(mesh, torch.distributed.get_rank())


@functools.lru_cache(maxsize=1024)
def _coordinate(mesh: DeviceMesh, rank: int) -> Shape | None:
    found = (mesh.mesh == rank).nonzero()
    return tuple(found[0].tolist()) if len(found) else None


@functools.lru_cache(maxsize=4096)
def _ranks_along(mesh: DeviceMesh, rank: int, dims: frozenset[int]) -> tuple[int, ...]:
    coordinate = _coordinate(mesh, rank)
    if coordinate is None:
        return ()
    index = tuple(slice(None) if dim in dims else at for dim, at in enumerate(coordinate))
    found = sorted(mesh.mesh[index].flatten().tolist())
    return tuple(found) if len(found) > 1 else ()


def placements_of(tensor: DTensor) -> tuple[Placement, ...]:
    """torch's placements as Keepstep's. TypeError: `Partial`, or one that this version does not know."""
    result: list[Placement] = []
    for placement in tensor.placements:
        if isinstance(placement, _StridedShard):
            result.append(shards.StridedShard(placement.dim, int(placement.split_factor)))
        elif isinstance(placement, Shard):
            result.append(shards.Shard(placement.dim))
        elif isinstance(placement, Replicate):
            result.append(shards.Replicate())
        else:
            raise TypeError(
                f"a DTensor placed {placement} waits for a reduction; redistribute it to Replicate() or Shard(dim)"
            )
    return tuple(result)


def _place(tensor: DTensor) -> Held | None:
    mesh: DeviceMesh = tensor.device_mesh
    coordinate = coordinate_of(mesh)
    if coordinate is None:
        return None
    place = _held(tuple(tensor.shape), tuple(mesh.shape), coordinate, placements_of(tensor))
    local = local_of(tensor)
    if math.prod(place.local_shape) != local.numel() or (local.numel() and place.local_shape != tuple(local.shape)):
        raise ValueError(
            f"a DTensor of shape {tuple(tensor.shape)} placed {tuple(tensor.placements)} on {mesh} would be local "
            f"{place.local_shape}, and is {tuple(local.shape)}; save it redistributed"
        )
    return place


@functools.lru_cache(maxsize=65536)
def _held(
    global_shape: Shape, mesh_sizes: Shape, coordinate: Shape, placements: tuple[Placement, ...]
) -> Held:
    return held(global_shape, mesh_sizes, coordinate, placements)


def _boxes(place: Held, local: torch.Tensor) -> tuple[Box, ...]:
    item = local.element_size()
    strides = tuple(stride * item for stride in local.stride()) if local.numel() else None
    return tuple(
        Box(origin, shape, sum(a * b for a, b in zip(begin, strides or (), strict=False)), strides)
        for origin, shape, begin in place.boxes
    )
