"""libkeepstep through ctypes: the structs of client/keepstep.h, field by field, and where to find the library.

Importing this module loads nothing; `library()` does, once. ctypes lets go of the interpreter lock during calls.
"""

from __future__ import annotations

import ctypes as c
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from keepstep import _files
from keepstep.errors import DaemonUnavailable, KeepstepError, from_status

ABI_VERSION = 1
LIBRARY_NAME = "libkeepstep.so"

OK, DEADLINE_EXCEEDED = 0, 4
TRAIN, READ = 0, 1
TRANSFERS = {"auto": 0, "pull": 1, "window": 2}
ON_BUSY = {"wait": 0, "skip": 1, "supersede": 2}
COMPONENTS = {"model": 1, "optimizer": 2, "extra": 3}
BOXES, FLAT, PLACED = 0, 1, 2
HOST, CUDA = 0, 1
STATES = (
    "NONE", "ACCEPTED", "SNAPSHOTTED", "PERSISTED", "COMMITTED", "SKIPPED", "SUPERSEDED", "CANCELLED", "FAILED",
)  # fmt: skip
ACCEPTED, SNAPSHOTTED, PERSISTED, COMMITTED = 1, 2, 3, 4

_I64P = c.POINTER(c.c_int64)
_I32P = c.POINTER(c.c_int32)
_STRINGS = c.POINTER(c.c_char_p)


class Error(c.Structure):
    _fields_ = [
        ("code", c.c_int), ("rank", c.c_int32), ("reason", c.c_char * 64), ("stage", c.c_char * 32),
        ("message", c.c_char * 1024),
    ]  # fmt: skip


class OpenOptions(c.Structure):
    _fields_ = [
        ("struct_bytes", c.c_uint32), ("directory", c.c_char_p), ("address", c.c_char_p), ("label", c.c_char_p),
        ("run", c.c_char_p), ("mode", c.c_int), ("rank", c.c_int32), ("world_size", c.c_int32),
        ("mesh_names", _STRINGS), ("mesh_sizes", _I64P), ("mesh_dims", c.c_size_t), ("transfer", c.c_int),
        ("timeout_ms", c.c_int64), ("keep_last", c.c_int64), ("keep_every", c.c_int64), ("rescue", c.c_int32),
        ("warm", c.c_int32),
    ]  # fmt: skip


class Placement(c.Structure):
    _fields_ = [("kind", c.c_int), ("tensor_dim", c.c_int32), ("split_factor", c.c_int32)]


class Box(c.Structure):
    _fields_ = [
        ("origin", _I64P), ("shape", _I64P), ("strides_bytes", _I64P), ("offset_bytes", c.c_int64),
    ]  # fmt: skip


class Shard(c.Structure):
    _fields_ = [
        ("fqn", c.c_char_p), ("dtype", c.c_char_p), ("global_shape", _I64P), ("ndim", c.c_size_t),
        ("component", c.c_int), ("group", c.c_uint32), ("module_buffer", c.c_int32), ("data", c.c_void_p),
        ("data_bytes", c.c_int64), ("where", c.c_int), ("boxes", c.POINTER(Box)), ("box_count", c.c_size_t),
        ("flat_origin", _I64P), ("flat_shape", _I64P), ("flat_begin", c.c_int64), ("flat_end", c.c_int64),
        ("placements", c.POINTER(Placement)), ("placement_count", c.c_size_t), ("local_strides_bytes", _I64P),
        ("replica_ranks", _I32P), ("replica_count", c.c_size_t), ("memory", c.c_int),
    ]  # fmt: skip


class Extra(c.Structure):
    _fields_ = [
        ("name", c.c_char_p), ("items", c.POINTER(c.c_void_p)), ("item_bytes", c.POINTER(c.c_size_t)),
        ("item_count", c.c_size_t), ("splittable", c.c_int32),
    ]  # fmt: skip


class SaveOptions(c.Structure):
    _fields_ = [
        ("struct_bytes", c.c_uint32), ("on_busy", c.c_int), ("extras", c.POINTER(Extra)),
        ("extra_count", c.c_size_t), ("metric_names", _STRINGS), ("metric_values", c.POINTER(c.c_double)),
        ("metric_count", c.c_size_t), ("tags", _STRINGS), ("tag_count", c.c_size_t), ("timeout_ms", c.c_int64),
        ("streams", c.POINTER(c.c_void_p)), ("stream_count", c.c_size_t),
    ]  # fmt: skip


