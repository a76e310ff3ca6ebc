"""Modules, optimizers and tensors of PyTorch in one `register`: from objects to named parts, gates and watches.

1. Modules are walked; each parameter becomes a Part, by name.
2. An optimizer's parameters belong to its group, and so does its state; all else belongs to group 0, which `save`
   always waits for: buffers, frozen parameters, tensors registered by themselves.
3. A parameter that an optimizer changes and no module names is an error, not a tensor without a name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, Optimizer
from torch.optim.swa_utils import AveragedModel

from keepstep._state import Collector, Found
from keepstep.extras import Extra, Stored
from keepstep.shards import Component
from keepstep.torch import fsdp1, optimizers, replication
from keepstep.torch.gate import CallerGate, StepGate
from keepstep.torch.modules import Walk, walk
from keepstep.torch.parts import Part, TensorPart
from keepstep.torch.replication import Holders, Ranks
from keepstep.torch.watch import Watch

# Beyond so many optimizers of one keyword (one for each parameter, in backward) they share a group: there are 256.
_GROUPS_OF_A_KEYWORD = 16


def collect(collector: Collector, replicated: Any, overlap: bool | Collection[str] | None) -> None:
    """Adds every object that the collector left to adapters. TypeError or ValueError names the entry."""
    _Collection(collector, replication.declared(replicated), overlap).run(collector.found)


@dataclass
class _Registering:
    """One optimizer, with the group of what it changes."""

    found: Found
    optimizer: Optimizer
    group: int


class _Collection:
    def __init__(self, collector: Collector, declared: Ranks, overlap: bool | Collection[str] | None) -> None:
        self._collector = collector
        self._declared = declared
        self._overlap = overlap
        self._groups: dict[int, int] = {}  # of parameters, by identity
        self._parts: dict[int, list[Part]] = {}  # by identity of what the optimizer knows
        self._watch = Watch()

    def run(self, found: Iterable[Found]) -> None:
        entries = list(found)
        chosen = [entry for entry in entries if isinstance(entry.value, Optimizer)]
        registering = self._group(chosen)
        for entry in entries:
            if isinstance(entry.value, nn.Module):
                self._module(entry)
            elif isinstance(entry.value, torch.Tensor):
                self._tensor(entry)
        for keyword in dict.fromkeys(entry.keyword for entry in chosen):
            self._optimizers(keyword, [item for item in registering if item.found.keyword == keyword])
        self._collector.registered.watches.append(self._watch.changed)

    def _group(self, chosen: list[Found]) -> list[_Registering]:
        """Numbers the groups of the optimizers, and makes their gates."""
        by_group: dict[str, list[Found]] = {}
        for entry in chosen:
            if isinstance(entry.value, LBFGS):
                raise TypeError(
                    f"{entry.shown}: LBFGS keeps its history as lists of tensors, which cannot be resharded; pass its "
                    "state as a pair of callables (read, restore)"
                )
            alone = sum(other.keyword == entry.keyword for other in chosen) <= _GROUPS_OF_A_KEYWORD
            by_group.setdefault(entry.shown if alone else entry.keyword, []).append(entry)
        result = []
        for shown, entries in by_group.items():
            group = self._collector.group_of(shown)
            whole = [entry.value for entry in entries]
            told = None if self._overlap is None else self._wants_overlap(entries[0].keyword)
            gate = StepGate(group, shown, whole, [optimizers.inner(optimizer) for optimizer in whole], told)
            self._collector.registered.gates.append(gate)
            for entry in entries:
                result.append(_Registering(entry, entry.value, group))
                for parameter in optimizers.parameters(entry.value):
                    self._groups[id(parameter)] = group
        return result

    def _wants_overlap(self, keyword: str) -> bool:
        return self._overlap if isinstance(self._overlap, bool) else keyword in (self._overlap or ())

    def _module(self, entry: Found) -> None:
        module: nn.Module = entry.value
        found = walk(module, entry.name)
        holders = Holders(self._declared, replication.widest_mesh(found.parameters.values()))
        ema = 0
        if isinstance(module, AveragedModel):
            ema = self._collector.group_of(entry.keyword)
            if self._overlap is not None and not isinstance(self._overlap, bool) and self._wants_overlap(entry.keyword):
                self._collector.registered.gates.append(CallerGate(ema))
        named: dict[str, tuple[Part, torch.Tensor]] = {}
        for name, tensor, part in self._flat(found):
            named[name] = part, tensor
        flat = {id(tensor) for _, tensor in named.values()} | {id(flat.tensor) for flat in fsdp1.flats(found.modules)}
        for name, parameter in found.parameters.items():
            if id(parameter) not in flat:
                named[name] = TensorPart(name, parameter, self._holders(found, parameter, holders)), parameter
        for name, (part, tensor) in named.items():
            self._parts.setdefault(id(tensor), []).append(part)
            self._add(name, part, tensor, "model", self._groups.get(id(tensor), ema))
            if id(tensor) not in self._groups and not tensor.requires_grad and not ema:
                self._collector.registered.frozen.add(name)
        for name, buffer in found.buffers.items():
            part = TensorPart(name, buffer, self._holders(found, buffer, holders))
            named[name] = part, buffer
            self._add(name, part, buffer, "model", ema, module_buffer=True)
        for alias, name in found.aliases.items():  # the daemon sees the same memory, and writes it once
            part, tensor = named[name]
            buffer_too = name in found.buffers
            self._add(alias, part, tensor, "model", self._groups.get(id(tensor), ema), module_buffer=buffer_too)
        for name, owner in found.extra_state.items():
            self._collector.extra(name, Extra(owner.get_extra_state, owner.set_extra_state))
        self._check_in_backward(entry, found)
        for _, inner in found.modules:
            for container in (inner._parameters, inner._buffers, inner._modules):
                if container:
                    self._collector.registered.containers.add(container)

    def _flat(self, found: Walk) -> Iterator[tuple[str, torch.Tensor, Part]]:
        """What FSDP1's flat parameters stand for, and the tensor by which the optimizer knows each."""
        for flat in fsdp1.flats(found.modules):
            for shown, part in flat.parts():
                yield part.name, shown, part
            found.aliases.update(flat.aliases())

    def _holders(self, found: Walk, tensor: torch.Tensor, holders: Holders) -> Holders:
        wrapper = found.wrapped.get(id(tensor))
        if wrapper is None:
            return holders
        if isinstance(wrapper, DistributedDataParallel):
            ranks = replication.declared(wrapper.process_group)
        else:
            ranks = fsdp1.data_parallel_ranks(wrapper)
        return replace(holders, declared=ranks)

    def _check_in_backward(self, entry: Found, found: Walk) -> None:
        for name, parameter in found.parameters.items():
            hidden = getattr(parameter, "_in_backward_optimizers", ())
            if hidden and id(parameter) not in self._groups:
                raise ValueError(
                    f"{entry.shown}: {name} is updated by an optimizer in backward that is not registered; pass "
                    "optimizer=[opt for p in model.parameters() for opt in p._in_backward_optimizers]"
                )

    def _tensor(self, entry: Found) -> None:
        tensor: torch.Tensor = entry.value
        component: Component = "optimizer" if entry.keyword.endswith("optimizer") else "model"
        part = TensorPart(entry.name or entry.shown, tensor, Holders(self._declared))
        self._parts.setdefault(id(tensor), []).append(part)
        self._add(part.name, part, tensor, component, self._groups.get(id(tensor), 0))

    def _optimizers(self, keyword: str, registering: list[_Registering]) -> None:
        for item in registering:
            self._check_named(item)
            named = optimizers.tensors(item.optimizer, keyword, self._parts)
            alone = isinstance(item.optimizer, ZeroRedundancyOptimizer)
            for name, part, tensor in named:
                self._add(name, part, tensor, "optimizer", item.group, alone=alone)
            self._watch_optimizer(item.optimizer)
        options = optimizers.Options([item.optimizer for item in registering], self._parts)
        self._collector.extra(keyword, options.extra())

        def prepare(stored: Stored) -> None:
            options.prepare(optimizers.saved_state(stored, keyword))

        self._collector.registered.before_load.append(prepare)

    def _check_named(self, item: _Registering) -> None:
        for group in item.optimizer.param_groups:
            for index, parameter in enumerate(group["params"]):
                if id(parameter) in self._parts:
                    continue
                names = group.get("param_names")
                what = names[index] if names else f"of shape {tuple(parameter.shape)}"
                raise ValueError(
                    f"{item.found.shown} changes a parameter {what} that nothing registered holds, so its state has no "
                    "name; register every module of the optimizer: register(model=..., optimizer=...)"
                )

    def _watch_optimizer(self, optimizer: Optimizer) -> None:
        containers = self._collector.registered.containers
        inner = optimizers.inner(optimizer)
        self._watch.attribute(inner, "state")
        self._watch.attribute(optimizer, "param_groups")
        containers.add(inner.state)
        for state in inner.state.values():
            # Of a state with numbers among its tensors, which change at each step, only the tensors have to stay.
            if all(map(torch.is_tensor, state.values())):
                containers.add(state)
            else:
                self._watch.tensors_of(state)
        containers.add(optimizer.param_groups)
        for group in optimizer.param_groups:
            containers.add(group["params"])

    def _add(
        self, name: str, part: Part, tensor: torch.Tensor, component: Component, group: int, *,
        module_buffer: bool = False, alone: bool = False,
    ) -> None:  # fmt: skip
        try:
            told = part.describe(tensor, module_buffer=module_buffer, group=group)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        self._watch.add(tensor, shape=component == "model")
        if told is None:
            return
        if alone:
            told = replace(told, replicated_over=())
        self._collector.tensor(name, told, component)
