"""A save in flight, as its caller sees it: a future with stages.

ACCEPTED → SNAPSHOTTED (the tensors may change again) → PERSISTED (this rank's bytes are durable) → COMMITTED (the whole
checkpoint is durable and visible); or SKIPPED, SUPERSEDED, CANCELLED, FAILED.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from keepstep import _ffi
from keepstep._client import Client, SaveStatus
from keepstep.errors import KeepstepError, SaveFailed

_log = logging.getLogger("keepstep")


class SaveHandle:
    """Thread-safe. Stays readable after the Checkpointer is closed, with what was known by then."""

    def __init__(self, client: Client, step: int, status: SaveStatus, call_seconds: float) -> None:
        self._client = client
        self._step = step
        self._status = status
        self._call_seconds = call_seconds
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[SaveHandle], object]] | None = []  # None: all have been called

    @property
    def step(self) -> int:
        return self._step

    @property
    def state(self) -> str:
        """The newest known state, as a word."""
        self._poll()
        return self._status.state

    @property
    def stats(self) -> dict[str, float | int | str]:
        """A flat dict for an experiment tracker."""
        self._poll()
        status = self._status
        written = status.persist_seconds or status.commit_seconds
        return {
            "step": self._step,
            "state": status.state,
            "attempt": status.attempt,
            "bytes": status.bytes_total,
            "bytes_written": status.bytes_written,
            "call_seconds": self._call_seconds,
            "snapshot_seconds": status.snapshot_seconds,
            "persist_seconds": status.persist_seconds,
            "commit_seconds": status.commit_seconds,
            "bytes_per_second": status.bytes_total / written if written > 0 else 0.0,
        }

    def staged(self, timeout: float | None = None) -> None:
        """Waits until the registered tensors may change again. SaveFailed, or SaveTimeout after `timeout` seconds."""
        self._raise_unless_good(self._wait(_ffi.SNAPSHOTTED, timeout))

    def persisted(self, timeout: float | None = None) -> None:
        """Waits until this rank's bytes are durable, though not yet a checkpoint. Errors as `staged`."""
        self._raise_unless_good(self._wait(_ffi.PERSISTED, timeout))

    def result(self, timeout: float | None = None) -> int:
        """Waits until the whole checkpoint is durable and visible, and returns its step. Errors as `staged`."""
        self._raise_unless_good(self._wait(_ffi.COMMITTED, timeout))
        return self._step

    def done(self) -> bool:
        """Whether the save is over, well or not. Never blocks."""
        self._poll()
        return self._status.over

    def exception(self, timeout: float | None = None) -> SaveFailed | None:
        """Waits until the save is over: None when it was committed. SaveTimeout after `timeout` seconds."""
        return self._failure(self._wait(_ffi.COMMITTED, timeout))

    def add_done_callback(self, function: Callable[[SaveHandle], object]) -> None:
        """Calls `function(handle)` when the save is over: on a thread of the Checkpointer, or here if it is already."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(function)
                return
        function(self)

    def _poll(self) -> None:
        if not self._status.over and not self._client.closed:
            try:
                self._status = self._client.poll(self._status.number)
            except KeepstepError as error:
                if error.reason != "CLOSED":
                    raise

    def _wait(self, state: int, timeout: float | None) -> SaveStatus:
        reached = _ffi.STATES.index(self._status.state) if self._status.state in _ffi.STATES[:5] else 0
        if self._status.over or (reached >= state and state > _ffi.ACCEPTED):
            return self._status
        self._status = self._client.wait(self._status.number, state, timeout)
        return self._status

    def _finish(self) -> None:
        """Runs the callbacks, once; what they raise is logged, as with concurrent.futures."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks or [], None
        for function in callbacks:
            try:
                function(self)
            except Exception:
                _log.exception("keepstep: a done callback of step %d raised", self._step)

    def _failure(self, status: SaveStatus) -> SaveFailed | None:
        if status.state not in ("SKIPPED", "SUPERSEDED", "CANCELLED", "FAILED"):
            return None
        cause = status.error
        told = str(cause) if cause else f"save of step {self._step} was {status.state.lower()}"
        return SaveFailed(
            told,
            step=self._step,
            state=status.state,
            code=cause.code if cause else "ABORTED",
            reason=cause.reason if cause else status.state,
            rank=cause.rank if cause else None,
            stage=cause.stage if cause else "",
        )

    def _raise_unless_good(self, status: SaveStatus) -> None:
        failure = self._failure(status)
        if failure is not None:
            raise failure from status.error
