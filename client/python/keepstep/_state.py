"""What `register` was given, split into tensors and extra state.

Names: tensors of `model=` keep their own names; all others carry their keyword's name and a dot in front, so that
`optimizer={"exp_avg": {...}}` cannot collide with a parameter. Nested dicts join with dots.
"""

from __future__ import annotations

import array
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from keepstep._containers import Containers
from keepstep._registration import Bounds, Spec, resolve
from keepstep.extras import Extra
from keepstep.shards import Component, Sharded

_TENSORS = (np.ndarray, Sharded, bytearray, memoryview, mmap.mmap, array.array)


def split(state: Mapping[str, Any]) -> tuple[list[Spec], dict[str, Extra], Containers]:
    """Tensors in the order given, extra state by name, and the containers that hold either.

    TypeError or ValueError names the entry and what to do.
    """
    collector = _Collector()
    for key, value in state.items():
        component: Component = "optimizer" if key.endswith("optimizer") else "model"
        collector.add(key, "" if key == "model" else key, value, component)
    return list(collector.specs.values()), collector.extras, collector.containers


class _Collector:
    def __init__(self) -> None:
        self.specs: dict[str, Spec] = {}
        self._bounds: Bounds = {}
        self.extras: dict[str, Extra] = {}
        self.containers = Containers()

    def add(self, shown: str, name: str, value: Any, component: Component) -> None:
        """`shown` is what a person calls the entry; `name` its stored name, empty for `model` itself."""
        if isinstance(value, _TENSORS):
            self._tensor(name or shown, value, component)
        elif isinstance(value, Mapping):
            self.containers.add(value)
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{shown}: the key {key!r} is not a string; name every entry")
                self.add(f"{shown}.{key}", f"{name}.{key}" if name else key, item, component)
        elif _is_pair(value):
            self._extra(name or shown, Extra(*value))
        elif hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            self._extra(name or shown, Extra(value.state_dict, value.load_state_dict))
        elif isinstance(value, list | tuple):
            self.containers.add(value)
            for index, item in enumerate(value):
                self.add(f"{shown}[{index}]", f"{name}.{index}" if name else "", item, component)
        elif callable(value):
            self._extra(name or shown, Extra(value, None))
        else:
            raise TypeError(
                f"{shown} is a plain {type(value).__name__}, which would be saved as it is now, not as it is at the "
                "save. Pass a 0-d array that you change in place, an object with state_dict() and load_state_dict(), "
                "or a pair of callables (read, restore)."
            )

    def _tensor(self, name: str, value: Any, component: Component) -> None:
        if name in self.specs:
            raise ValueError(f"{name} is registered twice; give one of them another keyword or key")
        self.specs[name] = resolve(name, value, component, self._bounds)

    def _extra(self, name: str, extra: Extra) -> None:
        if name in self.extras:
            raise ValueError(f"{name} is registered twice; give one of them another keyword or key")
        self.extras[name] = extra


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(callable(item) for item in value)
