"""A module's parameters and persistent buffers by name, as the bare module would call them.

Wrappers leave no trace in a name: DistributedDataParallel, torch.compile, FSDP1, checkpoint wrappers, AveragedModel. A
tensor that several names share (tied weights) is listed once, under its first name; the others are aliases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

# Attribute names that only wrappers use, and wrappers whose attribute `module` is the wrapped one.
_WRAPPED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_WRAPPERS = (DistributedDataParallel, DataParallel, AveragedModel)

DataParallelWrapper: TypeAlias = DistributedDataParallel | FullyShardedDataParallel


@dataclass
class Walk:
    """What one registered module holds, by name with the registration's prefix."""

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    extra_state: dict[str, nn.Module] = field(default_factory=dict)
    modules: list[tuple[str, nn.Module]] = field(default_factory=list)  # each once, with the prefix of its names
    wrapped: dict[int, DataParallelWrapper] = field(default_factory=dict)  # the innermost, by identity of the tensor

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.parameters.items()
        yield from self.buffers.items()


def walk(module: nn.Module, prefix: str) -> Walk:
    """Everything that `module.state_dict()` would hold. `prefix` is empty, or what names begin with, without a dot."""
    found = Walk()
    _Visitor(found).visit(module, f"{prefix}." if prefix else "", None)
    return found


class _Visitor:
    def __init__(self, found: Walk) -> None:
        self._found = found
        self._names: dict[int, str] = {}
        self._seen: set[int] = set()

    def visit(self, module: nn.Module, prefix: str, parallel: DataParallelWrapper | None) -> None:
        found = self._found
        first = id(module) not in self._seen
        if first:
            self._seen.add(id(module))
            found.modules.append((prefix, module))
        if isinstance(module, DistributedDataParallel | FullyShardedDataParallel):
            parallel = module
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._add(found.parameters, prefix + name, parameter, parallel)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                self._add(found.buffers, prefix + name, buffer, parallel)
        if first and type(module).get_extra_state is not nn.Module.get_extra_state:
            found.extra_state[f"{prefix}_extra_state"] = module
        for name, child in module._modules.items():
            if child is not None:
                bare = name in _WRAPPED or (name == "module" and isinstance(module, _WRAPPERS))
                self.visit(child, prefix if bare else f"{prefix}{name}.", parallel)

    def _add(
        self, into: dict[str, Any], name: str, tensor: torch.Tensor, parallel: DataParallelWrapper | None
    ) -> None:
        known = self._names.setdefault(id(tensor), name)
        if known != name:
            self._found.aliases[name] = known
            return
        into[name] = tensor
        if parallel is not None:
            self._found.wrapped[id(tensor)] = parallel
