"""Notices that a registered dict or list holds other objects than when it was registered.

A save copies the memory that was registered. Where a program puts a new array into the same dict, that memory is a
stale one, and saving it silently would be the worst of bugs; so every save and load looks first. The look must not cost
more with more tensors: CPython gives each dict a version that any change of the dict raises (PEP 509, CPython 3.10 to
3.13), so an unchanged dict costs one comparison however large it is. Where there is no such version, and for other
containers, every entry is compared by identity: some 20 ns each.

What is not noticed: an array whose memory is moved underneath it (`resize(refcheck=False)`), and a container that is
itself replaced by another one.
"""

from __future__ import annotations

import ctypes as c
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Of PyDictObject: reference count, type and number of entries come before it.
_VERSION_OFFSET = 3 * c.sizeof(c.c_void_p)


def _version(container: dict[Any, Any]) -> c.c_uint64:
    return c.c_uint64.from_address(id(container) + _VERSION_OFFSET)


def _has_versions() -> bool:
    """Whether every way to change a dict changes its version here, and nothing else does."""
    if object.__basicsize__ != 2 * c.sizeof(c.c_void_p):
        return False
    sample: dict[str, object] = {"a": object(), "b": object()}
    version = _version(sample)
    seen = [version.value]
    changes: list[Callable[[], object]] = [
        lambda: sample.__setitem__("a", object()),
        lambda: sample.update(b=object()),
        lambda: sample.pop("b"),
        lambda: sample.setdefault("c", object()),
    ]
    for change in changes:
        change()
        seen.append(version.value)
    _ = sample["a"], list(sample.items()), sample.get("missing")
    return len(set(seen)) == len(seen) and version.value == seen[-1]


try:
    _VERSIONED = _has_versions()
except Exception:  # another interpreter
    _VERSIONED = False


class Containers:
    """The containers of one registration, as they were. Holds them, so that no address is used again.

    Args:
        held: of a container, the objects that must stay the same; by default all keys and values.
    """

    def __init__(self, held: Callable[[Any], tuple[Any, ...]] | None = None) -> None:
        self._held = held or _all
        self._versions: list[tuple[dict[Any, Any], c.c_uint64, int, tuple[Any, ...]]] = []
        self._entries: list[tuple[Any, tuple[Any, ...]]] = []

    def add(self, container: Mapping[Any, Any] | Sequence[Any]) -> None:
        held = self._held(container)
        if _VERSIONED and isinstance(container, dict) and type(container) in (dict, defaultdict):
            version = _version(container)
            self._versions.append((container, version, version.value, held))
        else:
            self._entries.append((container, held))

    def changed(self) -> bool:
        """Whether any of them holds other objects, or more or fewer, than when it was added."""
        for index, (container, version, seen, held) in enumerate(self._versions):
            now = version.value
            if now != seen:
                if not self._same(container, held):
                    return True
                self._versions[index] = (container, version, now, held)
        return any(not self._same(container, held) for container, held in self._entries)

    def _same(self, container: Any, held: tuple[Any, ...]) -> bool:
        now = self._held(container)
        return len(now) == len(held) and all(map(operator.is_, now, held))


def _all(container: Mapping[Any, Any] | Sequence[Any]) -> tuple[Any, ...]:
    return (*container, *container.values()) if isinstance(container, Mapping) else tuple(container)
