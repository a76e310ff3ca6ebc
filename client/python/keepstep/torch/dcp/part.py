"""One rank's part in one dcp.save: a session of its own, and a thread that sees the save through.

    open ── add ── issue ──▶ SNAPSHOTTED (`staged`) ──▶ COMMITTED (`over`), or an error
      └──────────┴── abandon ──▶ nothing was saved; the other ranks' saves fail at once

No rank waits for another one before `wait`: a rank that fails is reported by DCP, as with any other storage.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from keepstep._client import Client
from keepstep._device import Streams
from keepstep._registration import Spec
from keepstep._verdicts import committed_line
from keepstep.errors import KeepstepError, SaveTimeout
from keepstep.handle import SaveHandle
from keepstep.torch.dcp.session import open_session

_log = logging.getLogger("keepstep")
_LOOK_SECONDS = 0.2  # how often the thread looks whether it was abandoned
_ASK_MS = 500  # the library goes on asking by itself
_MOST_EPOCHS = 16
_alive: weakref.WeakSet[Part] = weakref.WeakSet()
STEP = 0  # a checkpoint_id is a directory that holds this step


class Part:
    """`staged(part)` is called once, in any case: this rank's tensors may change.

    Args:
        after: this rank's session is of a later epoch than that one, claimed if need be, so that nobody who still waits
            in an earlier save can be part of this one. One rank of the world does that.
        lasting: the process stays until the save is over.

    Raises:
        KeepstepError: the daemon cannot be reached, or may not write there.
    """

    def __init__(
        self,
        directory: str,
        *,
        daemon: str,
        transfer: str,
        rank: int,
        world_size: int,
        after: int,
        lasting: bool,
    ) -> None:
        self.directory, self.rank, self.world_size = directory, rank, world_size
        self._daemon, self._transfer, self._lasting = daemon, transfer, lasting
        self._specs: list[Spec] = []
        self._streams: list[int] = []
        self._tell_staged: Callable[[Part], object] = lambda _: None
        self._staged, self._over, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._client = self._open()
        if self.epoch <= after:
            self._client.close()
            self._client = self._open()
        _alive.add(self)

    def _open(self) -> Client:
        client = open_session(
            self.directory,
            daemon=self._daemon,
            transfer=self._transfer,
            read_only=False,
            rank=self.rank,
            world_size=self.world_size,
            keep_last=1,
        )
        self.epoch = client.info()[0]
        return client

    def add(self, specs: Sequence[Spec]) -> None:
        """What this rank saves, beside what was added before; kept alive until the save is over.

        Of tensors on CUDA devices it is what they hold when the calling thread's current streams are this far.
        """
        self._specs += specs
        self._streams = Streams(spec.array for spec in self._specs).now()
        try:
            self._client.register(self._specs)
        except BaseException:
            self.abandon()
            raise

    def issue(self, staged: Callable[[Part], object]) -> None:
        """Asks for the save, on a thread: the daemon may answer only when all ranks have asked."""
        self._tell_staged = staged
        self._thread = threading.Thread(target=self._run, name="keepstep-dcp", daemon=not self._lasting)
        self._thread.start()

    @property
    def is_staged(self) -> bool:
        """Whether this rank's tensors may change: they were copied, or the save is over."""
        return self._staged.is_set()

    def wait_staged(self, timeout: float | None = None) -> bool:
        """Waits until `is_staged`, at most so many seconds."""
        return self._staged.wait(timeout)

    def wait_over(self, timeout: float | None = None) -> bool:
        """Waits until the save is over, well or not, at most so many seconds."""
        return self._over.wait(timeout)

    def wait(self, timeout: float | None = None) -> None:
        """Until the checkpoint is committed. SaveFailed: it is not; SaveTimeout: not within so many seconds."""
        if not self.wait_over(timeout):
            raise SaveTimeout(f"{self.directory} is still being saved; wait again", code="DEADLINE_EXCEEDED")
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        """What ended the save, if something has."""
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Gives up a save that is not over; never blocks. What is committed stays so."""
        self._abandoned.set()
        if self._thread is None:
            self._finish()

    def _run(self) -> None:
        try:
            for _ in range(_MOST_EPOCHS):
                try:
                    self._save()
                    break
                except KeepstepError as error:
                    if error.reason != "STALE_EPOCH" or self._abandoned.is_set():
                        raise
                # Another rank has claimed an epoch for this very save; nothing of the old one was committed.
                self._client.close()
                self._client = self._open()
                self._client.register(self._specs)
        except BaseException as error:
            self._error = error
        finally:
            self._finish()

    def _save(self) -> None:
        begin = time.monotonic()
        number = self._client.save(STEP, on_busy="wait", extras={}, metrics={}, tags=("dcp",), streams=self._streams,
                                   timeout_ms=_ASK_MS)  # fmt: skip
        handle = SaveHandle(self._client, STEP, self._client.accepted(number), time.monotonic() - begin)
        self._await(handle.staged)
        self._on_staged()
        self._await(handle.result)
        if self.rank == 0:
            _log.info(committed_line(os.path.basename(self.directory), handle.stats))

    def _await(self, wait: Callable[[float], object]) -> None:
        while not self._abandoned.is_set():
            try:
                wait(_LOOK_SECONDS)
                return
            except SaveTimeout:
                continue
        raise KeepstepError("the save was given up", code="CANCELLED", reason="CANCELLED")

    def _on_staged(self) -> None:
        if not self._staged.is_set():
            self._staged.set()
            self._tell_staged(self)

    def _finish(self) -> None:
        self._client.close()
        self._specs = []
        self._on_staged()
        self._over.set()


def settle(directory: str, timeout: float | None) -> None:
    """Ends what earlier saves of this process to the directory have left: one that was copied goes on until it is over.

    SaveTimeout: it does not end within so many seconds.
    """
    for part in [part for part in _alive if part.directory == directory]:
        if not part.is_staged:
            part.abandon()
        if not part.wait_over(timeout):
            raise SaveTimeout(f"an earlier save to {directory} goes on; wait for it", code="DEADLINE_EXCEEDED")
