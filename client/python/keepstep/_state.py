"""What `register` was given, split into tensors and extra state.

Names: tensors of `model=` keep their own names; all others carry their keyword's name and a dot in front, so that
`optimizer={"exp_avg": {...}}` cannot collide with a parameter. Nested dicts join with dots.

Objects of PyTorch are left to `keepstep.torch.adapter`, once everything else is known: an optimizer's state is named
after the parameters of all modules.
"""

from __future__ import annotations

import array
import mmap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from keepstep import dataloader
from keepstep._containers import Containers
from keepstep._device import is_device_array
from keepstep._registration import Bounds, Spec, resolve
from keepstep.extras import Extra, Stored
from keepstep.shards import Component, Sharded, is_torch

_TENSORS = (np.ndarray, Sharded, bytearray, memoryview, mmap.mmap, array.array)
_LAST_GROUP = 255  # groups of keywords are numbered from here down, those that a program numbers itself from 0 up


Asked = Callable[[], Callable[[int], object] | None]


class Gate(Protocol):
    """Something that calls `Checkpointer.before_update(group)` by itself before it changes the tensors of its group."""

    group: int

    def attach(self, before_update: Asked, after_update: Asked | None = None) -> None:
        """What to call before and, if it is given, after a change; weak references, so that a gate keeps no
        Checkpointer alive."""

    def detach(self) -> None:
        """Calls nothing from now on."""

    def ready(self) -> bool:
        """Whether the next change is sure to ask; called once a save, on the thread that saves."""

    def announces(self) -> bool:
        """Whether every change is announced by it, before and after."""


@dataclass(frozen=True)
class Found:
    """An object left to an adapter: its keyword, what a person calls it, its stored name (empty: the model itself)."""

    keyword: str
    shown: str
    name: str
    value: Any


@dataclass
class Registered:
    """Everything that one `register` declared, and how to notice that it is out of date."""

    specs: dict[str, Spec] = field(default_factory=dict)
    extras: dict[str, Extra] = field(default_factory=dict)
    containers: Containers = field(default_factory=Containers)
    groups: dict[str, int] = field(default_factory=dict)  # of keywords
    gates: list[Gate] = field(default_factory=list)
    watches: list[Callable[[], str]] = field(default_factory=list)  # each says what has changed; "" nothing
    before_load: list[Callable[[Stored], None]] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)  # tensors that nothing changes

    def unguarded(self) -> str:
        """A tensor on a GPU that may change without a gate that says so; "" if there is none."""
        announced = {gate.group for gate in self.gates if gate.announces()}
        for name, spec in self.specs.items():
            if spec.on_device and spec.group not in announced and name not in self.frozen:
                return f"{name}: no tested hook announces its updates"
        return ""

    def changed(self) -> str:
        """What is another object, or lies elsewhere, than when it was registered; "" while nothing does."""
        if self.containers.changed():
            return "a registered container holds other tensors"
        return next((told for watch in self.watches if (told := watch())), "")


def split(
    state: Mapping[str, Any], *, replicated: Any = None, overlap: bool | Collection[str] | None = None
) -> Registered:
    """Tensors in the order given, extra state by name, and the containers that hold either.

    TypeError or ValueError names the entry and what to do.
    """
    collector = Collector()
    for key, value in state.items():
        component: Component = "optimizer" if key.endswith("optimizer") else "model"
        collector.add(key, Found(key, key, "" if key == "model" else key, value), component)
    if collector.found:
        from keepstep.torch import adapter

        adapter.collect(collector, replicated, overlap)
    elif replicated is not None:
        raise ValueError("replicated= is for tensors of PyTorch; use keepstep.replica(array, ranks)")
    return collector.registered


class Collector:
    """Fills a `Registered`; adapters add to the same one."""

    def __init__(self) -> None:
        self.registered = Registered()
        self.found: list[Found] = []  # for adapters
        self._bounds: Bounds = {}

    def add(self, keyword: str, entry: Found, component: Component) -> None:
        shown, name, value = entry.shown, entry.name, entry.value
        if isinstance(value, _TENSORS):
            self.tensor(name or shown, value, component)
        elif is_torch(value):
            self.found.append(entry)
        elif is_device_array(value):
            self.tensor(name or shown, value, component)
        elif isinstance(value, Mapping):
            self.registered.containers.add(value)
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{shown}: the key {key!r} is not a string; name every entry")
                inner = f"{name}.{key}" if name else key
                self.add(keyword, Found(keyword, f"{shown}.{key}", inner, item), component)
        elif isinstance(value, Extra):
            self.extra(name or shown, value)
        elif _is_pair(value):
            self.extra(name or shown, Extra(*value))
        elif dataloader.is_loader(value):
            self.extra(name or shown, dataloader.state(value))
        elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            self.extra(name or shown, Extra(value.state_dict, value.load_state_dict))
        elif isinstance(value, list | tuple):
            self.registered.containers.add(value)
            for index, item in enumerate(value):
                inner = f"{name}.{index}" if name else ""
                self.add(keyword, Found(keyword, f"{shown}[{index}]", inner, item), component)
        elif callable(value):
            self.extra(name or shown, Extra(value, None))
        else:
            raise TypeError(
                f"{shown} is a plain {type(value).__name__}, which would be saved as it is now, not as it is at the "
                "save. Pass a 0-d array that you change in place, an object with state_dict() and load_state_dict(), "
                "or a pair of callables (read, restore)."
            )

    def tensor(self, name: str, value: Any, component: Component) -> None:
        if name in self.registered.specs:
            raise ValueError(f"{name} is registered twice; give one of them another keyword or key")
        self.registered.specs[name] = resolve(name, value, component, self._bounds)
        if isinstance(value, Sharded) and is_torch(value.array):
            from keepstep.torch.watch import Watch

            watch = Watch()
            watch.add(value.array, shape=True)
            self.registered.watches.append(watch.changed)

    def extra(self, name: str, extra: Extra) -> None:
        if name in self.registered.extras:
            raise ValueError(f"{name} is registered twice; give one of them another keyword or key")
        self.registered.extras[name] = extra

    def group_of(self, keyword: str) -> int:
        """The group of what one keyword's optimizer changes."""
        groups = self.registered.groups
        return groups.setdefault(keyword, _LAST_GROUP - len(groups))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(callable(item) for item in value)
