"""Where a load puts what it reads: straight into the tensors, or into a copy where their memory does not allow that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributed.checkpoint.planner import ReadItem

from keepstep._registration import Spec, resolve
from keepstep.shards import Box, Memory, Shape, Sharded, address, byte_bounds
from keepstep.torch.tensors import any_memory, dtype_name, memory, torch_dtype


@dataclass
class Target:
    """One region of the stored tensor `name`, to be read into `array`."""

    item: ReadItem
    tensor: torch.Tensor
    name: str
    dtype: str
    global_shape: Shape
    origin: Shape
    array: Memory
    copy: torch.Tensor | None

    def finish(self) -> None:
        """Converts and moves what was read, where `array` is not the tensor's own memory."""
        if self.copy is not None:
            self.tensor.copy_(self.copy)


def target(
    item: ReadItem, tensor: torch.Tensor, name: str, stored_dtype: str, global_shape: Shape, origin: Shape
) -> Target:
    """`tensor` has the region's shape, on any device and of any dtype that torch converts to."""
    array, copy = _own_memory(tensor, stored_dtype), None
    if array is None:
        copy = torch.empty(tensor.shape, dtype=torch_dtype(stored_dtype))
        array = memory(copy)
    return Target(item, tensor, name, stored_dtype, global_shape, origin, array, copy)


def load_specs(targets: list[Target]) -> tuple[list[Spec], dict[str, str]]:
    """What to register, and which stored name each registered one means where they differ.

    Regions of one tensor in one allocation are registered together.
    """
    groups: dict[tuple[str, int], list[Target]] = {}
    for part in targets:
        owner = part.tensor if part.copy is None else part.copy
        groups.setdefault((part.name, owner.untyped_storage().data_ptr()), []).append(part)
    specs: list[Spec] = []
    rename: dict[str, str] = {}
    taken: set[str] = set()
    for number, ((name, _), parts) in enumerate(groups.items()):
        registered = name
        if name in taken:
            registered = f"{name}#{number}"
            rename[registered] = name
        taken.add(registered)
        specs.append(_spec(registered, parts))
    return specs, rename


def _spec(name: str, parts: list[Target]) -> Spec:
    low = min(byte_bounds(part.array)[0] for part in parts)
    high = max(byte_bounds(part.array)[1] for part in parts)
    boxes = tuple(
        Box(part.origin, part.array.shape, address(part.array) - low, tuple(part.array.strides)) for part in parts
    )
    spec = resolve(name, Sharded(parts[0].array, parts[0].global_shape, boxes=boxes, dtype=parts[0].dtype), "model")
    spec.data, spec.data_bytes = low, high - low
    return spec


def _own_memory(tensor: torch.Tensor, stored_dtype: str) -> Memory | None:
    """The tensor's memory, on the CPU or a CUDA device, if what is stored can be read into it as it is."""
    try:
        return any_memory(tensor) if dtype_name(tensor.dtype) == stored_dtype else None
    except TypeError:
        return None
