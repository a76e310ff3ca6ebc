"""`Checkpointer`: register once, then save with one small message and load into any layout.

The rule that keeps a save whole: a registered tensor changes only when no save still has to copy it. By default `save`
returns after the copy, so nothing can go wrong. With `gated=True` it returns at once, and the program calls
`before_update()` before every change of a registered tensor.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from keepstep import _daemon, _ffi, _state, extras, reader
from keepstep._client import Client, LoadReport, SaveStatus
from keepstep._containers import Containers
from keepstep._registration import Spec
from keepstep.errors import KeepstepError, SaveTimeout
from keepstep.handle import SaveHandle

_log = logging.getLogger("keepstep")
_alive: weakref.WeakSet[Checkpointer] = weakref.WeakSet()
_WATCH_SECONDS = 0.2
# A save that could not be had now: the next one may work. Not so for these reasons, whatever their code.
_TRANSIENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})
_LASTING = frozenset({"EXTRAS_TOO_LARGE", "LABELS_TOO_LARGE", "STALE_EPOCH"})


class Checkpointer:
    """Saves and loads what one rank of a job holds. `directory` is the job.

    Args:
        directory: made (one level) when absent, unless `read_only`.
        job: shown instead of the directory's last part.
        rank, world_size: default to $RANK and $WORLD_SIZE, else a world of one.
        mesh: named parallel dimensions and their sizes, for `placed` tensors; their product is the world size.
        on_busy: when two saves are in flight already: "wait", "skip" this one, or "supersede" the oldest unwritten.
        on_error: what a failed save does. "warn" logs it on rank 0, and raises after `max_failures` in a row;
            "raise" raises at a later `save`, the same one on every rank.
        gated: the program calls `before_update` before changing tensors, so `save` need not wait for the copy.
        rng: save and restore the random generators of Python and NumPy.
        daemon: "auto" starts one for this user where none listens; "system" never does; or the address of a daemon:
            "unix:///run/keepstep/keepstep.sock".
        read_only: claims nothing; for evaluation beside a running job. `run` names the launch, so that several
            reading ranks get one answer to "latest".
        keep_last, keep_every: after each commit the daemon deletes what is neither one of the `keep_last` newest,
            nor of a step that is a multiple of `keep_every`, nor pinned or in use. None: everything stays. The same
            on every rank.
        transfer: "pull" (the daemon reads this process's memory), "window" (through shared memory), or "auto".

    Raises:
        DaemonUnavailable: nobody listens, and none could be started; the message says why.

    Thread-safe, except that one thread at a time registers, saves or loads.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        job: str | None = None,
        on_busy: Literal["wait", "skip", "supersede"] = "wait",
        on_error: Literal["warn", "raise"] = "warn",
        max_failures: int = 3,
        gated: bool = False,
        rng: bool = True,
        daemon: str = "auto",
        rank: int | None = None,
        world_size: int | None = None,
        mesh: Mapping[str, int] | None = None,
        read_only: bool = False,
        run: str | None = None,
        transfer: Literal["auto", "pull", "window"] = "auto",
        keep_last: int | None = None,
        keep_every: int | None = None,
    ) -> None:
        if on_busy not in _ffi.ON_BUSY:
            raise ValueError(f"on_busy={on_busy!r}; it is one of {', '.join(_ffi.ON_BUSY)}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}; it is warn or raise")
        _check_retention(keep_last, keep_every, read_only)
        self._keep = (keep_last or 0, keep_every or 0)
        self.directory = os.path.abspath(directory)
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
        self._daemon = daemon
        self._on_busy = on_busy
        self._on_error = on_error
        self._max_failures = max_failures
        self._gated = gated
        self._rng = rng
        self._run = run
        self._mesh = dict(mesh) if mesh else None
        self._transfer = transfer
        self._specs: list[Spec] = []
        self._extras: dict[str, extras.Extra] = {}
        self._groups: tuple[int, ...] = ()
        self._state: Mapping[str, Any] | None = None  # as registered; None: nothing is
        self._containers = Containers()
        # `before_update` compares these two and calls the library only where they differ: the gate of a group that was
        # open for the newest save stays open until the next one.
        self._issued = 0
        self._passed: dict[int | None, int] = {}  # group (None: all) → the newest save for which its gate was seen open
        self._failures = 0
        self._unsettled: list[SaveHandle] = []  # accepted, oldest first, not yet counted by _settle
        self._watched: queue.Queue[SaveHandle | None] = queue.Queue()
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self.last_load: LoadReport | None = None
        self.extras: dict[str, Any] = {}  # of the last load, by name: this rank's, else the lowest rank's
        self._client = self._open(self.directory, read_only=read_only, label=job)
        self.job = self._client.info()[2]
        self._at_exit = _close_at_exit(self)
        _alive.add(self)

    def _open(self, directory: str, *, read_only: bool, label: str | None) -> Client:
        def open_at(address: str) -> Client:
            return Client(
                directory,
                address=address,
                label=label,
                run=self._run,
                read_only=read_only,
                rank=self.rank,
                world_size=self.world_size,
                mesh=self._mesh,
                transfer=self._transfer,
                keep_last=0 if read_only else self._keep[0],
                keep_every=0 if read_only else self._keep[1],
            )

        client, own = _daemon.connect(self._daemon, open_at)
        if own is not None:
            _daemon.keep(client, own)
        return client

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def register(self, **state: Any) -> None:
        """Declares what this rank holds; replaces everything registered before.

        Each keyword takes a dict (nested as you like) of arrays, buffers and `Sharded`, an object with `state_dict()`
        and `load_state_dict()`, a callable, or a pair of callables (read, restore). Arrays are saved and filled in
        place: their memory must stay theirs until the next registration. A dict or list in which another array has
        taken a place is registered again, by itself, at the next save or load.

        Raises:
            TypeError: a plain value, which would be stale at the save; the message says what to pass instead.
            KeepstepError: the daemon refuses it; the old registration stands.
        """
        specs, found, containers = _state.split(state)
        if self._rng:
            found[extras.RNG] = extras.Extra(extras.rng_state, extras.set_rng_state)
        self._client.register(specs)
        self._specs, self._extras = specs, found
        self._state, self._containers = state, containers
        self._groups = tuple(sorted({spec.group for spec in specs}))
        self._passed.clear()

    def should_save(self, step: int, *, every: int | None = None) -> bool:
        """Whether to save after `step` updates: the same answer on every rank, for the interval and for a wish."""
        return self._client.should_save(step, every or 0)

    def save(
        self, step: int, *, metrics: Mapping[str, float] | None = None, tags: Sequence[str] = ()
    ) -> SaveHandle:
        """Starts a save of everything registered, after `step` completed updates.

        Returns when the tensors may change again, or at once with `gated=True`; writing goes on in the background.
        With on_busy="skip" the handle may be over already, as SKIPPED.

        Raises:
            SaveFailed: an earlier save failed, and `on_error` and `max_failures` say to raise.
            KeepstepError: this save was refused: INVALID_ARGUMENT, ALREADY_EXISTS (a step of this epoch), ABORTED (a
                new run of the job has taken over). A daemon that cannot be reached is a failed save instead.
        """
        self._look_at_registration()
        packed = {name: extras.encode(extra.read()) for name, extra in self._extras.items()}
        begin = time.monotonic()
        self._issued += 1
        status = self._issue(step, packed, metrics or {}, tags)
        handle = SaveHandle(self._client, step, status, time.monotonic() - begin)
        try:
            if status.state not in ("SKIPPED", "SUPERSEDED"):
                self._settle_before(handle)
        finally:
            self._watch(handle)
        if not self._gated:
            self.before_update()
        return handle

    def _issue(
        self, step: int, packed: Mapping[str, bytes], metrics: Mapping[str, float], tags: Sequence[str]
    ) -> SaveStatus:
        try:
            number = self._client.save(step, on_busy=self._on_busy, extras=packed, metrics=metrics, tags=tags)
        except KeepstepError as error:
            if error.code not in _TRANSIENT or error.reason in _LASTING:
                raise
            return SaveStatus(number=0, step=step, state="FAILED", error=error)
        return self._client.accepted(number)

    def before_update(self, group: int | None = None) -> None:
        """Returns when tensors of `group` (default: of every group) may change; at once when nothing is in flight."""
        issued = self._issued
        if self._passed.get(group) == issued:
            return
        for member in self._groups if group is None else (group,):
            self._client.before_update(member)
        self._passed[group] = issued

    def load(
        self,
        step: int | Literal["latest"] = "latest",
        *,
        strict: bool = True,
        only: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        rename: Mapping[str, str] | None = None,
        source: str | os.PathLike[str] | None = None,
        convert_dtype: bool = False,
    ) -> int | None:
        """Fills every registered tensor in place from a committed checkpoint, whatever layout wrote it.

        Every rank gets the same answer to "latest". `only` and `exclude` are patterns (`*`, `?`) of registered names;
        `rename` maps registered names to stored ones; `source` loads from another job's directory.

        Returns:
            The number of completed updates that the checkpoint holds, or None when the job has none yet.

        Raises:
            MissingTensors: the checkpoint lacks registered tensors; pass ``strict=False`` to leave them as they are
                and get the report in ``last_load``.
            ShapeMismatch: same name, other global shape or dtype.
            DataLoss: a block failed its digest. The registered tensors are then undefined.
        """
        self._look_at_registration()
        frozen = next((spec.name for spec in self._specs if not spec.writeable), None)
        if frozen is not None:
            raise ValueError(f"{frozen} is read-only memory; register a writeable array to load into")
        client = self._client if source is None else self._reading(os.path.abspath(source))
        try:
            report = client.load(
                None if step == "latest" else step,
                strict=strict,
                convert_dtype=convert_dtype,
                only=list(only or ()),
                exclude=list(exclude),
                rename=dict(rename or {}),
            )
            self.last_load = report
            if report is None:
                return None
            self._restore_extras(client, report.step)
            return report.step
        finally:
            if client is not self._client:
                client.close()

    def latest_step(self) -> int | None:
        """The newest committed step, in the order of epochs; None when there is none."""
        steps = self._client.steps()
        return steps[-1] if steps else None

    def steps(self) -> list[reader.CheckpointInfo]:
        """Every committed checkpoint, newest last, as the directory holds them."""
        return reader.list_checkpoints(self.directory)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until every save is over; raises as `on_error` says, or SaveTimeout after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._unsettled:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._unsettled[0].exception(left)
            self._settle(self._unsettled.pop(0))

    def close(self, timeout: float | None = 600) -> None:
        """Waits for every save, then ends the session, after `timeout` seconds in any case. Idempotent."""
        if self._client.closed:
            return
        atexit.unregister(self._at_exit)
        self._forget_gates()
        if self._client.forked:
            self._client.close()
            return
        try:
            self.wait(timeout)
        except SaveTimeout:
            _log.warning("keepstep: %s closed before its last save was over; the daemon goes on with it", self.job)
        finally:
            self._stopping.set()
            self._watched.put(None)
            if self._watcher is not None:
                self._watcher.join()
            self._client.close()

    def _look_at_registration(self) -> None:
        """Registers again where a registered container holds other objects by now."""
        if self._state is None:
            raise KeepstepError(
                "nothing is registered; call register(model=…, optimizer=…) first.",
                code="FAILED_PRECONDITION",
                reason="NOT_REGISTERED",
            )
        if self._containers.changed():
            _log.info("keepstep: %s: registered again, a registered container holds other tensors now", self.job)
            self.register(**self._state)

    def _forget_gates(self) -> None:
        """From here on `before_update` asks the library, which may refuse: closed, or a fork."""
        self._issued += 1
        self._passed.clear()

    def _reading(self, directory: str) -> Client:
        client = self._open(directory, read_only=True, label=None)
        try:
            client.register(self._specs)
        except BaseException:
            client.close()
            raise
        return client

    def _restore_extras(self, client: Client, step: int) -> None:
        by_name: dict[str, dict[int, bytes]] = {}
        for stored in client.extras(step):
            by_name.setdefault(stored.name, {})[stored.rank] = b"".join(stored.items)
        self.extras = {}
        for name, by_rank in by_name.items():
            if name == extras.RNG and self.rank not in by_rank:
                continue  # two ranks must not go on with one generator's numbers
            value = extras.decode(by_rank[self.rank if self.rank in by_rank else min(by_rank)])
            self.extras[name] = value
            registered = self._extras.get(name)
            if registered is not None and registered.restore is not None:
                registered.restore(value)

    def _settle_before(self, handle: SaveHandle) -> None:
        """Counts the verdicts that every rank knows by now.

        At most two saves are in flight, so when one is accepted all but the newest accepted before it are over or
        about to be. Waiting for exactly those gives every rank the same list at the same save, and costs nothing that
        the gate of this save would not cost too.
        """
        while len(self._unsettled) > 1:
            self._unsettled[0].exception()
            self._settle(self._unsettled.pop(0))
        self._unsettled.append(handle)

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

    def _watch(self, handle: SaveHandle) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch_saves, name="keepstep-watch", daemon=True)
            self._watcher.start()
        self._watched.put(handle)

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
                    _log.warning("keepstep: %s/%d: %s", self.job, handle.step, error)
                    return
            self._report(handle, failure)
            handle._finish()

    def _report(self, handle: SaveHandle, failure: KeepstepError | None) -> None:
        if self.rank != 0:
            return
        if failure is not None:
            _log.warning("keepstep: %s/%d not committed: %s", self.job, handle.step, failure)
            return
        _log.info(committed_line(self.job, handle.stats))


