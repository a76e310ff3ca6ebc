"""Optimizer state by parameter name: `optimizer.<parameter>.exp_avg`, whatever the order or index of the parameters.

Tensors of the state are registered. Group options (lr, betas, …) and state that is no tensor travel as extra state,
each group with the names of its parameters; on load a group takes the options that its parameters had, from whichever
rank saved them. Which parameters had no state yet is saved too: a load makes missing state first, as
torch.distributed.checkpoint.state_dict does (a step with zero gradients and lr 0), and drops what the checkpoint lacks.
"""

from __future__ import annotations

import logging
import marshal
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from keepstep.extras import Extra, Packed, Stored, pack
from keepstep.torch.gate import making_state
from keepstep.torch.parts import FlatPart, Part
from keepstep.torch.values import assign

_log = logging.getLogger("keepstep")
Parts = Mapping[int, Sequence[Part]]  # by identity of the parameter that an optimizer was given


def inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer that keeps the state: ZeRO-1 wraps one over this rank's share of the parameters."""
    return optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer


def parameters(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """Every parameter of every group."""
    for group in optimizer.param_groups:
        yield from group["params"]


def tensors(optimizer: Optimizer, prefix: str, parts: Parts) -> Iterator[tuple[str, Part, torch.Tensor]]:
    """Name, the parameter's part, and tensor of all state that there is."""
    for parameter, state in inner(optimizer).state.items():
        for part in parts.get(id(parameter), ()):  # none: left behind by a parameter that was replaced
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    yield f"{prefix}.{part.name}.{key}", part, value


class Options:
    """The extra state of one keyword's optimizers, together. Holds no list that grows with saves."""

    def __init__(self, optimizers: Sequence[Optimizer], parts: Parts) -> None:
        self._optimizers = list(optimizers)
        self._parts = parts
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._names = [_packed(self._names_of(group["params"])) for group in groups]
        # The states that hold more than tensors; which do is looked at again whenever a state changes.
        self._plain = [
            (parts[id(parameter)][0].name, state)
            for optimizer in optimizers
            for parameter, state in inner(optimizer).state.items()
            if id(parameter) in parts and not all(map(torch.is_tensor, state.values()))
        ]
        # What this rank's state lacks, and only if it has any: a first step is what makes all of it.
        self._stateless = _packed(
            part.name
            for optimizer in optimizers
            for parameter in parameters(inner(optimizer))
            if not inner(optimizer).state.get(parameter)
            for part in parts[id(parameter)]
            if not (isinstance(part, FlatPart) and not part.size)
        )
        self._packed = Packed(())
        self._seen: bytes | None = None  # what `_packed` was made of

    def extra(self) -> Extra:
        return Extra(self.read, self.restore, merge=True, packed=self.packed)

    def _names_of(self, parameters: Iterable[torch.Tensor]) -> Iterator[str]:
        return (part.name for parameter in parameters for part in self._parts[id(parameter)])

    def read(self) -> dict[str, Any]:
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        return {
            "groups": [
                {"names": names, "options": _options(group)}
                for names, group in zip(self._names, groups, strict=True)
            ],
            "stateless": self._stateless,
            "values": {name: _values(state) for name, state in self._plain},
        }

    def packed(self) -> Packed:
        """``pack(self.read())``, and the same object as long as no option and no plain value changes.

        marshal tells values apart by type and bit by bit, in a microsecond a group. What it cannot take, a learning
        rate that is a tensor, is encoded at each save.
        """
        options = [_options(group) for optimizer in self._optimizers for group in optimizer.param_groups]
        try:
            seen = marshal.dumps((options, [_values(state) for _, state in self._plain]), _MARSHAL_BY_VALUE)
        except ValueError:
            seen = None
        if seen is None or seen != self._seen:
            self._packed, self._seen = pack(self.read()), seen
        return self._packed

    def prepare(self, saved: Mapping[int, Any]) -> None:
        """Before a load, with what every rank saved: makes state where the checkpoint has some, drops it where not."""
        if not saved:  # of another writer: what it has, strict=… decides
            for optimizer in map(inner, self._optimizers):
                make_state(optimizer)
            return
        stateless = {name for value in saved.values() for name in _unpacked(value["stateless"])}
        known = {name for value in saved.values() for group in value["groups"] for name in _unpacked(group["names"])}
        for optimizer in map(inner, self._optimizers):
            without = [
                parameter
                for parameter in parameters(optimizer)
                if all(part.name in stateless or part.name not in known for part in self._parts[id(parameter)])
            ]
            if len(without) < sum(1 for _ in parameters(optimizer)):
                make_state(optimizer)
            for parameter in without:
                optimizer.state.pop(parameter, None)

    def restore(self, saved: Mapping[int, Any]) -> None:
        """After a load: options of each group, and state that is no tensor."""
        options: dict[str, Mapping[str, Any]] = {}
        values: dict[str, Mapping[str, Any]] = {}
        for rank in sorted(saved, reverse=True):
            for group in saved[rank]["groups"]:
                options.update(dict.fromkeys(_unpacked(group["names"]), group["options"]))
            values.update(saved[rank]["values"])
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                names = list(self._names_of(group["params"]))
                known = [name for name in names if name in options]
                found = options[known[0]] if known else {}
                if other := next((name for name in known if options[name] != found), None):
                    _log.warning(
                        "keepstep: %s and %s are one group here and had different options; the group takes those of %s",
                        known[0], other, known[0],
                    )  # fmt: skip
                for key, value in found.items():
                    group[key] = assign(group.get(key), value)
            for parameter, state in inner(optimizer).state.items():
                parts = self._parts.get(id(parameter))
                state.update(values.get(parts[0].name, {}) if parts else {})
            if isinstance(optimizer, ZeroRedundancyOptimizer):
                optimizer._sync_param_groups(  # type: ignore[attr-defined]
                    optimizer.param_groups, optimizer.optim.param_groups
                )


_NOT_OPTIONS = frozenset({"params", "param_names"})
_MARSHAL_BY_VALUE = 2  # the newest version whose output does not depend on who else refers to a value


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in _NOT_OPTIONS}


