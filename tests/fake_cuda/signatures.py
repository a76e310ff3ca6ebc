"""The calls of the driver that tests make from Python: symbols and argument types, after cuda.h."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any


class Uuid(ctypes.Structure):
    _fields_ = [("bytes", c_ubyte * 16)]


class IpcHandle(ctypes.Structure):
    """CUipcMemHandle and CUipcEventHandle; both are passed by value."""

    _fields_ = [("bytes", c_ubyte * 64)]


class Location(ctypes.Structure):
    _fields_ = [("type", c_int), ("id", c_int)]


class AllocationProperties(ctypes.Structure):
    _fields_ = [("type", c_int), ("handle_types", c_int), ("location", Location), ("win32", c_void_p),
                ("flags", c_ubyte * 8)]


class AccessDescription(ctypes.Structure):
    _fields_ = [("location", Location), ("flags", c_int)]


_handle = c_void_p  # CUstream, CUevent, CUcontext
_pointer = c_uint64  # CUdeviceptr, CUmemGenericAllocationHandle

# The name in cuda.h: the symbol that it maps to, and the types of its arguments.
SIGNATURES: dict[str, tuple[str, list[Any]]] = {
    "cuInit": ("cuInit", [c_uint]),
    "cuDriverGetVersion": ("cuDriverGetVersion", [POINTER(c_int)]),
    "cuGetErrorName": ("cuGetErrorName", [c_int, POINTER(c_char_p)]),
    "cuDeviceGetCount": ("cuDeviceGetCount", [POINTER(c_int)]),
    "cuDeviceGetUuid": ("cuDeviceGetUuid_v2", [POINTER(Uuid), c_int]),
    "cuDeviceGetName": ("cuDeviceGetName", [c_void_p, c_int, c_int]),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", [POINTER(c_int), c_int, c_int]),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", [POINTER(_handle), c_int]),
    "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", [c_int]),
    "cuCtxSetCurrent": ("cuCtxSetCurrent", [_handle]),
    "cuCtxSynchronize": ("cuCtxSynchronize", []),
    "cuMemGetInfo": ("cuMemGetInfo_v2", [POINTER(c_size_t), POINTER(c_size_t)]),
    "cuMemAlloc": ("cuMemAlloc_v2", [POINTER(_pointer), c_size_t]),
    "cuMemFree": ("cuMemFree_v2", [_pointer]),
    "cuMemAllocAsync": ("cuMemAllocAsync", [POINTER(_pointer), c_size_t, _handle]),
    "cuMemFreeAsync": ("cuMemFreeAsync", [_pointer, _handle]),
    "cuMemGetAddressRange": ("cuMemGetAddressRange_v2", [POINTER(_pointer), POINTER(c_size_t), _pointer]),
    "cuMemHostRegister": ("cuMemHostRegister_v2", [c_void_p, c_size_t, c_uint]),
    "cuMemHostUnregister": ("cuMemHostUnregister", [c_void_p]),
    "cuMemcpyHtoD": ("cuMemcpyHtoD_v2", [_pointer, c_void_p, c_size_t]),
    "cuMemcpyDtoH": ("cuMemcpyDtoH_v2", [c_void_p, _pointer, c_size_t]),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", [_pointer, c_void_p, c_size_t, _handle]),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", [c_void_p, _pointer, c_size_t, _handle]),
    "cuMemcpyDtoDAsync": ("cuMemcpyDtoDAsync_v2", [_pointer, _pointer, c_size_t, _handle]),
    "cuMemsetD8Async": ("cuMemsetD8Async", [_pointer, c_ubyte, c_size_t, _handle]),
    "cuStreamCreate": ("cuStreamCreate", [POINTER(_handle), c_uint]),
    "cuStreamDestroy": ("cuStreamDestroy_v2", [_handle]),
    "cuStreamSynchronize": ("cuStreamSynchronize", [_handle]),
    "cuStreamQuery": ("cuStreamQuery", [_handle]),
    "cuStreamWaitEvent": ("cuStreamWaitEvent", [_handle, _handle, c_uint]),
    "cuStreamWaitValue32": ("cuStreamWaitValue32_v2", [_handle, _pointer, c_uint32, c_uint]),
    "cuStreamWriteValue32": ("cuStreamWriteValue32_v2", [_handle, _pointer, c_uint32, c_uint]),
    "cuEventCreate": ("cuEventCreate", [POINTER(_handle), c_uint]),
    "cuEventDestroy": ("cuEventDestroy_v2", [_handle]),
    "cuEventRecord": ("cuEventRecord", [_handle, _handle]),
    "cuEventQuery": ("cuEventQuery", [_handle]),
    "cuEventSynchronize": ("cuEventSynchronize", [_handle]),
    "cuEventElapsedTime": ("cuEventElapsedTime", [POINTER(c_float), _handle, _handle]),
    "cuIpcGetMemHandle": ("cuIpcGetMemHandle", [POINTER(IpcHandle), _pointer]),
    "cuIpcOpenMemHandle": ("cuIpcOpenMemHandle_v2", [POINTER(_pointer), IpcHandle, c_uint]),
    "cuIpcCloseMemHandle": ("cuIpcCloseMemHandle", [_pointer]),
    "cuMemGetAllocationGranularity": ("cuMemGetAllocationGranularity",
                                      [POINTER(c_size_t), POINTER(AllocationProperties), c_int]),
    "cuMemAddressReserve": ("cuMemAddressReserve", [POINTER(_pointer), c_size_t, c_size_t, _pointer, c_uint64]),
    "cuMemAddressFree": ("cuMemAddressFree", [_pointer, c_size_t]),
    "cuMemCreate": ("cuMemCreate", [POINTER(_pointer), c_size_t, POINTER(AllocationProperties), c_uint64]),
    "cuMemRelease": ("cuMemRelease", [_pointer]),
    "cuMemMap": ("cuMemMap", [_pointer, c_size_t, c_size_t, _pointer, c_uint64]),
    "cuMemUnmap": ("cuMemUnmap", [_pointer, c_size_t]),
    "cuMemSetAccess": ("cuMemSetAccess", [_pointer, c_size_t, POINTER(AccessDescription), c_size_t]),
}
