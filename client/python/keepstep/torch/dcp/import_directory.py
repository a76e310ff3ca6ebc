"""A DCP directory becomes one committed step: its files are mapped, and the daemon copies from there."""

from __future__ import annotations

import math
import os
import time

import numpy as np
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from keepstep._registration import Spec
from keepstep.handle import SaveHandle
from keepstep.shards import Box, Component, Shape, Sharded
from keepstep.torch.dcp import foreign, items, names, record
from keepstep.torch.dcp.foreign import ForeignCheckpoint, ForeignChunk
from keepstep.torch.dcp.mapped import MappedFiles
from keepstep.torch.dcp.record import StoredBytes, StoredChunk
from keepstep.torch.dcp.session import open_session
from keepstep.torch.tensors import dtype_name

_NOTHING = np.empty(0, np.uint8)


def import_directory(
    source: str, directory: str, *, step: int = 0, daemon: str = "auto", transfer: str = "auto"
) -> tuple[int, int]:
    """Returns how many tensors and how many of their bytes were committed as `step` of the job `directory`.

    Memory is bounded: what is mapped can be dropped by the kernel, and the daemon streams through its own pool.

    Raises:
        CheckpointNotFound, DataLoss: as foreign.read.
        KeepstepError, SaveFailed: the daemon refuses it, or could not commit it; nothing of it is there then.
    """
    found = foreign.read(source)
    files = [chunk.file for chunk in found.chunks] + [item.file for item in found.items]
    with MappedFiles(files) as mapped:
        specs = _Specs(mapped)
        specs.add_chunks(found)
        specs.add_items(found)
        found.metadata.storage_data = specs.placed
        metadata = items.raw(names.metadata(None), record.encode(found.metadata))
        client = open_session(os.path.abspath(directory), daemon=daemon, transfer=transfer, read_only=False)
        try:
            client.register([*specs.specs, metadata])
            begin = time.monotonic()
            number = client.save(step, on_busy="wait", extras={}, metrics={}, tags=("imported",))
            handle = SaveHandle(client, step, client.accepted(number), time.monotonic() - begin)
            handle.result()
        finally:
            client.close()
    sizes = [math.prod(chunk.shape) * chunk.dtype.itemsize for chunk in found.chunks]
    return len(found.metadata.state_dict_metadata) - len(found.items), sum(sizes)


class _Specs:
    """Registrations of memory in the mapped files, and where DCP finds each chunk of them."""

    def __init__(self, mapped: MappedFiles) -> None:
        self._mapped = mapped
        self.specs: list[Spec] = []
        self.placed: dict[MetadataIndex, StoredChunk | StoredBytes] = {}

    def add_chunks(self, found: ForeignCheckpoint) -> None:
        by_name: dict[str, list[ForeignChunk]] = {}
        for chunk in found.chunks:
            by_name.setdefault(chunk.fqn, []).append(chunk)
        for fqn, chunks in by_name.items():
            described = found.metadata.state_dict_metadata[fqn]
            assert isinstance(described, TensorStorageMetadata)
            shape = tuple(described.size)
            whole = sum(math.prod(chunk.shape) for chunk in chunks) == math.prod(shape)
            if whole:
                self._add(fqn, fqn, shape, [(chunk.origin, chunk) for chunk in chunks])
                continue
            for chunk in chunks:  # of a part that one rank saved by itself
                origin = (0,) * len(chunk.shape)
                self._add(names.own(fqn, None, chunk.origin), fqn, chunk.shape, [(origin, chunk)])

    def _add(self, name: str, fqn: str, shape: Shape, chunks: list[tuple[Shape, ForeignChunk]]) -> None:
        boxes = []
        for number, (origin, chunk) in enumerate(chunks):
            self.placed[MetadataIndex(fqn, chunk.origin, number)] = StoredChunk(name, origin)
            if math.prod(chunk.shape):
                boxes.append(
                    Box(origin, chunk.shape, self._mapped.begins[chunk.file] + chunk.begin, chunk.strides_bytes)
                )
        dtype = dtype_name(chunks[0][1].dtype)
        self._spec(name, names.component(fqn), dtype, shape, boxes or [Box((0,) * len(shape), shape)])

    def add_items(self, found: ForeignCheckpoint) -> None:
        boxes, at = [], 0
        name = names.byte_items(0)
        for item in found.items:
            self.placed[MetadataIndex(item.fqn)] = StoredBytes(name, at, at + item.size)
            if item.size:
                boxes.append(Box((at,), (item.size,), self._mapped.begins[item.file] + item.begin, (1,)))
            at += item.size
        if boxes:
            self._spec(name, "extra", "U8", (at,), boxes)

    def _spec(self, name: str, component: Component, dtype: str, shape: Shape, boxes: list[Box]) -> None:
        held = Sharded(_NOTHING, shape, boxes=tuple(boxes), dtype=dtype, component=component)
        size = max(self._mapped.size_bytes, 1)
        self.specs.append(Spec(name, _NOTHING, dtype, component, self._mapped.base, size, 0, held, boxes=held.boxes))
