"""A process of its own that reads pickles of DCP and tells what is in them as JSON. Never imported: run as a script.

    stdin:  frames of 8 bytes length (little-endian) and a pickle
    stdout: one line of JSON for each, {"ok": …} or {"error": …}

1. Limits: no files, no processes, 4 GiB of memory, ten minutes of computing.
2. seccomp: from here on only memory, time, reading and writing of what is open. No file, socket, process or signal can
   be had, whatever the pickle does. Where the kernel refuses the filter, nothing is read.
3. The unpickler knows a short list of names, each of which is an inert class of this file; torch is not there.
"""

from __future__ import annotations

import collections
import ctypes
import io
import json
import pickle
import platform
import resource
import struct
import sys
from collections.abc import Sequence
from typing import Any

_ALLOWED_CALLS = {  # by machine: the numbers of the same calls
    # read write mmap munmap mprotect brk mremap madvise futex exit exit_group rt_sigreturn clock_gettime getrandom
    "x86_64": (0xC000003E, (0, 1, 9, 11, 10, 12, 25, 28, 202, 60, 231, 15, 228, 318)),
    "aarch64": (0xC00000B7, (63, 64, 222, 215, 226, 214, 216, 233, 98, 93, 94, 139, 113, 278)),
}
_MEMORY_BYTES = 4 << 30
_COMPUTING_SECONDS = 600


def close_the_door() -> None:
    """Steps 1 and 2. OSError: the kernel has no such filter."""
    for limit, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _COMPUTING_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (most, most))
    machine, calls = _ALLOWED_CALLS[platform.machine()]
    program = _filter(machine, calls)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, pointer in ((38, 1, None), (22, 2, ctypes.byref(program))):  # NO_NEW_PRIVS, SECCOMP filter
        if libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses a seccomp filter")


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction))]


def _filter(machine: int, calls: Sequence[int]) -> _Program:
    load, equal, answer = 0x20, 0x15, 0x06
    refuse, allow = 0x00050001, 0x7FFF0000  # EPERM, and go on
    lines = [(load, 0, 0, 4), (equal, 1, 0, machine), (answer, 0, 0, 0x80000000), (load, 0, 0, 0)]
    for call in calls:
        lines += [(equal, 0, 1, call), (answer, 0, 0, allow)]
    lines.append((answer, 0, 0, refuse))
    instructions = (_Instruction * len(lines))(*[_Instruction(*line) for line in lines])
    return _Program(len(lines), instructions)


class Plain:
    """An object whose state is kept as it comes."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state[0] if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict) else state


_METADATA = "torch.distributed.checkpoint.metadata"
_OBJECTS = {
    (_METADATA, name)
    for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )
} | {("torch.distributed.checkpoint.filesystem", "_StorageInfo")}  # fmt: skip
_KINDS: dict[str, Any] = {name: type(name, (Plain,), {}) for _, name in _OBJECTS}
_PATHS = {"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"}
_TYPED = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip


class Named(str):
    """A name of torch: a dtype, a layout or a kind of storage."""


def size(values: Sequence[int] = ()) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def path(*parts: Any) -> str:
    return "/".join(str(part) for part in parts).replace("//", "/")


def text(value: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "utf-8"):
        raise ValueError(f"encoding {encoding}")
    return value.encode(encoding)


def layout(name: str) -> Named:
    return Named(name.removeprefix("torch."))


def tensor_v2(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> dict[str, Any]:
    return tensor_v3(storage, offset, shape, strides, None, None, storage["dtype"])


def tensor_v3(
    storage: Any, offset: int, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> dict[str, Any]:
    return {
        "tensor": storage["key"], "dtype": str(dtype), "offset": int(offset), "shape": list(shape),
        "strides": list(strides), "numel": storage["numel"],
    }  # fmt: skip


def parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_CALLS: dict[tuple[str, str], Any] = {
    ("torch", "Size"): size,
    ("torch.serialization", "_get_layout"): layout,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): text,
    ("torch._utils", "_rebuild_tensor_v2"): tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
    ("torch._utils", "_rebuild_parameter"): parameter,
}


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OBJECTS:
            return _KINDS[name]
        if (module, name) in _CALLS:
            return _CALLS[module, name]
        if module in ("pathlib", "pathlib._local") and name in _PATHS:
            return path
        if module in ("torch", "torch.storage") and name.isidentifier() and not name.startswith("_"):
            return Named(name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a DCP checkpoint")

    def persistent_load(self, told: Any) -> dict[str, Any]:
        kind, storage, key, _, numel = told
        if kind != "storage":
            raise pickle.UnpicklingError(f"a persistent {kind}")
        return {"key": str(key), "dtype": _TYPED.get(str(storage), str(storage)), "numel": int(numel)}


def tell(found: Any) -> dict[str, Any]:
    """JSON of what was unpickled: a tensor's description, or DCP's Metadata."""
    if isinstance(found, dict) and "tensor" in found:
        return found
    if type(found).__name__ != "Metadata":
        raise ValueError(f"a {type(found).__name__} where DCP's metadata or a tensor should be")
    told = found.state
    return {
        "version": told.get("version"),
        "items": [_item(fqn, described) for fqn, described in told["state_dict_metadata"].items()],
        "paths": None if told.get("planner_data") is None else [[k, list(v)] for k, v in told["planner_data"].items()],
        "storage": [_placed(index, at) for index, at in (told.get("storage_data") or {}).items()],
    }


def _item(fqn: str, described: Any) -> dict[str, Any]:
    if type(described).__name__ == "BytesStorageMetadata":
        return {"fqn": fqn}
    state = described.state
    properties = state["properties"].state
    return {
        "fqn": fqn,
        "dtype": str(properties[0]),
        "requires_grad": bool(properties[2]),
        "size": list(state["size"]),
        "chunks": [[list(chunk.state["offsets"]), list(chunk.state["sizes"])] for chunk in state["chunks"]],
    }


def _placed(index: Any, at: Any) -> dict[str, Any]:
    where, told = index.state, at.state
    return {
        "fqn": where["fqn"],
        "offset": None if where.get("offset") is None else list(where["offset"]),
        "file": str(told["relative_path"]),
        "begin": int(told["offset"]),
        "bytes": int(told["length"]),
        "transforms": [str(name) for name in told.get("transform_descriptors") or ()],
    }


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    b"".decode("latin1")  # loads the codec while files can be opened
    close_the_door()
    while head := source.read(8):
        (count,) = struct.unpack("<Q", head)
        try:
            answer: dict[str, Any] = {"ok": tell(Unpickler(io.BytesIO(source.read(count))).load())}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sink.write(json.dumps(answer).encode() + b"\n")
        sink.flush()


if __name__ == "__main__":
    main()
