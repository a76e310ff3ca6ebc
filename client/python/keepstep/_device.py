"""Arrays in GPU memory, as far as registering them needs: where they lie and how. Their elements are never read here.

A tensor of PyTorch on CUDA, an object with `__cuda_array_interface__` (CuPy, Numba), or one that hands out DLPack of a
CUDA device. Nothing here imports those libraries or calls CUDA: the library does, for the first such array.
"""

from __future__ import annotations

import ctypes as c
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DLPACK_CUDA = frozenset({2, 13})  # kDLCUDA, kDLCUDAManaged


@dataclass(frozen=True)
class Flags:
    """As an ndarray's."""

    c_contiguous: bool
    writeable: bool


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """Memory of a GPU as a strided array; `owner` keeps it alive. `strides` are in bytes, as NumPy has them.

    `element` names the type on disk where NumPy lacks it; `dtype` is then an unsigned integer of the same size.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    element: str | None = None
    writeable: bool = True
    stream: int | None = None  # that the producer works on, where it says so
    torch_device: int | None = None  # of a tensor of PyTorch

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def flags(self) -> Flags:
        expected, contiguous = self.itemsize, True
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            contiguous &= extent == 1 or stride == expected
            expected *= extent
        return Flags(contiguous or self.size == 0, self.writeable)


def dense_strides(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Of a row-major array."""
    strides, step = [], item_bytes
    for extent in reversed(shape):
        strides.append(step)
        step *= max(1, extent)
    return tuple(reversed(strides))


def is_device_array(value: Any) -> bool:
    """Whether `value` says that it lies in the memory of a CUDA device. Asks nothing that would copy."""
    if isinstance(value, DeviceArray) or hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    return callable(device) and device()[0] in _DLPACK_CUDA


def device_array(value: Any) -> DeviceArray:
    """The memory of a value that `is_device_array`. TypeError: of a kind that cannot be stored."""
    if isinstance(value, DeviceArray):
        return value
    if hasattr(value, "__cuda_array_interface__"):
        return _of_interface(value, value.__cuda_array_interface__)
    return _of_dlpack(value)


def _of_interface(value: Any, interface: dict[str, Any]) -> DeviceArray:
    if interface.get("mask") is not None:
        raise TypeError("a masked array; register its data and its mask as arrays of their own")
    dtype = np.dtype(interface["typestr"])
    shape = tuple(interface["shape"])
    address, read_only = interface["data"]
    strides = interface.get("strides") or dense_strides(shape, dtype.itemsize)
    return DeviceArray(int(address or 0), shape, tuple(strides), dtype, value, writeable=not read_only,
                       stream=interface.get("stream"))  # fmt: skip


class _DLTensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p), ("device_type", c.c_int32), ("device_id", c.c_int32), ("ndim", c.c_int32),
        ("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16), ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)), ("byte_offset", c.c_uint64),
    ]  # fmt: skip


# (code, bits) of DLPack → NumPy's type, and the name on disk of those that NumPy lacks.
_KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}
_ELEMENTS = {
    (4, 16): "BF16", (10, 8): "F8_E4M3", (11, 8): "F8_E4M3FNUZ", (12, 8): "F8_E5M2", (13, 8): "F8_E5M2FNUZ",
    (14, 8): "F8_E8M0",
}  # fmt: skip


def _of_dlpack(value: Any) -> DeviceArray:
    # -1: no stream is to wait for the producer's; that is the save's affair.
    capsule = value.__dlpack__(stream=-1)
    pointer = c.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    # Not taken over: the capsule frees what it describes when it goes, and the array holds it.
    told = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    if told.lanes != 1:
        raise TypeError(f"an array of vectors of {told.lanes}; register it with a last dimension of that extent")
    element = _ELEMENTS.get((told.code, told.bits))
    kind = "u" if element else _KINDS.get(told.code)
    if kind is None or told.bits % 8:
        raise TypeError(f"an array of DLPack type {told.code} with {told.bits} bits cannot be stored")
    dtype = np.dtype(f"{kind}{told.bits // 8}")
    shape = tuple(told.shape[dim] for dim in range(told.ndim))
    strides = dense_strides(shape, dtype.itemsize)
    if told.strides:
        strides = tuple(told.strides[dim] * dtype.itemsize for dim in range(told.ndim))
    address = (told.data or 0) + told.byte_offset
    return DeviceArray(address, shape, strides, dtype, (value, capsule), element)


class Streams:
    """The streams whose queued work a save comes after: PyTorch's current ones, and those that producers have named.

    The library takes the default stream of every GPU that has none here.
    """

    def __init__(self, arrays: Iterable[Any] = ()) -> None:
        held = [array for array in arrays if isinstance(array, DeviceArray)]
        self._torch_devices = sorted({array.torch_device for array in held if array.torch_device is not None})
        self._named = {array.stream for array in held if array.stream is not None}

    def of_torch(self) -> int | None:
        """PyTorch's current one, where its tensors lie on one GPU."""
        if len(self._torch_devices) != 1:
            return None
        return int(sys.modules["torch"].cuda.current_stream(self._torch_devices[0]).cuda_stream)

    def now(self, further: Sequence[int] = ()) -> list[int]:
        """Their handles, with `further` ones; empty where nothing lies on a GPU."""
        handles = self._named | set(further)
        if self._torch_devices:
            cuda = sys.modules["torch"].cuda
            handles |= {int(cuda.current_stream(device).cuda_stream) for device in self._torch_devices}
        return sorted(handles)