class SaveStatus(c.Structure):
    _fields_ = [
        ("number", c.c_uint64), ("step", c.c_int64), ("state", c.c_int), ("attempt", c.c_char * 64),
        ("bytes_total", c.c_int64), ("bytes_copied", c.c_int64), ("bytes_written", c.c_int64),
        ("call_seconds", c.c_double), ("snapshot_seconds", c.c_double), ("persist_seconds", c.c_double),
        ("commit_seconds", c.c_double), ("error", Error),
    ]  # fmt: skip


PROGRESS = c.CFUNCTYPE(None, c.c_void_p, c.c_int64, c.c_int64)


class LoadOptions(c.Structure):
    _fields_ = [
        ("struct_bytes", c.c_uint32), ("latest", c.c_int32), ("step", c.c_int64), ("strict", c.c_int32),
        ("convert_dtype", c.c_int32), ("only", _STRINGS), ("only_count", c.c_size_t), ("exclude", _STRINGS),
        ("exclude_count", c.c_size_t), ("rename_from", _STRINGS), ("rename_to", _STRINGS),
        ("rename_count", c.c_size_t), ("timeout_ms", c.c_int64), ("progress", PROGRESS),
        ("progress_context", c.c_void_p),
    ]  # fmt: skip


class LoadReport(c.Structure):
    _fields_ = [
        ("found", c.c_int32), ("step", c.c_int64), ("epoch", c.c_int64), ("delivered_bytes", c.c_int64),
        ("unique_bytes", c.c_int64), ("read_bytes", c.c_int64), ("warm_bytes", c.c_int64), ("seconds", c.c_double),
        ("attempt", c.c_char * 64), ("missing", c.c_void_p), ("unexpected", c.c_void_p),
        ("warm", c.c_int32), ("why_cold", c.c_char * 256),
    ]  # fmt: skip


class Info(c.Structure):
    _fields_ = [
        ("epoch", c.c_int64), ("transfer", c.c_int), ("daemon_version", c.c_char * 32), ("job", c.c_char * 256),
        ("connected", c.c_int32), ("memory_paths", c.c_char * 64),
    ]  # fmt: skip


class RescueInfo(c.Structure):
    _fields_ = [
        ("struct_bytes", c.c_uint32), ("on", c.c_int32), ("step", c.c_int64), ("why_not", c.c_char * 256),
    ]  # fmt: skip


_ERROR = c.POINTER(Error)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "ks_abi_version": (c.c_uint32, []),
    "ks_version": (c.c_char_p, []),
    "ks_default_address": (c.c_char_p, []),
    "ks_open": (c.c_int, [c.POINTER(OpenOptions), c.POINTER(c.c_void_p), _ERROR]),
    "ks_close": (None, [c.c_void_p]),
    "ks_get_info": (c.c_int, [c.c_void_p, c.POINTER(Info), _ERROR]),
    "ks_device_alloc": (c.c_int, [c.c_void_p, c.c_int32, c.c_int64, c.POINTER(c.c_void_p), _ERROR]),
    "ks_device_free": (c.c_int, [c.c_void_p, c.c_void_p, _ERROR]),
    "ks_pool_use": (c.c_int, [c.c_void_p, _ERROR]),
    "ks_pool_alloc": (c.c_void_p, [c.c_ssize_t, c.c_int32, c.c_void_p]),
    "ks_pool_free": (None, [c.c_void_p, c.c_ssize_t, c.c_int32, c.c_void_p]),
    "ks_register": (c.c_int, [c.c_void_p, c.POINTER(Shard), c.c_size_t, _ERROR]),
    "ks_save": (c.c_int, [c.c_void_p, c.c_int64, c.POINTER(SaveOptions), c.POINTER(c.c_uint64), _ERROR]),
    "ks_before_update": (c.c_int, [c.c_void_p, c.c_uint32, c.c_int64, _ERROR]),
    "ks_before_update_on": (c.c_int, [c.c_void_p, c.c_uint32, c.c_void_p, c.c_int64, _ERROR]),
    "ks_await_gate": (c.c_int, [c.c_void_p, c.c_uint32, c.c_int64, _ERROR]),
    "ks_after_update_on": (c.c_int, [c.c_void_p, c.c_uint32, c.c_void_p, _ERROR]),
    "ks_note_step": (c.c_int, [c.c_void_p, c.c_int64, c.POINTER(SaveOptions), _ERROR]),
    "ks_get_rescue": (c.c_int, [c.c_void_p, c.POINTER(RescueInfo), _ERROR]),
    "ks_gate_open": (c.c_int32, [c.c_void_p, c.c_uint32]),
    "ks_wait": (c.c_int, [c.c_void_p, c.c_uint64, c.c_int, c.c_int64, c.POINTER(SaveStatus), _ERROR]),
    "ks_should_save": (c.c_int32, [c.c_void_p, c.c_int64, c.c_int64]),
    "ks_wish_save": (c.c_int, [c.c_void_p, _ERROR]),
    "ks_load": (c.c_int, [c.c_void_p, c.POINTER(LoadOptions), c.POINTER(LoadReport), _ERROR]),
    "ks_get_extras": (
        c.c_int,
        [c.c_void_p, c.c_int32, c.c_int64, c.c_int32, c.POINTER(c.c_void_p), c.POINTER(c.c_size_t), _ERROR],
    ),
    "ks_steps": (c.c_int, [c.c_void_p, c.POINTER(_I64P), c.POINTER(c.c_size_t), _ERROR]),
    "ks_free": (None, [c.c_void_p]),
    "ks_prefetch": (None, [c.c_void_p, c.c_size_t]),
}


