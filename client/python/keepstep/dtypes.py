"""Element types: the names that go to disk (as safetensors spells them) and their NumPy dtypes.

NumPy has no bfloat16 and no 8-bit floats. With the `ml_dtypes` package installed they are real dtypes; without it such
arrays are unsigned integers of the same width, and the caller names the type: `Sharded(..., dtype="BF16")`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import ml_dtypes

    _ML: Any = ml_dtypes
except ImportError:
    _ML = None

_PLAIN = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16", "I32": "int32",
    "U32": "uint32", "F32": "float32", "F64": "float64", "I64": "int64", "U64": "uint64", "C64": "complex64",
    "C128": "complex128",
}  # fmt: skip
_EXTENDED = {  # name on disk → (name in ml_dtypes, integer of the same width)
    "BF16": ("bfloat16", "uint16"),
    "F8_E4M3": ("float8_e4m3fn", "uint8"),
    "F8_E5M2": ("float8_e5m2", "uint8"),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", "uint8"),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", "uint8"),
    "F8_E8M0": ("float8_e8m0fnu", "uint8"),
}


def _extended(name: str) -> np.dtype[Any] | None:
    scalar = getattr(_ML, _EXTENDED[name][0], None)
    return None if scalar is None else np.dtype(scalar)


_BY_NUMPY: dict[np.dtype[Any], str] = {np.dtype(numpy_name): name for name, numpy_name in _PLAIN.items()}
_BY_NUMPY.update({dtype: name for name in _EXTENDED if (dtype := _extended(name)) is not None})


def to_numpy(name: str) -> np.dtype[Any]:
    """The dtype that holds elements of `name`; an unsigned integer where NumPy lacks the type. ValueError: unknown."""
    if name in _PLAIN:
        return np.dtype(_PLAIN[name])
    if name in _EXTENDED:
        found = _extended(name)
        return np.dtype(_EXTENDED[name][1]) if found is None else found
    raise ValueError(f"unknown dtype {name!r}; known are {', '.join([*_PLAIN, *_EXTENDED])}")


def is_known(name: str) -> bool:
    """Whether `name` is an element type that can be stored."""
    return name in _PLAIN or name in _EXTENDED


def item_bytes(name: str) -> int:
    """Size of one element of `name`."""
    return to_numpy(name).itemsize


def from_numpy(dtype: np.dtype[Any]) -> str:
    """The name on disk of a NumPy dtype. TypeError: it has none (objects, strings, big-endian)."""
    name = _BY_NUMPY.get(dtype)
    if name is None or not dtype.isnative:
        raise TypeError(f"arrays of {dtype} cannot be stored; convert them to one of {', '.join(_PLAIN)}")
    return name
