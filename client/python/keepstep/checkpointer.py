"""`Checkpointer`: register once, then save with one small message and load into any layout.

The rule that keeps a save whole: a registered tensor changes only when no save still has to copy it. By default `save`
returns after the copy, so nothing can go wrong, except for groups of tensors that something else guards: what an
optimizer of PyTorch changes is copied while training goes on, and its next step waits (docs/pytorch.md). With
`gated=True` all groups are the program's to guard: it calls `before_update()` before each change of what it registered.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from keepstep import _daemon, _ffi, _preemption, _state, extras, reader
from keepstep._client import Client, LoadReport, Rescue, SaveStatus
from keepstep._device import Streams
from keepstep._generators import Generators
from keepstep._loading import Load
from keepstep._verdicts import Verdicts
from keepstep._world import rank_and_size
from keepstep.errors import KeepstepError, SaveTimeout
from keepstep.handle import SaveHandle

_log = logging.getLogger("keepstep")
_alive: weakref.WeakSet[Checkpointer] = weakref.WeakSet()
# A save that could not be had now: the next one may work. Not so for these reasons, whatever their code.
_TRANSIENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})
_LASTING = frozenset({"EXTRAS_TOO_LARGE", "LABELS_TOO_LARGE", "STALE_EPOCH"})


class Checkpointer:
    """Saves and loads what one rank of a job holds. `directory` is the job.

    Args:
        directory: made (one level) when absent, unless `read_only`.
        job: shown instead of the directory's last part.
        rank, world_size: default to those of torch.distributed, else $RANK and $WORLD_SIZE, else a world of one.
        mesh: named parallel dimensions and their sizes, for `placed` tensors; their product is the world size.
        on_busy: when two saves are in flight already: "wait", "skip" this one, or "supersede" the oldest unwritten.
        on_error: what a failed save does. "warn" logs it on rank 0, and raises after `max_failures` in a row;
            "raise" raises at a later `save`, the same one on every rank.
        gated: the program calls `before_update` before changing tensors, so `save` need not wait for the copy.
        rng: save and restore the random generators of Python, NumPy and PyTorch (CPU, and the current CUDA device).
        preemption: once `should_save` has been asked, the first SIGTERM does not end the process: `should_save` says
            yes on every rank at one of the next steps, and `preempted` is true. A handler that was there still runs.
        daemon: "auto" starts one for this user where none listens; "system" never does; or the address of a daemon:
            "unix:///run/keepstep/keepstep.sock".
        read_only: claims nothing; for evaluation beside a running job. `run` names the launch, so that several
            reading ranks get one answer to "latest".
        keep_last, keep_every: after each commit the daemon deletes what is neither one of the `keep_last` newest,
            nor of a step that is a multiple of `keep_every`, nor pinned or in use. None: everything stays. The same
            on every rank.
        rescue: crash flush. When every rank's process has been killed, the daemon saves the newest step that all of
            them held whole, out of their memory. `should_save` is then asked after every update, on every rank; each
            update of tensors on a GPU is announced on its stream, by the hooks on PyTorch's optimizers, or with
            `gated=True` by `before_update(stream=…)` and `after_update(stream=…)` (docs/gpu.md). `Checkpointer.rescue`
            says whether it is on.
        warm: warm restart. What this rank holds in memory of `device_alloc` or `keepstep.torch.memory_pool` is kept
            when its process is killed; the process that is started in its place maps it again, and its first `load()`
            goes on at the step at which every rank was whole, without reading anything. Such memory is not written
            before that load. Updates are announced and steps noted as for `rescue`. The same on every rank.
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
        preemption: bool = True,
        daemon: str = "auto",
        rank: int | None = None,
        world_size: int | None = None,
        mesh: Mapping[str, int] | None = None,
        read_only: bool = False,
        run: str | None = None,
        transfer: Literal["auto", "pull", "window"] = "auto",
        keep_last: int | None = None,
        keep_every: int | None = None,
        rescue: bool = False,
        warm: bool = False,
    ) -> None:
        if on_busy not in _ffi.ON_BUSY:
            raise ValueError(f"on_busy={on_busy!r}; it is one of {', '.join(_ffi.ON_BUSY)}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error={on_error!r}; it is warn or raise")
        _check_retention(keep_last, keep_every, read_only)
        if rescue and read_only:
            raise ValueError("a reader has nothing to rescue: rescue is for trainers")
        if warm and read_only:
            raise ValueError("a reader has nothing to go on with: warm is for trainers")
        self._warm = warm
        self._rescues = rescue
        self._rescue = rescue or warm  # either keeps the flight record
        self._unguarded = ""  # why what is registered cannot be proved whole
        self._keep = (keep_last or 0, keep_every or 0)
        self.directory = os.path.abspath(directory)
        self.rank, self.world_size = rank_and_size(rank, world_size)
        self._daemon = daemon
        self._on_busy = on_busy
        self._gated = gated
        self._rng = rng
        self._preemption = preemption and not read_only
        self._wished = False
        self._run = run
        self._mesh = dict(mesh) if mesh else None
        self._transfer = transfer
        self._registered = _state.Registered()
        self._streams = Streams()
        self._groups: tuple[int, ...] = ()
        self._state: Mapping[str, Any] | None = None  # the arguments of `register`; None: nothing is registered
        # `before_update` compares these two and calls the library only where they differ: the gate of a group that was
        # open for the newest save stays open until the next one.
        self._issued = 0
        # Group (None: all) and stream (None: the host) → the newest save for which the gate was seen open, or is waited
        # for by the stream.
        self._passed: dict[tuple[int | None, int | None], int] = {}
        self.last_load: LoadReport | None = None
        self.extras: dict[str, Any] = {}  # of the last load, by name: this rank's, else the lowest rank's
        self._client = self._open(self.directory, read_only=read_only, label=job)
        self.job = self._client.info()[2]
        self._verdicts = Verdicts(self.job, self.rank, on_error, max_failures)
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
                rescue=self._rescues and not read_only,
                warm=self._warm and not read_only,
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

    def register(
        self, *, replicated: Any = None, overlap: bool | Collection[str] | None = None, **state: Any
    ) -> None:
        """Declares what this rank holds; replaces everything registered before.

        Each keyword takes a module, an optimizer, a tensor, an array (of NumPy, or of a GPU: with
        `__cuda_array_interface__` or DLPack), a buffer, a `Sharded`, an object with
        `state_dict()` and `load_state_dict()`, a callable, a pair of callables (read, restore), or dicts and lists of
        those, nested as you like. Tensors and arrays are saved and filled in place: their memory must stay theirs until
        the next registration. What has been replaced (an array in a dict, the memory of a parameter, optimizer state)
        is registered again, by itself, at the next save or load.

        Args:
            replicated: ranks, process group or device mesh that hold the same plain tensors, where neither DTensor nor
                DistributedDataParallel says so. Declared replicas are written once.
            overlap: for which keywords `save` may return before the copy, because their optimizer's step alone changes
                their tensors. None: those of the tested kinds.

        Raises:
            TypeError: a plain value, which would be stale at the save; the message says what to pass instead.
            ValueError: a parameter of an optimizer that no registered module holds, or a name that two entries share.
            KeepstepError: the daemon refuses it; the old registration stands.
        """
        registered = _state.split(state, replicated=replicated, overlap=overlap)
        if self._rng:
            registered.extras[extras.RNG] = Generators().extra()
        self._client.register(list(registered.specs.values()))
        for gate in self._registered.gates:
            gate.detach()
        for gate in registered.gates:
            after = weakref.WeakMethod(self._after_step) if self._rescue else None
            gate.attach(weakref.WeakMethod(self._before_step), after)
        if self._rescue and not self._gated and self._unguarded != (why := registered.unguarded()):
            self._unguarded = why
            if why:
                _log.warning("keepstep: %s: crash flush is off: %s", self.job, why)
        self._registered = registered
        self._state = {**state, "replicated": replicated, "overlap": overlap}
        self._streams = Streams(spec.array for spec in registered.specs.values())
        self._groups = tuple(sorted({spec.group for spec in registered.specs.values()}))
        self._passed.clear()

    @property
    def preempted(self) -> bool:
        """Whether this process was told to end (SIGTERM). Save once more when `should_save` says so, then leave."""
        return self._preemption and _preemption.noticed()

    def request_save(self) -> None:
        """Asks for a save at a step that all ranks have still ahead: `should_save` says on each of them which one.

        Once for each Checkpointer; takes about a second to be known everywhere.
        """
        self._client.wish_save()
        self._wished = True

    def should_save(self, step: int, *, every: int | None = None) -> bool:
        """Whether to save after `step` updates: the same answer on every rank.

        Yes for a multiple of `every`, and for the step that an operator's `keepstep save`, `request_save`, or a
        preemption of any rank has been given. Every rank asks after each update.
        """
        if self._preemption and not self._wished:
            _preemption.listen()
            if _preemption.noticed():
                self.request_save()
        if self._rescue:
            self._note(step)
        return self._client.should_save(step, every or 0)

    def _note(self, step: int) -> None:
        if self._state is None or self._unguarded:
            return
        try:
            packed = {name: extra.pack() for name, extra in self._look_at_registration().extras.items()}
            if not self._unguarded:
                self._client.note_step(step, extras=packed)
        except KeepstepError as error:  # of registering again: training goes on, as at a save that fails
            if error.code not in _TRANSIENT:
                raise
            _log.warning("keepstep: %s: step %d is not noted for crash flush: %s", self.job, step, error)

    @property
    def rescue(self) -> Rescue:
        """Whether crash flush counts for what is registered, and if not, why."""
        told = self._client.rescue()
        return Rescue(False, None, self._unguarded) if self._unguarded else told

    def save(
        self,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        tags: Sequence[str] = (),
        streams: Sequence[int] = (),
    ) -> SaveHandle:
        """Starts a save of everything registered, after `step` completed updates.

        Of tensors on a GPU it saves what they hold once the work is done that is queued by now on PyTorch's current
        streams, on the default streams of GPUs that hold no tensors of PyTorch, and on `streams`, handles of further
        CUDA streams. The call does not wait for that work.

        Returns when every tensor that no gate guards may change again; copying the others and writing go on in the
        background.
        With on_busy="skip" the handle may be over already, as SKIPPED.

        Raises:
            SaveFailed: an earlier save failed, and `on_error` and `max_failures` say to raise.
            KeepstepError: this save was refused: INVALID_ARGUMENT, ALREADY_EXISTS (a step of this epoch), ABORTED (a
                new run of the job has taken over). A daemon that cannot be reached is a failed save instead.
        """
        self._look_at_registration()
        guarded = {gate.group for gate in self._registered.gates if gate.ready()}
        packed = {name: extra.pack() for name, extra in self._registered.extras.items()}
        begin = time.monotonic()
        self._issued += 1
        status = self._issue(step, packed, metrics or {}, tags, self._streams.now(streams))
        handle = SaveHandle(self._client, step, status, time.monotonic() - begin)
        try:
            self._verdicts.add(handle, status)
            if not self._gated:
                for group in self._groups:
                    if group not in guarded:
                        self._await_gate(group)
        finally:
            self._verdicts.watch(handle, status)  # last: its thread wants the interpreter, and then the caller may
        return handle

    def _issue(
        self,
        step: int,
        packed: Mapping[str, extras.Packed],
        metrics: Mapping[str, float],
        tags: Sequence[str],
        streams: Sequence[int],
    ) -> SaveStatus:
        try:
            number = self._client.save(
                step, on_busy=self._on_busy, extras=packed, metrics=metrics, tags=tags, streams=streams
            )
        except KeepstepError as error:
            if error.code not in _TRANSIENT or error.reason in _LASTING:
                raise
            return SaveStatus(number=0, step=step, state="FAILED", error=error)
        return self._client.accepted(number)

    def before_update(self, group: int | str | None = None, *, stream: int | None = None) -> None:
        """Returns when tensors of `group` may change; at once when nothing is in flight.

        Args:
            group: a number, a keyword of `register` whose optimizers' or averaged tensors are meant, or None: all.
            stream: the handle of a CUDA stream, where only work that is queued on it from now on changes the group: the
                stream then waits, and the call does not, if all of the group is on that stream's GPU (docs/gpu.md).
        """
        if isinstance(group, str):
            for member in self._groups_of(group):
                self.before_update(member, stream=stream)
            return
        issued = self._issued
        key = group, stream
        if self._passed.get(key) == issued and not self._rescue:
            return
        for member in self._groups if group is None else (group,):
            if stream is None:
                self._client.before_update(member)
            else:
                self._client.before_update_on(member, stream)
        self._passed[key] = issued

    def after_update(self, group: int | str | None = None, *, stream: int) -> None:
        """With `rescue`: the work that `before_update(group, stream=stream)` was called for is queued on the stream.

        Never waits. PyTorch's optimizers with a hook do this by themselves.
        """
        if isinstance(group, str):
            members: Sequence[int] = self._groups_of(group)
        else:
            members = self._groups if group is None else (group,)
        for member in members:
            self._client.after_update_on(member, stream)

    def _await_gate(self, group: int | None = None) -> None:
        """As `before_update`, where nothing is changed then: crash flush takes it for no update."""
        if not self._rescue:
            self.before_update(group)
            return
        for member in self._groups if group is None else (group,):
            self._client.await_gate(member)

    def _after_step(self, group: int) -> None:
        stream = self._streams.of_torch()
        if stream is not None:
            self._client.after_update_on(group, stream)

    def _before_step(self, group: int) -> None:
        """An optimizer of PyTorch is about to change `group`, by work that it queues on the current stream."""
        self.before_update(group, stream=self._streams.of_torch())

    def _groups_of(self, keyword: str) -> list[int]:
        groups = self._registered.groups
        inside = (f"{keyword}.", f"{keyword}[")
        found = [group for name, group in groups.items() if name == keyword or name.startswith(inside)]
        if not found:
            raise ValueError(f"no group is called {keyword!r}; there are {', '.join(groups) or 'none'}")
        return found

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

        Every rank gets the same answer to "latest". `only` and `exclude` are patterns (`*`, `?`) of registered names,
        of extra state too; `rename` maps registered names to stored ones; `source` loads from another job's directory.

        Returns:
            The number of completed updates that the checkpoint holds, or None when the job has none yet.

        Raises:
            MissingTensors: the checkpoint lacks registered tensors; pass ``strict=False`` to leave them as they are
                and get the report in ``last_load``.
            ShapeMismatch: same name, other global shape or dtype.
            DataLoss: a block failed its digest. The registered tensors are then undefined.
        """
        self._must_be_registered()
        if self._rescue:
            self._client.note_step(-1, extras={})  # what is filled, or made to be filled, is no step
        foreign = source is not None
        client = self._client if source is None else self._reading(os.path.abspath(source))
        try:
            load = Load(client, foreign, strict, convert_dtype, only, exclude, rename or {})
            report = load.run(None if step == "latest" else step, self._look_at_registration, self._await_gate)
            self.last_load = report
            if report is None:
                return None
            self.extras = load.restore(load.stored(report.step)[1], self.rank, self._registered)
            return report.step
        finally:
            if foreign:
                client.close()

    def device_alloc(self, size_bytes: int, *, device: int = 0) -> int:
        """The address of `size_bytes` new bytes on GPU `device` that the daemon owns (docs/gpu.md, "Warm restart").

        They hold zeroes, count against the daemon's `gpu_pool.bytes`, and stay mapped until `device_free` or the
        process's end. For PyTorch see `keepstep.torch.memory_pool`.

        Raises:
            KeepstepError: RESOURCE_EXHAUSTED: over the daemon's limit; INVALID_ARGUMENT: no such GPU, or no bytes.
        """
        return self._client.device_alloc(device, size_bytes)

    def device_free(self, pointer: int) -> None:
        """Gives back what `device_alloc` returned, once the GPU is done. Nothing registered lies there any more."""
        self._client.device_free(pointer)

    @property
    def memory_paths(self) -> str:
        """How registered memory reaches the daemon: "host by pull; 3 allocations by ipc, 2 by vmm" (docs/gpu.md)."""
        return self._client.memory_paths()

    def latest_step(self) -> int | None:
        """The newest committed step, in the order of epochs; None when there is none."""
        steps = self._client.steps()
        return steps[-1] if steps else None

    def steps(self) -> list[reader.CheckpointInfo]:
        """Every committed checkpoint, newest last, as the directory holds them."""
        return reader.list_checkpoints(self.directory)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until every save is over; raises as `on_error` says, or SaveTimeout after `timeout` seconds."""
        self._verdicts.wait(timeout)

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
            self._verdicts.stop()
            for gate in self._registered.gates:
                gate.detach()  # the program may train on
            self._client.close()

    def _must_be_registered(self) -> _state.Registered:
        if self._state is None:
            raise KeepstepError(
                "nothing is registered; call register(model=…, optimizer=…) first.",
                code="FAILED_PRECONDITION",
                reason="NOT_REGISTERED",
            )
        return self._registered

    def _look_at_registration(self) -> _state.Registered:
        """Registers again where a registered tensor is another one by now, or lies elsewhere."""
        told = self._must_be_registered().changed()
        if told:
            _log.info("keepstep: %s: registered again, %s now", self.job, told)
            assert self._state is not None
            self.register(**self._state)
        return self._registered

    def _forget_gates(self) -> None:
        """From here on `before_update` asks the library, which may refuse: closed, or a fork."""
        self._issued += 1
        self._passed.clear()

    def _reading(self, directory: str) -> Client:
        return self._open(directory, read_only=True, label=None)


def _after_fork() -> None:
    for checkpointer in list(_alive):
        checkpointer._forget_gates()


os.register_at_fork(after_in_child=_after_fork)


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