def _values(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is no tensor."""
    return {key: value for key, value in state.items() if not torch.is_tensor(value)}


def make_state(optimizer: Optimizer) -> None:
    """State for every parameter that lacks it, by a step with zero gradients and lr 0; gradients stay as they are.

    Weight decay and momentum change nothing at lr 0; parameters are loaded afterwards in any case.
    """
    trainable = [parameter for parameter in parameters(optimizer) if parameter.requires_grad]
    if all(parameter in optimizer.state for parameter in trainable):
        return
    gradients = [(parameter, parameter.grad) for parameter in trainable]
    rates = [(group, group["lr"]) for group in optimizer.param_groups if "lr" in group]
    try:
        for parameter in trainable:
            parameter.grad = None if parameter in optimizer.state else torch.zeros_like(parameter)
        for group, rate in rates:
            group["lr"] = torch.zeros_like(rate) if isinstance(rate, torch.Tensor) else 0.0
        with making_state():
            optimizer.step(closure=None)
    finally:
        for group, rate in rates:
            group["lr"] = rate
        for parameter, gradient in gradients:
            parameter.grad = gradient


def saved_state(stored: Stored, name: str) -> Mapping[int, Any]:
    """What the ranks saved under an optimizer's keyword; empty: the checkpoint has none, or another kind of it."""
    return {
        rank: value
        for rank, value in stored.get(name, {}).items()
        if isinstance(value, Mapping) and {"groups", "stateless", "values"} <= value.keys()
    }


def _packed(names: Iterable[str]) -> bytes:
    return zlib.compress("\n".join(names).encode())


def _unpacked(data: bytes) -> list[str]:
    text = zlib.decompress(data).decode()
    return text.split("\n") if text else []
