"""What became of the saves of one Checkpointer: counted on the thread that saves, told on a thread of its own.

Every rank raises at the same `save`, or none does. At most two saves are in flight, so when one is accepted all but the
newest accepted before it are over or about to be; waiting for exactly those gives every rank the same list at the same
save. A save that reached no daemon is counted at once: there is nobody whose word could be waited for.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from keepstep._client import SaveStatus
from keepstep.errors import KeepstepError, SaveTimeout
from keepstep.handle import SaveHandle

_log = logging.getLogger("keepstep")
_WATCH_SECONDS = 0.2


class Verdicts:
    def __init__(self, job: str, rank: int, on_error: Literal["warn", "raise"], max_failures: int) -> None:
        self._job = job
        self._rank = rank
        self._on_error = on_error
        self._max_failures = max_failures
        self._failures = 0  # in a row
        self._unsettled: list[SaveHandle] = []  # accepted, oldest first, not yet counted
        self._watched: queue.Queue[SaveHandle | None] = queue.Queue()
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()

    def add(self, handle: SaveHandle, status: SaveStatus) -> None:
        """Takes a save that was just called, and what its call said.

        Raises:
            SaveFailed: an earlier one, or this one, is one failure too many.
        """
        if status.number == 0:  # no daemon has heard of it
            self._tell(handle, handle.exception(0.0))
            self._settle(handle)
            return
        if status.state not in ("SKIPPED", "SUPERSEDED"):
            while len(self._unsettled) > 1:
                self._unsettled[0].exception()
                self._settle(self._unsettled.pop(0))
            self._unsettled.append(handle)

    def watch(self, handle: SaveHandle, status: SaveStatus) -> None:
        """Tells what becomes of a save that was added, once it is over; whether or not `add` has raised."""
        if status.number == 0:
            return
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch_saves, name="keepstep-watch", daemon=True)
            self._watcher.start()
        self._watched.put(handle)

    def wait(self, timeout: float | None) -> None:
        """Until every save is over. SaveFailed as `add`; SaveTimeout after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._unsettled:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._unsettled[0].exception(left)
            self._settle(self._unsettled.pop(0))

    def stop(self) -> None:
        """Tells no more. Returns when the thread has ended."""
        self._stopping.set()
        self._watched.put(None)
        if self._watcher is not None:
            self._watcher.join()

    def _settle(self, handle: SaveHandle) -> None:
        failure = handle.exception(0.0)
        if failure is None:
            self._failures = 0
            return
        if failure.state != "FAILED":
            return
        self._failures += 1
        if self._on_error == "raise" or self._failures >= self._max_failures:
            raise failure

    def _watch_saves(self) -> None:
        while (handle := self._watched.get()) is not None:
            while True:
                try:
                    failure = handle.exception(_WATCH_SECONDS)
                    break
                except SaveTimeout:
                    if self._stopping.is_set():
                        return
                except KeepstepError as error:
                    _log.warning("keepstep: %s/%d: %s", self._job, handle.step, error)
                    return
            self._tell(handle, failure)

    def _tell(self, handle: SaveHandle, failure: KeepstepError | None) -> None:
        if self._rank == 0 and failure is not None:
            _log.warning("keepstep: %s/%d not committed: %s", self._job, handle.step, failure)
        elif self._rank == 0:
            _log.info(committed_line(self._job, handle.stats))
        handle._finish()


def committed_line(job: str, stats: Mapping[str, Any]) -> str:
    """`keepstep: llama-7b/1200 committed, 49.7 GiB in 8.3 s, trainer blocked 0.4 ms`."""
    size = f"{stats['bytes'] / 2**30:.1f} GiB" if stats["bytes"] >= 2**30 else f"{stats['bytes'] / 2**20:.1f} MiB"
    blocked = stats["call_seconds"] * 1000
    return (
        f"keepstep: {job}/{stats['step']} committed, {size} in {stats['commit_seconds']:.1f} s, "
        f"trainer blocked {blocked:.1f} ms"
    )
