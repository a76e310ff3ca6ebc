"""`dcp.async_save` without a second copy of the state: the daemon copies the live tensors.

1. `stage` returns a future at once. Its result, the state with the live tensors in it, is there at once too, for
   the thread that saves; as a future it is done only when this rank's tensors were copied.
2. That thread plans as ever. KeepstepStorageWriter finds the staging by its thread, and calls `copied`.
3. What the program has queued on CUDA streams by the time of `stage` belongs to the state: the saving thread's streams,
   which the save is marked on, wait for it.
4. When the thread ends, however it ends, the staging is over: nobody reads the tensors any more.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

_here = threading.local()


class KeepstepAsyncStager:
    """For `dcp.async_save(…, async_stager=KeepstepAsyncStager(), storage_writer=KeepstepStorageWriter(path))`.

    `staging_completion` of what that returns is done when the tensors may change (SNAPSHOTTED, or the save is over:
    `upload_completion` says why). Until then the program may compute, but not update what is saved. Values that are
    no tensors are copied by `stage` itself, so they may change at once.

    With another storage writer, or with AsyncCheckpointerType.PROCESS, the tensors may change when the save is over.
    """

    _synchronize_after_execute = False

    def __init__(self) -> None:
        self._newest: Staging | None = None

    @property
    def should_synchronize_after_execute(self) -> bool:
        return self._synchronize_after_execute

    def stage(self, state_dict: dict[str, Any]) -> Future[dict[str, Any]]:
        self._newest = Staging({key: _fixed(value) for key, value in state_dict.items()}, _queued(state_dict))
        return self._newest

    def synchronize_staging(self) -> None:
        """Waits until the tensors of the newest save may change."""
        if self._newest is not None:
            self._newest.wait()

    def close(self) -> None:
        self._newest = None


class Staging(Future[Any]):
    """Done when the tensors may change; `result` gives them to the saving thread before that."""

    def __init__(self, state: dict[str, Any], queued: Sequence[tuple[torch.device, torch.cuda.Event]] = ()) -> None:
        super().__init__()
        self._live: dict[str, Any] | None = state
        self._queued = queued
        self._copied = threading.Event()
        self._once = threading.Lock()

    def result(self, timeout: float | None = None) -> Any:
        state = self._live
        if state is None or self.done():
            return super().result(timeout)
        _here.staging = self
        for device, event in self._queued:
            torch.cuda.current_stream(device).wait_event(event)
        saver = threading.current_thread()
        threading.Thread(target=self._after, args=(saver,), name="keepstep-staging", daemon=True).start()
        return state

    def copied(self) -> None:
        """From here on the tensors may change. Idempotent."""
        with self._once:
            state, self._live = self._live, None
            first = not self._copied.is_set()
            self._copied.set()
        if first:
            self.set_result(state)

    def wait(self, timeout: float | None = None) -> bool:
        """Until then, at most so many seconds; whether it is so."""
        return self._copied.wait(timeout)

    def _after(self, saver: threading.Thread) -> None:
        saver.join()
        self.copied()


def current() -> Staging | None:
    """The staging whose state this thread saves; asked once by the writer."""
    staging: Staging | None = getattr(_here, "staging", None)
    _here.staging = None
    return staging


def _queued(state: Any) -> list[tuple[torch.device, torch.cuda.Event]]:
    """Where the calling thread's current streams are, of the CUDA devices that hold any of the state."""
    devices = {tensor.device for tensor in _tensors(state) if tensor.device.type == "cuda"}
    return [(device, torch.cuda.current_stream(device).record_event()) for device in sorted(devices, key=str)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from _tensors(item)


def _fixed(value: Any) -> Any:
    """The value with its own containers and copies of all that is no tensor."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        return {key: _fixed(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_fixed(item) for item in value)
    return copy.deepcopy(value)
