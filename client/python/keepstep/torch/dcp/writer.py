"""DCP's StorageWriter over Keepstep: see docs/dcp.md for what happens in which call."""

from __future__ import annotations

import dataclasses
import io
import os
import uuid
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from keepstep import _directory
from keepstep._registration import Spec
from keepstep.torch.dcp import items, names, record, stager
from keepstep.torch.dcp.part import STEP, Part, settle
from keepstep.torch.dcp.record import StoredBytes, StoredChunk

_LOOK_SECONDS = 0.01
ReturnAt = Literal["committed", "snapshotted"]


@dataclasses.dataclass(frozen=True)
class World:
    """What `write_data` must know of the other ranks; travels in SavePlan.storage_data."""

    size: int


class KeepstepStorageWriter(StorageWriter):
    """`dcp.save(state, storage_writer=KeepstepStorageWriter("/ckpt/step-100"))`: all of it or nothing is committed.

    Args:
        path: the checkpoint: a directory that holds step 0. `checkpoint_id` of `dcp.save` takes its place.
        overwrite: a checkpoint that is there is replaced when the new one is committed, with a warning; False refuses.
        return_at: when `dcp.save` returns on every rank. "committed": when the checkpoint is durable and visible.
            "snapshotted": when the tensors of all ranks may change; call `wait` before you rely on the checkpoint.
        daemon, transfer: as in `keepstep.Checkpointer`.
        process_group: the one given to `dcp.save`, where that is not the default group; used to know the world's size
            with ``use_collectives=False``, and to tell the coordinator that all are "snapshotted".
        timeout: seconds that `dcp.save` waits for the commit; None: without limit.

    Raises, from `dcp.save` on every rank as CheckpointException, or as it is without collectives:
        RuntimeError: the checkpoint exists and `overwrite` is False, or the directory is not of this kind.
        DaemonUnavailable, SaveFailed, SaveTimeout: as `Checkpointer`. Nothing was committed, except after SaveTimeout.
        TypeError, ValueError: a tensor that cannot be stored, or is not what the plan says.

    One save at a time. Not thread-safe.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        return_at: ReturnAt = "committed",
        daemon: str = "auto",
        transfer: Literal["auto", "pull", "window"] = "auto",
        process_group: dist.ProcessGroup | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__()
        if return_at not in ("committed", "snapshotted"):
            raise ValueError(f"return_at={return_at!r}; it is committed or snapshotted")
        self.path: str | os.PathLike[str] = path
        self.overwrite = overwrite
        self.return_at = return_at
        self.save_id = uuid.uuid4().hex
        self.rank = 0
        self.use_collectives = True
        self.is_coordinator = False
        self._daemon, self._transfer, self._timeout = daemon, transfer, timeout
        self._group = process_group
        self._part: Part | None = None
        self._specs: list[Spec] = []
        self._staged: Callable[[Part], None] = _staged(None, tell_all=False)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self._drop()
        if checkpoint_id:
            self.path = checkpoint_id
        self.save_id = uuid.uuid4().hex

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._drop()
        self.is_coordinator = is_coordinator
        self.rank = kwargs.get("rank") or 0
        self.use_collectives = kwargs.get("use_collectives", True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        os.makedirs(self.path, exist_ok=True)
        settle(os.path.abspath(self.path), self._timeout)
        self._look_at_directory()
        if not self.use_collectives:
            return dataclasses.replace(plan, storage_data=World(self._world_size()))
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        if self.use_collectives:
            # Before the others join, and in an epoch of its own: what of an earlier, failed save still waits on another
            # rank, its tensors long changed, cannot become part of this one.
            self._part = self._join(len(plans), after=_directory.newest_epoch(os.path.abspath(self.path)))
        return [
            dataclasses.replace(plan, storage_data=World(len(plans))) if plan.storage_data is None else plan
            for plan in plans
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        staging = stager.current()
        world = plan.storage_data.size if isinstance(plan.storage_data, World) else 1
        specs, results = self._resolve(plan, planner, alone=world == 1)
        part = self._part = self._part or self._join(world, after=0)
        tell_all = self.return_at == "snapshotted" and self.use_collectives and world > 1
        self._staged = _staged(staging, tell_all=tell_all)
        if self._finishes:
            self._specs = specs  # `finish` adds the metadata and issues the save
        else:
            part.add(specs)
            part.issue(self._staged)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {told.index: told.storage_data for of_rank in results for told in of_rank}
        metadata.storage_meta = self.storage_meta()
        part = self._part
        assert part is not None, "finish comes after write_data"
        specs, self._specs = self._specs, []
        name = names.metadata(None if self.use_collectives else self.rank)
        part.add([*specs, items.raw(name, record.encode(metadata))])
        part.issue(self._staged)
        try:
            if self.return_at == "snapshotted":
                self._wait_staged(part)
            else:
                part.wait(self._timeout)
        except BaseException:
            part.abandon()  # the caller's tensors may change from here on
            raise

    def wait(self, timeout: float | None = None) -> None:
        """Until the newest save is committed: for ``return_at="snapshotted"``. SaveFailed, SaveTimeout."""
        if self._part is not None:
            self._part.wait(timeout)

    def storage_meta(self) -> StorageMeta | None:
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self.save_id)

    @property
    def checkpoint_id(self) -> str | os.PathLike[str]:
        """The directory that the next save goes to."""
        return self.path

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return FileSystemWriter.validate_checkpoint_id(checkpoint_id)

    @property
    def _finishes(self) -> bool:
        return self.is_coordinator or not self.use_collectives

    def _join(self, world: int, after: int) -> Part:
        """Opens this rank's session, in a later epoch than `after`."""
        return Part(
            os.path.abspath(self.path),
            daemon=self._daemon,
            transfer=self._transfer,
            rank=self.rank,
            world_size=world,
            after=after,
            lasting=self.return_at == "snapshotted",
        )

    def _drop(self) -> None:
        """Gives up what a failed save left; one that only is not committed yet goes on."""
        part, self._part, self._specs = self._part, None, []
        if part is not None and not part.is_staged:
            part.abandon()

    def __del__(self) -> None:
        if getattr(self, "_part", None) is not None:
            self._drop()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_part": None, "_specs": [], "_staged": None, "_group": None}

    def _world_size(self) -> int:
        return dist.get_world_size(self._group) if dist.is_available() and dist.is_initialized() else 1

    def _look_at_directory(self) -> None:
        path = os.fspath(self.path)
        if os.path.exists(os.path.join(path, ".metadata")):
            raise RuntimeError(f"{path} holds a checkpoint of DCP's own file system storage; name another directory")
        steps = {decision.step for _, decision in _directory.committed(path)}
        if steps - {STEP}:
            raise RuntimeError(
                f"{path} is the job of a keepstep.Checkpointer (it holds step {max(steps)}); name another directory"
            )
        if not steps:
            return
        if not self.overwrite:
            raise RuntimeError(f"Checkpoint already exists and {self.overwrite=}.")
        warnings.warn(
            f"Detected an existing checkpoint in {path}, which this save replaces when it is committed, "
            f"since {self.overwrite=}.",
            stacklevel=2,
        )

    def _resolve(self, plan: SavePlan, planner: SavePlanner, alone: bool) -> tuple[list[Spec], list[WriteResult]]:
        own_rank = None if self.use_collectives else self.rank
        apart = items.partial(plan) if alone or own_rank is not None else set()
        pieces: list[items.Piece] = []
        results: list[WriteResult] = []
        packed = bytearray()
        stored: StoredChunk | StoredBytes
        for item in plan.items:
            data = planner.resolve_data(item)
            if item.type == WriteItemType.BYTE_IO:
                if not isinstance(data, io.BytesIO):
                    raise AssertionError(f"{item.index.fqn}: the planner gave no BytesIO for an item of bytes")
                begin = len(packed)
                packed += data.getbuffer()
                stored = StoredBytes(names.byte_items(self.rank), begin, len(packed))
                size_bytes = len(packed) - begin
            else:
                if not isinstance(data, torch.Tensor):
                    raise AssertionError(f"{item.index.fqn}: the planner gave no tensor for an item of a tensor")
                stored, shape = items.place(item, own_rank=own_rank, apart=item.index.fqn in apart)
                pieces.append(items.piece(item, stored, shape, data))
                size_bytes = pieces[-1].array.nbytes
            results.append(WriteResult(index=item.index, size_in_bytes=size_bytes, storage_data=stored))
        specs = items.specs(pieces)
        if packed or not specs:  # a rank without a single byte could not take part
            specs.append(items.raw(names.byte_items(self.rank), packed or bytearray(1)))
        return specs, results

    def _wait_staged(self, part: Part) -> None:
        others = range(part.world_size) if self.use_collectives and part.world_size > 1 else ()
        part.wait_staged(self._timeout)
        part.raise_if_failed()
        while others and not _store().check([_key(part, rank) for rank in others]):
            part.raise_if_failed()
            part.wait_over(_LOOK_SECONDS)


def _staged(staging: stager.Staging | None, *, tell_all: bool) -> Callable[[Part], None]:
    """What is done when this rank's tensors may change."""

    def call(part: Part) -> None:
        if staging is not None:
            staging.copied()
        if tell_all:
            _store().set(_key(part, part.rank), "")

    return call


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


def _key(part: Part, rank: int) -> str:
    return f"keepstep.dcp/{part.directory}/{part.epoch}/{rank}"
