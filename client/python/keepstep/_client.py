"""One `ks_client` with Python types around it: bytes in, dataclasses out, errors raised.

Thread-safe. A blocking wait is cut into slices: Ctrl-C is served, and `close` never frees a client that is in use.
"""

from __future__ import annotations

import ctypes as c
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keepstep import _ffi
from keepstep._registration import Spec, marshal
from keepstep._save_options import SaveOptions
from keepstep.errors import KeepstepError, SaveTimeout
from keepstep.extras import Packed, StoredExtra, parse_record

_SLICE_SECONDS = 0.5
OVER = frozenset({"COMMITTED", "SKIPPED", "SUPERSEDED", "CANCELLED", "FAILED"})


@dataclass(frozen=True)
class SaveStatus:
    """What is known of one save; seconds are since the call, 0 while not reached."""

    number: int
    step: int
    state: str
    attempt: str = ""
    bytes_total: int = 0
    bytes_copied: int = 0
    bytes_written: int = 0
    call_seconds: float = 0.0
    snapshot_seconds: float = 0.0
    persist_seconds: float = 0.0
    commit_seconds: float = 0.0
    error: KeepstepError | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True)
class Rescue:
    """Whether the daemon saves this process's memory when it has died, as far as this process can tell.

    Attributes:
        on: what is noted counts.
        step: the newest that was noted of what is registered; None: none yet.
        why_not: the reason, where it is off; training goes on either way.
    """

    on: bool
    step: int | None
    why_not: str


@dataclass(frozen=True)
class LoadReport:
    """What a load did, and where its bytes came from."""

    step: int
    epoch: int
    attempt: str
    delivered_bytes: int
    unique_bytes: int
    read_bytes: int
    warm_bytes: int
    seconds: float
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    warm: bool = False  # nothing was loaded: the memory was kept, and is of `step`
    why_cold: str = ""  # of the first load with warm=True, where it was not


