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
        self._strides: list[tuple[int, ...]] = []
        self._attributes: list[tuple[Any, str, Any]] = []

    def add(self, tensor: torch.Tensor) -> None:
        if isinstance(tensor, DTensor):
            self._sharded.append(tensor)
            self._locals.append(tensor._local_tensor)
        local = local_of(tensor)
        self._tensors.append(local)
        self._pointers.append(local.data_ptr())
        self._strides.append(local.stride())

    def attribute(self, owner: Any, name: str) -> None:
        """An attribute whose value must stay the same object: `load_state_dict` gives an optimizer another state."""
        self._attributes.append((owner, name, getattr(owner, name)))

    def changed(self) -> str:
        """What has; "" when every tensor lies where it lay."""
        if not all(map(operator.is_, map(_LOCAL, self._sharded), self._locals)):
            return "a DTensor's local tensor was replaced"
        if list(map(torch.Tensor.data_ptr, self._tensors)) != self._pointers:
            return "a tensor's memory was replaced"
        if list(map(torch.Tensor.stride, self._tensors)) != self._strides:
            return "a tensor's strides have changed"
        if any(getattr(owner, name) is not value for owner, name, value in self._attributes):
            return "an optimizer's state was replaced"
        return ""
