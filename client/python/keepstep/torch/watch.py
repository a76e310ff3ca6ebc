"""Notices that a tensor lies elsewhere than when it was registered: `p.data = …`, a replaced DTensor's local tensor.

The tensor object itself is watched by its container (keepstep/_containers.py). Each look costs some 0.2 µs a tensor.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from keepstep.torch.tensors import local_of

_LOCAL = operator.attrgetter("_local_tensor")


class Watch:
    """Holds the tensors, so that no address is used again."""

    def __init__(self) -> None:
        self._sharded: list[DTensor] = []
        self._locals: list[torch.Tensor] = []
        self._tensors: list[torch.Tensor] = []  # with memory: local ones, and plain ones
        self._pointers: list[int] = []
        self._shaped: list[torch.Tensor] = []  # those of them whose strides are watched too
        self._strides: list[tuple[int, ...]] = []
        self._states: list[tuple[dict[Any, Any], list[tuple[Any, torch.Tensor]]]] = []
        self._attributes: list[tuple[Any, str, Any]] = []

    def add(self, tensor: torch.Tensor, *, shape: bool) -> None:
        """`shape`: its strides may change where it lies, by `p.data = p.data.t()`."""
        if isinstance(tensor, DTensor):
            self._sharded.append(tensor)
            self._locals.append(tensor._local_tensor)
        local = local_of(tensor)
        self._tensors.append(local)
        self._pointers.append(local.data_ptr())
        if shape:
            self._shaped.append(local)
            self._strides.append(local.stride())

    def tensors_of(self, state: dict[Any, Any]) -> None:
        """A dict whose tensors must stay the same objects, whatever becomes of its other values."""
        self._states.append((state, _tensors(state)))

    def attribute(self, owner: Any, name: str) -> None:
        """An attribute whose value must stay the same object: `load_state_dict` gives an optimizer another state."""
        self._attributes.append((owner, name, getattr(owner, name)))

    def changed(self) -> str:
        """What has; "" when every tensor lies where it lay."""
        if not all(map(operator.is_, map(_LOCAL, self._sharded), self._locals)):
            return "a DTensor's local tensor was replaced"
        if list(map(torch.Tensor.data_ptr, self._tensors)) != self._pointers:
            return "a tensor's memory was replaced"
        if list(map(torch.Tensor.stride, self._shaped)) != self._strides:
            return "a tensor's strides have changed"
        if any(getattr(owner, name) is not value for owner, name, value in self._attributes):
            return "an optimizer's state was replaced"
        for state, held in self._states:
            now = _tensors(state)
            if len(now) != len(held) or any(a[1] is not b[1] for a, b in zip(now, held, strict=True)):
                return "an optimizer's state holds other tensors"
        return ""


def _tensors(state: dict[Any, Any]) -> list[tuple[Any, torch.Tensor]]:
    return [(key, value) for key, value in state.items() if isinstance(value, torch.Tensor)]