def _after_fork() -> None:
    for checkpointer in list(_alive):
        checkpointer._forget_gates()
        if not checkpointer._client.closed:
            _daemon.forked_beside_an_open_client()


os.register_at_fork(after_in_child=_after_fork)


def committed_line(job: str, stats: Mapping[str, Any]) -> str:
    """`keepstep: llama-7b/1200 committed, 49.7 GiB in 8.3 s, trainer blocked 0.4 ms`."""
    size = f"{stats['bytes'] / 2**30:.1f} GiB" if stats["bytes"] >= 2**30 else f"{stats['bytes'] / 2**20:.1f} MiB"
    blocked = stats["call_seconds"] * 1000
    return (
        f"keepstep: {job}/{stats['step']} committed, {size} in {stats['commit_seconds']:.1f} s, "
        f"trainer blocked {blocked:.1f} ms"
    )


def _check_retention(keep_last: int | None, keep_every: int | None, read_only: bool) -> None:
    for name, value in (("keep_last", keep_last), ("keep_every", keep_every)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}; it is at least 1, or None")
    if keep_every is not None and keep_last is None:
        raise ValueError("keep_every says what stays beyond the newest; say how many of those with keep_last")
    if read_only and keep_last is not None:
        raise ValueError("a reader keeps and deletes nothing: keep_last is for trainers")


def _close_at_exit(checkpointer: Checkpointer) -> Any:
    """An exit hook that keeps nothing alive: a program that ends without `close` still waits for its saves."""
    reference = weakref.ref(checkpointer)

    def close() -> None:
        target = reference()
        if target is not None:
            target.close()

    atexit.register(close)
    return close