_lock = threading.Lock()
_loaded: c.CDLL | None = None
# Unlike the other functions it keeps the interpreter: it takes less time than giving that away and having it back.
_PREFETCH = c.PYFUNCTYPE(None, c.c_void_p, c.c_size_t)


def _no_prefetch(addresses: int, count: int) -> None:
    """Before the library is loaded."""


prefetch: Callable[[int, int], None] = _no_prefetch  # ks_prefetch; `addresses` is where they lie


def library() -> c.CDLL:
    """The loaded library; finds it at the first call. DaemonUnavailable: not found, or of another ABI."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def _load() -> c.CDLL:
    tried = _files.candidates(LIBRARY_NAME, f"client/{LIBRARY_NAME}", "KEEPSTEP_LIBRARY")
    path = next((candidate for candidate in tried if candidate.exists()), None)
    if path is None:
        raise DaemonUnavailable(
            f"{LIBRARY_NAME} not found (looked at {tried[0]} and above the package); set KEEPSTEP_LIBRARY to its "
            "path, or build it: bazel build //client:libkeepstep.so. keepstep.open reads without it.",
            code="FAILED_PRECONDITION",
            reason="NO_LIBRARY",
        )
    global prefetch
    found = c.CDLL(str(path))
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    version = found.ks_abi_version()
    if version != ABI_VERSION:
        raise DaemonUnavailable(
            f"{path} has ABI {version}, this package needs {ABI_VERSION}; install both from one release.",
            code="FAILED_PRECONDITION",
            reason="ABI_MISMATCH",
        )
    prefetch = _PREFETCH(("ks_prefetch", found))
    return found


def library_path() -> str:
    """Of the loaded library."""
    return str(library()._name)


def default_address() -> str:
    """Where a daemon listens that nobody has named, or could."""
    return text(library().ks_default_address() or b"")


def text(value: bytes) -> str:
    """A C string of the library, of which a cut may have split the last character."""
    return value.decode("utf-8", "replace")


def to_exception(error: Error) -> KeepstepError:
    """The exception for an error that the library filled in."""
    rank = error.rank if error.rank >= 0 else None
    return from_status(error.code, text(error.reason), text(error.message), rank=rank, stage=text(error.stage))


def check(code: int, error: Error) -> None:
    """Raises unless `code` is KS_OK."""
    if code != OK:
        error.code = code
        raise to_exception(error)


def record(struct: type[c.Structure]) -> np.dtype[Any]:
    """The struct as a NumPy dtype of integers, so that many of them are filled a field at a time."""
    names = [field[0] for field in struct._fields_]
    formats = [f"i{getattr(struct, name).size}" for name in names]
    offsets = [getattr(struct, name).offset for name in names]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": c.sizeof(struct)})


def strings(values: list[str]) -> Any:
    """A `const char* const*`, NULL when empty. The caller keeps it alive during the call."""
    return (c.c_char_p * len(values))(*[value.encode() for value in values]) if values else None


def int64s(values: tuple[int, ...] | list[int]) -> Any:
    """An `int64_t*` of at least one element, so that a scalar's shape is not NULL."""
    return (c.c_int64 * max(1, len(values)))(*values)


def take_string(pointer: int | None) -> str:
    """Copies and frees a malloc'd C string of the library."""
    if not pointer:
        return ""
    value = text(c.cast(pointer, c.c_char_p).value or b"")
    library().ks_free(pointer)
    return value
