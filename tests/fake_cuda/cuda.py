"""CUDA's driver API for tests in Python, on the fake driver or a real one: whichever libcuda.so.1 the loader finds.

    gpu = Gpu()
    block = gpu.alloc(1 << 20)
    block.write(numpy.arange(1000))
    with gpu.stream() as stream: block.fill(0, stream=stream)

A process uses the driver that it was started with (`environment`), so a test that needs other settings starts a child.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Any

import numpy
from numpy.typing import NDArray

from tests.fake_cuda.signatures import SIGNATURES, AccessDescription, AllocationProperties, IpcHandle, Location, Uuid

NOT_READY = 600
GEQ = 0

_NON_BLOCKING = 1
_DISABLE_TIMING = 2
_INTERPROCESS = 4
_PINNED = 1
_ON_DEVICE = 1
_DESCRIPTOR = 1
_READ_WRITE = 3
_LAZY_PEER_ACCESS = 1

_Array = NDArray[Any]


class CudaError(RuntimeError):
    """A call of the driver failed.

    Attributes:
        call: Its name.
        code: The CUresult.
    """

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name} ({code})")
        self.call = call
        self.code = code


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@cache
def _function(name: str) -> Any:
    symbol, types = SIGNATURES[name]
    function = getattr(_library(), symbol)
    function.argtypes = types
    function.restype = ctypes.c_int
    return function


def call(name: str, *arguments: Any) -> None:
    """Calls the driver by the name in cuda.h.

    Raises:
        CudaError: It failed.
        OSError: There is no driver.
    """
    code = _function(name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _function("cuGetErrorName")(code, ctypes.byref(text))
        raise CudaError(name, code, (text.value or b"unknown").decode())


def _made(name: str, kind: Any, *arguments: Any) -> int:
    """What a call stores in its first argument."""
    value = kind()
    call(name, ctypes.byref(value), *arguments)
    return int(value.value or 0)


def _ready(name: str, handle: int) -> bool:
    try:
        call(name, handle)
    except CudaError as error:
        if error.code != NOT_READY:
            raise
        return False
    return True


def device_count() -> int:
    call("cuInit", 0)
    return _made("cuDeviceGetCount", ctypes.c_int)


def driver_version() -> int:
    """Of the newest CUDA that the driver knows: 13000 for 13.0."""
    return _made("cuDriverGetVersion", ctypes.c_int)


class Stream:
    """A stream that does not order itself with the legacy one; leaving its `with` waits for it and destroys it."""

    def __init__(self) -> None:
        self.handle = _made("cuStreamCreate", ctypes.c_void_p, _NON_BLOCKING)

    def synchronize(self) -> None:
        call("cuStreamSynchronize", self.handle)

    def done(self) -> bool:
        return _ready("cuStreamQuery", self.handle)

    def wait_event(self, event: Event) -> None:
        call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def wait_value(self, address: int, value: int, comparison: int = GEQ) -> None:
        """Stands until the 32-bit word at `address`, in registered host or device memory, compares so."""
        call("cuStreamWaitValue32", self.handle, address, value, comparison)

    def write_value(self, address: int, value: int) -> None:
        call("cuStreamWriteValue32", self.handle, address, value, 0)

    def destroy(self) -> None:
        call("cuStreamDestroy", self.handle)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.synchronize()
            self.destroy()


class Event:
    def __init__(self, *, timed: bool = False, interprocess: bool = False) -> None:
        flags = (0 if timed else _DISABLE_TIMING) | (_INTERPROCESS if interprocess else 0)
        self.handle = _made("cuEventCreate", ctypes.c_void_p, flags)

    def record(self, stream: Stream | None = None) -> None:
        call("cuEventRecord", self.handle, stream.handle if stream else None)

    def done(self) -> bool:
        """True too if it was never recorded."""
        return _ready("cuEventQuery", self.handle)

    def synchronize(self) -> None:
        call("cuEventSynchronize", self.handle)

    def seconds_since(self, start: Event) -> float:
        milliseconds = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(milliseconds), start.handle, self.handle)
        return milliseconds.value / 1e3

    def destroy(self) -> None:
        call("cuEventDestroy", self.handle)


class Memory:
    """Device memory at `pointer`. Freeing it is the maker's: Block, Pieces, Opened."""

    def __init__(self, pointer: int, size_bytes: int) -> None:
        self.pointer = pointer
        self.size_bytes = size_bytes

    def write(self, array: _Array, offset_bytes: int = 0, stream: Stream | None = None) -> None:
        """Copies `array`, contiguous, in. With a stream the copy is queued; of memory that is not registered the bytes
        are taken before this returns."""
        assert array.flags.c_contiguous, "copy it first: only contiguous arrays are written"
        target, source = self.pointer + offset_bytes, array.ctypes.data
        if stream:
            call("cuMemcpyHtoDAsync", target, source, array.nbytes, stream.handle)
        else:
            call("cuMemcpyHtoD", target, source, array.nbytes)

    def read(self, size_bytes: int | None = None, offset_bytes: int = 0) -> NDArray[numpy.uint8]:
        """The bytes there, once all work on blocking streams is done."""
        array = numpy.empty(self.size_bytes - offset_bytes if size_bytes is None else size_bytes, numpy.uint8)
        call("cuMemcpyDtoH", array.ctypes.data, self.pointer + offset_bytes, array.nbytes)
        return array

    def read_into(self, array: _Array, offset_bytes: int = 0, *, stream: Stream) -> None:
        """Queues a copy into `array`; into memory that is not registered it is over when this returns."""
        call("cuMemcpyDtoHAsync", array.ctypes.data, self.pointer + offset_bytes, array.nbytes, stream.handle)

    def copy_from(self, other: Memory, *, stream: Stream) -> None:
        call("cuMemcpyDtoDAsync", self.pointer, other.pointer, other.size_bytes, stream.handle)

    def fill(self, byte: int, size_bytes: int | None = None, offset_bytes: int = 0,
             stream: Stream | None = None) -> None:
        size_bytes = self.size_bytes - offset_bytes if size_bytes is None else size_bytes
        call("cuMemsetD8Async", self.pointer + offset_bytes, byte, size_bytes, stream.handle if stream else None)


