"""DCP's StorageReader over Keepstep: the daemon reads, checks and reshards straight into the target tensors."""

from __future__ import annotations

import io
import os
import uuid
from typing import Any, Literal

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from keepstep import reader as files
from keepstep.errors import CheckpointNotFound, KeepstepError
from keepstep.shards import Shape
from keepstep.torch.dcp import derive, names, record
from keepstep.torch.dcp.record import StoredBytes, StoredChunk
from keepstep.torch.dcp.session import open_session
from keepstep.torch.dcp.targets import Target, load_specs, target


class KeepstepStorageReader(StorageReader):
    """`dcp.load(state, storage_reader=KeepstepStorageReader("/ckpt/step-100"))`, into any layout.

    Args:
        path: a directory that KeepstepStorageWriter wrote, or the job of a `keepstep.Checkpointer`: then names are
            those that the Checkpointer stored. `checkpoint_id` of `dcp.load` takes its place.
        step: of a Checkpointer's job; None: the latest.
        daemon, transfer: as in `keepstep.Checkpointer`.

    Raises, from `dcp.load` on every rank as CheckpointException:
        CheckpointNotFound: nothing is committed there; seen as the cause of DCP's own error about metadata.
        DataLoss: a block failed its digest. The tensors are then undefined.
        DaemonUnavailable: nobody listens, and none could be started.

    Not thread-safe.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        step: int | None = None,
        daemon: str = "auto",
        transfer: Literal["auto", "pull", "window"] = "auto",
    ) -> None:
        super().__init__()
        self.path: str | os.PathLike[str] = path
        self.load_id = uuid.uuid4().hex
        self.storage_data: dict[Any, Any] = {}
        self._step, self._daemon, self._transfer = step, daemon, transfer
        self._files: files.Reader | None = None
        self._bytes: dict[str, memoryview] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id:
            self.path = checkpoint_id
        self.load_id = uuid.uuid4().hex
        self.storage_data, self._files, self._bytes = {}, None, {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Of the whole checkpoint; with `rank`, of that rank's part of a save without collectives.

        CheckpointNotFound: there is none of that kind.
        """
        rank = kwargs.get("rank")
        found = self._open()
        name = names.metadata(rank)
        if name in found:
            metadata = record.decode(found.tensor(name).numpy().tobytes())
        elif rank is None and not any(stored.startswith(names.PREFIX) for stored in found):
            metadata = derive.metadata(found)
        else:
            raise CheckpointNotFound(
                f"{self.path} was saved {'with' if rank is not None else 'without'} collectives: it has no metadata "
                f"{'of rank ' + str(rank) if rank is not None else 'of all ranks together'}.",
                code="NOT_FOUND",
                reason="CHECKPOINT_NOT_FOUND",
            )
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if metadata.storage_data is None:
            raise AssertionError("storage_data must not be None in metadata")
        self.storage_data = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        targets: list[Target] = []
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                planner.load_bytes(item, io.BytesIO(self.saved_bytes(item.storage_index)))
            else:
                targets.append(self._target(item, planner.resolve_tensor(item).detach()))
        self._fill(targets)
        for filled in targets:
            filled.finish()
            planner.commit_tensor(filled.item, filled.tensor)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @property
    def checkpoint_id(self) -> str | os.PathLike[str]:
        """The directory that the next load reads."""
        return self.path

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return FileSystemReader.validate_checkpoint_id(checkpoint_id)

    def _open(self) -> files.Reader:
        if self._files is None:
            self._files = files.Reader(self.path, self._step)
        return self._files

    def saved_bytes(self, index: MetadataIndex) -> bytes:
        """An item that is no tensor, as the planner that saved it wrote it."""
        at = self.storage_data[index]
        if isinstance(at, derive.StoredValue):
            return at.saved()
        assert isinstance(at, StoredBytes)
        if at.name not in self._bytes:
            self._bytes[at.name] = memoryview(self._open().tensor(at.name).numpy().tobytes())
        return bytes(self._bytes[at.name][at.begin : at.end])

    def stored_chunk(self, index: MetadataIndex) -> tuple[files.StoredTensor, Shape]:
        """The stored tensor that holds the chunk, and where in it the chunk begins."""
        at = self.storage_data[index]
        assert isinstance(at, StoredChunk)
        return self._open().tensor(at.name), at.origin

    def _target(self, item: ReadItem, tensor: torch.Tensor) -> Target:
        if tensor.size() != item.lengths:
            raise AssertionError(f"req {item.storage_index} mismatch sizes {tensor.size()} vs {item.lengths}")
        stored, begin = self.stored_chunk(item.storage_index)
        origin = tuple(a + b for a, b in zip(begin, item.storage_offsets, strict=True))
        return target(item, tensor, stored.name, stored.stored_dtype, stored.shape, origin)

    def _fill(self, targets: list[Target]) -> None:
        specs, rename = load_specs(targets)
        if not specs:
            return
        found = self._open()
        path = os.path.abspath(self.path)
        client = open_session(path, daemon=self._daemon, transfer=self._transfer, read_only=True)
        try:
            client.register(specs)
            report = client.load(found.step, strict=True, convert_dtype=False, only=[], exclude=[], rename=rename)
        finally:
            client.close()
        if report is None or report.attempt != found.info.attempt:
            raise KeepstepError(
                f"{self.path} was saved again while it was loaded; load it once more.",
                code="ABORTED",
                reason="STALE_EPOCH",
            )