class Client:
    def __init__(
        self,
        directory: str,
        *,
        address: str | None,
        label: str | None,
        run: str | None,
        read_only: bool,
        rank: int,
        world_size: int,
        mesh: Mapping[str, int] | None,
        transfer: str,
        keep_last: int = 0,
        keep_every: int = 0,
        rescue: bool = False,
        warm: bool = False,
    ) -> None:
        self._library = _ffi.library()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)  # nobody uses the pointer of a closed client any more
        self._users = 0
        self._pointer: c.c_void_p | None = None
        self._pid = os.getpid()
        self._save_options = SaveOptions()
        names = list(mesh or {})
        options = _ffi.OpenOptions(
            struct_bytes=c.sizeof(_ffi.OpenOptions),
            directory=os.fsencode(directory),
            address=address.encode() if address else None,
            label=label.encode() if label else None,
            run=run.encode() if run else None,
            mode=_ffi.READ if read_only else _ffi.TRAIN,
            rank=rank,
            world_size=world_size,
            mesh_names=_ffi.strings(names),
            mesh_sizes=_ffi.int64s([(mesh or {})[name] for name in names]),
            mesh_dims=len(names),
            transfer=_ffi.TRANSFERS[transfer],
            keep_last=keep_last,
            keep_every=keep_every,
            rescue=int(rescue),
            warm=int(warm),
        )
        pointer, error = c.c_void_p(), _ffi.Error()
        _ffi.check(self._library.ks_open(c.byref(options), c.byref(pointer), c.byref(error)), error)
        self._pointer = pointer

    def close(self) -> None:
        """Frees the client once no call uses it. Idempotent."""
        with self._idle:
            pointer, self._pointer = self._pointer, None
            if not self.forked:
                self._idle.wait_for(lambda: self._users == 0)
        if pointer is not None:
            self._library.ks_close(pointer)

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that opened the client: then nothing of it works here."""
        return os.getpid() != self._pid

    @property
    def closed(self) -> bool:
        return self._pointer is None

    def _use(self, function: str, *arguments: Any) -> int:
        """Calls the library; `close` waits until it has returned."""
        with self._lock:
            pointer = self._pointer
            if pointer is None:
                raise KeepstepError(
                    "the Checkpointer is closed; open another one.", code="FAILED_PRECONDITION", reason="CLOSED"
                )
            self._users += 1
        try:
            return int(getattr(self._library, function)(pointer, *arguments))
        finally:
            with self._lock:
                self._users -= 1
                if self._pointer is None:
                    self._idle.notify_all()

    def _call(self, function: str, *arguments: Any) -> None:
        error = _ffi.Error()
        code = self._use(function, *arguments, c.byref(error))
        if code != _ffi.OK:
            _ffi.check(code, error)

    def device_alloc(self, device: int, size_bytes: int) -> int:
        """The address of new memory on GPU `device` that the daemon owns."""
        pointer = c.c_void_p()
        self._call("ks_device_alloc", device, size_bytes, c.byref(pointer))
        return pointer.value or 0

    def device_free(self, pointer: int) -> None:
        self._call("ks_device_free", pointer)

    def use_for_pool(self) -> None:
        """From now on the library's functions for allocators take memory from this client."""
        self._call("ks_pool_use")

    def register(self, specs: Sequence[Spec]) -> None:
        shards, keep = marshal(specs)
        self._call("ks_register", shards, len(specs))
        del keep

    def save(
        self,
        step: int,
        *,
        on_busy: str,
        extras: Mapping[str, Packed],
        metrics: Mapping[str, float],
        tags: Sequence[str],
        streams: Sequence[int] = (),
        timeout_ms: int = 0,
    ) -> int:
        """The save's number, once the daemon has answered; also when it has not, and may have taken the save.

        `streams`: handles of CUDA streams. `timeout_ms` 0: the library's own 10 s. One thread at a time.
        """
        options = self._save_options.build(on_busy, extras, metrics, tags, streams, timeout_ms)
        number = c.c_uint64()
        try:
            self._call("ks_save", step, c.byref(options), c.byref(number))
        except KeepstepError as error:
            if error.reason != "OUTCOME_UNKNOWN":
                raise
        return number.value

    def before_update(self, group: int, timeout: float | None = None) -> None:
        """Returns when tensors of `group` may change. SaveTimeout: not within `timeout` seconds."""
        self._sliced(timeout, lambda slice_ms: self._call("ks_before_update", group, slice_ms))

    def before_update_on(self, group: int, stream: int) -> None:
        """Returns when work queued on `stream` from now on may change the group: at once where the stream waits."""
        self._sliced(None, lambda slice_ms: self._call("ks_before_update_on", group, stream, slice_ms))

    def await_gate(self, group: int) -> None:
        """As `before_update`, by a caller that changes nothing then."""
        self._sliced(None, lambda slice_ms: self._call("ks_await_gate", group, slice_ms))

    def after_update_on(self, group: int, stream: int) -> None:
        """The update of the group that was announced on `stream` is queued. Never blocks."""
        self._call("ks_after_update_on", group, stream)

    def note_step(self, step: int, *, extras: Mapping[str, Packed]) -> None:
        """What a save of `step` would send, should this process die before the next; a negative step makes void what
        was noted. One thread at a time."""
        options = self._save_options.build("wait", extras, {}, (), (), 0)
        self._call("ks_note_step", step, c.byref(options))

    def rescue(self) -> Rescue:
        info = _ffi.RescueInfo(struct_bytes=c.sizeof(_ffi.RescueInfo))
        self._call("ks_get_rescue", c.byref(info))
        return Rescue(bool(info.on), info.step if info.step >= 0 else None, _ffi.text(info.why_not))

    def wait(self, number: int, state: int, timeout: float | None) -> SaveStatus:
        """Until the save reached `state` or is over; None waits without limit. SaveTimeout: neither happened."""
        status = _ffi.SaveStatus()
        self._sliced(timeout, lambda slice_ms: self._call("ks_wait", number, state, slice_ms, c.byref(status)))
        return _to_status(status)

    def accepted(self, number: int) -> SaveStatus:
        """What a save that `save` has returned is: ACCEPTED, over, or of unknown outcome. Asks nobody, never blocks."""
        status, error = _ffi.SaveStatus(), _ffi.Error()
        code = self._use("ks_wait", number, _ffi.ACCEPTED, 0, c.byref(status), c.byref(error))
        if code != _ffi.DEADLINE_EXCEEDED:
            _ffi.check(code, error)
        return _to_status(status)

    def poll(self, number: int) -> SaveStatus:
        """What is known of a save now. Looks at shared memory first; asks the daemon when that says that it went on."""
        status = _ffi.SaveStatus()
        for state in (_ffi.COMMITTED, _ffi.PERSISTED, _ffi.SNAPSHOTTED, _ffi.ACCEPTED):
            try:
                self._call("ks_wait", number, state, 0, c.byref(status))
                break
            except KeepstepError as error:
                if error.code != "DEADLINE_EXCEEDED":
                    raise
                if status.state >= state:
                    break
        return _to_status(status)

    def _sliced(self, timeout: float | None, call: Callable[[int], None]) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                call(int(min(left, _SLICE_SECONDS) * 1000))
                return
            except KeepstepError as error:
                if error.code != "DEADLINE_EXCEEDED":
                    raise
                if deadline is not None and time.monotonic() >= deadline:
                    raise SaveTimeout(str(error), code=error.code, reason=error.reason, stage=error.stage) from None

    def should_save(self, step: int, every: int) -> bool:
        return bool(self._use("ks_should_save", step, every))

    def wish_save(self) -> None:
        """Asks for a save at a step that all ranks have still ahead: `should_save` says which."""
        self._call("ks_wish_save")

    def load(
        self,
        step: int | None,
        *,
        strict: bool,
        convert_dtype: bool,
        only: Sequence[str],
        exclude: Sequence[str],
        rename: Mapping[str, str],
    ) -> LoadReport | None:
        """`step` None is "latest"; None is the answer when there is none."""
        options = _ffi.LoadOptions(
            struct_bytes=c.sizeof(_ffi.LoadOptions),
            latest=int(step is None),
            step=step or 0,
            strict=int(strict),
            convert_dtype=int(convert_dtype),
            only=_ffi.strings(list(only)),
            only_count=len(only),
            exclude=_ffi.strings(list(exclude)),
            exclude_count=len(exclude),
            rename_from=_ffi.strings(list(rename)),
            rename_to=_ffi.strings(list(rename.values())),
            rename_count=len(rename),
        )
        report = _ffi.LoadReport()
        self._call("ks_load", c.byref(options), c.byref(report))
        missing, unexpected = _ffi.take_string(report.missing), _ffi.take_string(report.unexpected)
        if not report.found:
            return None
        return LoadReport(
            step=report.step,
            epoch=report.epoch,
            attempt=_ffi.text(report.attempt),
            delivered_bytes=report.delivered_bytes,
            unique_bytes=report.unique_bytes,
            read_bytes=report.read_bytes,
            warm_bytes=report.warm_bytes,
            seconds=report.seconds,
            missing=tuple(missing.split("\n")) if missing else (),
            unexpected=tuple(unexpected.split("\n")) if unexpected else (),
            warm=bool(report.warm),
            why_cold=_ffi.text(report.why_cold),
        )

    def extras(self, step: int | None) -> tuple[int, list[StoredExtra]]:
        """The step, and what every rank that saved it left; `step` None is the newest committed now."""
        data, size = c.c_void_p(), c.c_size_t()
        self._call("ks_get_extras", int(step is None), step or 0, -1, c.byref(data), c.byref(size))
        try:
            return parse_record(c.string_at(data.value or 0, size.value))
        finally:
            self._library.ks_free(data)

    def steps(self) -> list[int]:
        """Committed steps in the order of epochs, newest last."""
        steps, count = c.POINTER(c.c_int64)(), c.c_size_t()
        self._call("ks_steps", c.byref(steps), c.byref(count))
        try:
            return [steps[index] for index in range(count.value)]
        finally:
            self._library.ks_free(c.cast(steps, c.c_void_p))

    def connected(self) -> bool:
        """Whether a daemon answers this session now."""
        info = _ffi.Info()
        self._call("ks_get_info", c.byref(info))
        return bool(info.connected)

    def memory_paths(self) -> str:
        """How registered memory reaches the daemon: "host by pull; 3 allocations by ipc, 2 by vmm"."""
        info = _ffi.Info()
        self._call("ks_get_info", c.byref(info))
        return _ffi.text(info.memory_paths)

    def info(self) -> tuple[int, str, str]:
        """Epoch, transfer in use, and the job's label."""
        info = _ffi.Info()
        self._call("ks_get_info", c.byref(info))
        transfer = next(name for name, value in _ffi.TRANSFERS.items() if value == info.transfer)
        return info.epoch, transfer, _ffi.text(info.job)


def _to_status(raw: Any) -> SaveStatus:
    error = None
    if raw.error.code != _ffi.OK:
        error = _ffi.to_exception(raw.error)
    return SaveStatus(
        number=raw.number,
        step=raw.step,
        state=_ffi.STATES[raw.state],
        attempt=_ffi.text(raw.attempt),
        bytes_total=raw.bytes_total,
        bytes_copied=raw.bytes_copied,
        bytes_written=raw.bytes_written,
        call_seconds=raw.call_seconds,
        snapshot_seconds=raw.snapshot_seconds,
        persist_seconds=raw.persist_seconds,
        commit_seconds=raw.commit_seconds,
        error=error,
    )