class Block(Memory):
    """One cuMemAlloc."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(_made("cuMemAlloc", ctypes.c_uint64, size_bytes), size_bytes)

    def export(self) -> bytes:
        """A legacy handle, 64 bytes."""
        handle = IpcHandle()
        call("cuIpcGetMemHandle", ctypes.byref(handle), self.pointer)
        return bytes(handle.bytes)

    def free(self) -> None:
        call("cuMemFree", self.pointer)


class PoolBlock(Memory):
    """One cuMemAllocAsync of the default pool: it has no handle of any kind."""

    def __init__(self, size_bytes: int, stream: Stream) -> None:
        super().__init__(_made("cuMemAllocAsync", ctypes.c_uint64, size_bytes, stream.handle), size_bytes)

    def free(self, stream: Stream) -> None:
        call("cuMemFreeAsync", self.pointer, stream.handle)


class Opened(Memory):
    """What a legacy handle of another process leads to."""

    def __init__(self, handle: bytes) -> None:
        pointer = _made("cuIpcOpenMemHandle", ctypes.c_uint64, IpcHandle.from_buffer_copy(handle), _LAZY_PEER_ACCESS)
        size_bytes = ctypes.c_size_t()
        call("cuMemGetAddressRange", None, ctypes.byref(size_bytes), pointer)
        super().__init__(pointer, size_bytes.value)

    def close(self) -> None:
        call("cuIpcCloseMemHandle", self.pointer)


class Pieces(Memory):
    """Memory that is mapped piece by piece into one range of addresses, as PyTorch's expandable segments grow.

    Args:
        sizes: Bytes of each piece, rounded up to the granularity.
        reserve_bytes: Addresses to keep for further pieces.
        exportable: Whether a piece can become a descriptor.
    """

    def __init__(self, device: int, sizes: Sequence[int], reserve_bytes: int, exportable: bool) -> None:
        self._properties = AllocationProperties(
            type=_PINNED, handle_types=_DESCRIPTOR if exportable else 0, location=Location(_ON_DEVICE, device))
        self.granularity = _made("cuMemGetAllocationGranularity", ctypes.c_size_t, ctypes.byref(self._properties), 0)
        self.piece_sizes: list[int] = []
        self._reserved_bytes = self._whole(max(reserve_bytes, sum(self._whole(size) for size in sizes)))
        super().__init__(_made("cuMemAddressReserve", ctypes.c_uint64, self._reserved_bytes, 0, 0, 0), 0)
        for size in sizes:
            self.grow(size)

    def _whole(self, size_bytes: int) -> int:
        return -(-size_bytes // self.granularity) * self.granularity

    def grow(self, size_bytes: int) -> None:
        """Maps one more piece behind the last."""
        size_bytes = self._whole(size_bytes)
        handle = _made("cuMemCreate", ctypes.c_uint64, size_bytes, ctypes.byref(self._properties), 0)
        end = self.pointer + self.size_bytes
        try:
            call("cuMemMap", end, size_bytes, 0, handle, 0)
        finally:
            call("cuMemRelease", handle)  # the mapping keeps it
        access = AccessDescription(self._properties.location, _READ_WRITE)
        call("cuMemSetAccess", end, size_bytes, ctypes.byref(access), 1)
        self.piece_sizes.append(size_bytes)
        self.size_bytes += size_bytes

    def shrink(self) -> None:
        """Unmaps the last piece."""
        size_bytes = self.piece_sizes.pop()
        self.size_bytes -= size_bytes
        call("cuMemUnmap", self.pointer + self.size_bytes, size_bytes)

    def free(self) -> None:
        while self.piece_sizes:
            self.shrink()
        call("cuMemAddressFree", self.pointer, self._reserved_bytes)


class Gpu:
    """A GPU, with its primary context current on the thread that makes this.

    Raises:
        CudaError: There is no such GPU, or it cannot be used.
        OSError: There is no driver.
    """

    def __init__(self, ordinal: int = 0) -> None:
        call("cuInit", 0)
        self.ordinal = ordinal
        self._context = _made("cuDevicePrimaryCtxRetain", ctypes.c_void_p, ordinal)
        self.use()

    def use(self) -> None:
        """Makes its context the calling thread's."""
        call("cuCtxSetCurrent", self._context)

    @property
    def uuid(self) -> bytes:
        uuid = Uuid()
        call("cuDeviceGetUuid", ctypes.byref(uuid), self.ordinal)
        return bytes(uuid.bytes)

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        call("cuDeviceGetName", text, len(text), self.ordinal)
        return text.value.decode()

    def attribute(self, number: int) -> int:
        """A CUdevice_attribute by its number."""
        return _made("cuDeviceGetAttribute", ctypes.c_int, number, self.ordinal)

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        call("cuMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def alloc(self, size_bytes: int) -> Block:
        return Block(size_bytes)

    def alloc_from_pool(self, size_bytes: int, stream: Stream) -> PoolBlock:
        return PoolBlock(size_bytes, stream)

    def alloc_pieces(self, sizes: Sequence[int], *, reserve_bytes: int = 0, exportable: bool = True) -> Pieces:
        return Pieces(self.ordinal, sizes, reserve_bytes, exportable)

    def open(self, handle: bytes) -> Opened:
        return Opened(handle)

    def stream(self) -> Stream:
        return Stream()

    def event(self, *, timed: bool = False, interprocess: bool = False) -> Event:
        return Event(timed=timed, interprocess=interprocess)

    def register(self, array: _Array) -> int:
        """Makes host memory the driver's too; returns its address for streams. It must outlive its unregister."""
        call("cuMemHostRegister", array.ctypes.data, array.nbytes, 0)
        return int(array.ctypes.data)

    def unregister(self, array: _Array) -> None:
        call("cuMemHostUnregister", array.ctypes.data)

    def synchronize(self) -> None:
        call("cuCtxSynchronize")

    def close(self) -> None:
        """Lets go of the context; the last to do so ends it, and all that it holds."""
        call("cuCtxSetCurrent", None)
        call("cuDevicePrimaryCtxRelease", self.ordinal)
