"""State that is not a tensor (schedulers, data loaders, random generators): values ⇄ bytes, without pickle.

JSON, with one-key objects for what JSON lacks: {"$bytes": base64}, {"$tuple": […]}, {"$set": […]}, {"$array": {dtype,
shape, data}}, {"$scalar": …} for NumPy scalars, {"$dict": [[key, value], …]} for a mapping whose keys are not all plain
strings, {"$counter": …} the same for a Counter, and what keepstep/torch/values.py adds for PyTorch.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

RNG = "keepstep.rng"


@dataclass(frozen=True)
class Extra:
    """How to read a piece of state at a save, and to give it back; `restore` None: see `Checkpointer.extras`.

    `merge`: `restore` gets what every rank saved, by rank, instead of this rank's or else the lowest rank's.
    `packed`: reads and packs at once, for what knows what of it has changed since the save before.
    """

    read: Callable[[], Any]
    restore: Callable[[Any], Any] | None
    merge: bool = False
    packed: Callable[[], Packed] | None = None

    def pack(self) -> Packed:
        """What `read` returns now, as it is stored. TypeError as `encode`."""
        return pack(self.read()) if self.packed is None else self.packed()


Stored: TypeAlias = "Mapping[str, Mapping[int, Any]]"  # decoded extras of a checkpoint: name → rank → value


class ItemList(list[Any]):
    """A value that is stored item by item."""


@dataclass(frozen=True)
class Packed:
    """A value as it is stored: one item, or those of an ItemList."""

    items: tuple[bytes, ...]
    splittable: bool = False

    def value(self) -> Any:
        """What was packed."""
        return ItemList(map(decode, self.items)) if self.splittable else decode(b"".join(self.items))


def pack(value: Any) -> Packed:
    """TypeError as `encode`."""
    return Packed(tuple(map(encode, value)), True) if isinstance(value, ItemList) else Packed((encode(value),))


def encode(value: Any) -> bytes:
    """TypeError, naming the type, for what cannot be kept without pickle."""
    return json.dumps(_pack(value), separators=(",", ":")).encode()


def decode(data: bytes) -> Any:
    """The way back; tuples, bytes, arrays and non-string keys return as they were."""
    return _unpack(json.loads(data))


def _pack(value: Any) -> Any:
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray):
        return {"$array": _pack_array(value)}
    if isinstance(value, np.generic):
        return {"$scalar": _pack_array(np.asarray(value))}
    if isinstance(value, tuple):
        return {"$tuple": [_pack(item) for item in value]}
    if isinstance(value, list | deque):
        return [_pack(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"$set": sorted((_pack(item) for item in value), key=str)}
    if isinstance(value, Counter):
        return {"$counter": [[_pack(key), count] for key, count in value.items()]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(item) for key, item in value.items()}
        return {"$dict": [[_pack(key), _pack(item)] for key, item in value.items()]}
    packed = _pack_foreign(value)
    if packed is not None:
        return packed
    raise TypeError(
        f"{type(value).__name__} cannot be saved as extra state; let state_dict() return numbers, strings, bytes, "
        "arrays, and lists, tuples and dicts of them"
    )


# Kinds of keepstep/torch/values.py, which is imported only where one of them is met.
_FOREIGN = frozenset({"$tensor", "$dtype", "$device"})


def _pack_foreign(value: Any) -> Any:
    if not type(value).__module__.startswith("torch"):
        return None
    from keepstep.torch import values

    return values.pack(value)


def _unpack_foreign(kind: str, inner: Any) -> Any:
    from keepstep.torch import values

    return values.unpack(kind, inner)


def _pack_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.hasobject:
        raise TypeError("arrays of objects cannot be saved as extra state; use numbers or strings")
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "$bytes":
            return base64.b64decode(inner)
        if kind == "$tuple":
            return tuple(_unpack(item) for item in inner)
        if kind == "$dict":
            return {_unpack(key): _unpack(item) for key, item in inner}
        if kind == "$set":
            return {_unpack(item) for item in inner}
        if kind == "$counter":
            return Counter({_unpack(key): count for key, count in inner})
        if kind in _FOREIGN:
            return _unpack_foreign(kind, inner)
        if kind == "$array":
            return _unpack_array(inner)
        if kind == "$scalar":
            return _unpack_array(inner)[()]
    return {key: _unpack(item) for key, item in value.items()}


def _unpack_array(packed: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    raw = np.frombuffer(base64.b64decode(packed["data"]), dtype=np.dtype(packed["dtype"]))
    return raw.reshape(packed["shape"]).copy()


@dataclass(frozen=True)
class StoredExtra:
    """One extra of a checkpoint, as ks_get_extras returns it."""

    name: str
    rank: int
    coordinate: tuple[int, ...]
    splittable: bool
    items: tuple[bytes, ...]

    def value(self) -> Any:
        """What was saved."""
        return Packed(self.items, self.splittable).value()


class _Cursor:
    """Reads the packed little-endian record of client/extras.h; ValueError past its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ValueError("the record of extras is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return int(value)


def parse_record(data: bytes) -> tuple[int, list[StoredExtra]]:
    """The step, and its extras, of the record that client/extras.h describes."""
    cursor = _Cursor(data)
    step = cursor.number("q")
    extras = []
    for _ in range(cursor.number("I")):
        name = cursor.take(cursor.number("I")).decode()
        rank = cursor.number("i")
        coordinate = tuple(cursor.number("q") for _ in range(cursor.number("I")))
        splittable = cursor.number("B") != 0
        items = tuple(cursor.take(cursor.number("Q")) for _ in range(cursor.number("I")))
        extras.append(StoredExtra(name, rank, coordinate, splittable, items))
    return step, extras
