"""Notices that a tensor lies elsewhere than when it was registered: `p.data = …`, a replaced DTensor's local tensor.

The tensor object itself is watched by its container (keepstep/_containers.py). Each look costs some 0.1 µs a tensor,
plus the memory's latency: after a training step no cache holds anything of a tensor's objects, and each lies on a page
of its own. So the objects of the tensors ahead are fetched, many at a time, while one part is looked at.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from keepstep import _ffi
from keepstep._containers import Containers
from keepstep.torch.tensors import local_of

_LOCAL = operator.attrgetter("_local_tensor")
_PART = 256  # tensors: their objects fill a tenth of a small second-level cache
_LINE = 64


class _Part:
    """Some tensors, looked at together."""

    def __init__(self) -> None:
        self.sharded: list[DTensor] = []
        self.locals: list[torch.Tensor] = []
        self.tensors: list[torch.Tensor] = []  # with memory: local ones, and plain ones
        self.pointers: list[int] = []
        self.shaped: list[torch.Tensor] = []  # those of them whose strides are watched too
        self.strides: list[tuple[int, ...]] = []
        self._lines: np.ndarray[Any, np.dtype[np.uint64]] | None = None

    def fetch(self) -> None:
        """Has the processor fetch what `changed` will read."""
        if self._lines is None:
            wrappers = [line for tensor in self.sharded for line in (id(tensor), id(tensor) + _LINE)]
            self._lines = np.array(wrappers + [line for tensor in self.tensors for line in _lines(tensor)], np.uint64)
        _ffi.prefetch(self._lines.ctypes.data, len(self._lines))

    def changed(self) -> str:
        """What has; "" when every tensor lies where it lay."""
        if not all(map(operator.is_, map(_LOCAL, self.sharded), self.locals)):
            return "a DTensor's local tensor was replaced"
        if list(map(torch.Tensor.data_ptr, self.tensors)) != self.pointers:
            return "a tensor's memory was replaced"
        if list(map(torch.Tensor.stride, self.shaped)) != self.strides:
            return "a tensor's strides have changed"
        return ""


def _lines(tensor: torch.Tensor) -> Iterator[int]:
    """Addresses of the lines that hold a tensor's objects: hints, which nobody reads."""
    yield id(tensor)
    implementation = tensor._cdata
    yield from range(implementation, implementation + 3 * _LINE + 1, _LINE)
    storage = tensor.untyped_storage()._cdata
    yield from (storage, storage + _LINE)


class Watch:
    """Holds the tensors, so that no address is used again."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._states = Containers(_tensors)
        self._attributes: list[tuple[Any, str, Any]] = []

    def add(self, tensor: torch.Tensor, *, shape: bool) -> None:
        """`shape`: its strides may change where it lies, by `p.data = p.data.t()`."""
        if not self._parts or len(self._parts[-1].tensors) >= _PART:
            self._parts.append(_Part())
        part = self._parts[-1]
        if isinstance(tensor, DTensor):
            part.sharded.append(tensor)
            part.locals.append(tensor._local_tensor)
        local = local_of(tensor)
        part.tensors.append(local)
        part.pointers.append(local.data_ptr())
        if shape:
            part.shaped.append(local)
            part.strides.append(local.stride())

    def tensors_of(self, state: dict[Any, Any]) -> None:
        """A dict whose tensors must stay the same objects, whatever becomes of its other values."""
        self._states.add(state)

    def attribute(self, owner: Any, name: str) -> None:
        """An attribute whose value must stay the same object: `load_state_dict` gives an optimizer another state."""
        self._attributes.append((owner, name, getattr(owner, name)))

    def changed(self) -> str:
        """What has; "" when every tensor lies where it lay."""
        if self._parts:
            self._parts[0].fetch()
        for part, ahead in zip(self._parts, [*self._parts[1:], None], strict=True):
            if ahead is not None:
                ahead.fetch()
            if told := part.changed():
                return told
        if any(getattr(owner, name) is not value for owner, name, value in self._attributes):
            return "an optimizer's state was replaced"
        if self._states.changed():
            return "an optimizer's state holds other tensors"
        return ""


def _tensors(state: dict[Any, Any]) -> tuple[torch.Tensor, ...]:
    return tuple(value for value in state.values() if isinstance(value, torch.Tensor))
