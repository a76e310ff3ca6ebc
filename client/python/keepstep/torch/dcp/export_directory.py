"""A checkpoint becomes a DCP directory that stock `dcp.load` reads, chunk by chunk."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)

from keepstep.reader import StoredTensor
from keepstep.shards import Shape
from keepstep.torch.dcp.reader import KeepstepStorageReader
from keepstep.torch.tensors import torch_dtype

_CHUNK_BYTES = 64 << 20
_FILE_BYTES = 4 << 30


def export_directory(source: str, directory: str, *, step: int | None = None, chunk_bytes: int = _CHUNK_BYTES) -> int:
    """Writes the checkpoint as DCP's file system storage does, and returns the bytes of its tensors.

    Needs no daemon. Memory: a few times `chunk_bytes`, or the largest row of a tensor (one index of its first
    dimension) if that is more. The directory is complete when `.metadata` is there.

    Raises:
        FileExistsError: the directory holds a DCP checkpoint already.
        CheckpointNotFound, DataLoss: of the source.
    """
    reader = KeepstepStorageReader(source, step=step)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, True)
    os.makedirs(directory, exist_ok=True)
    final = os.path.join(directory, ".metadata")
    if os.path.exists(final):
        raise FileExistsError(f"{directory} holds a DCP checkpoint; name an empty directory")
    files = _Files(directory)
    written = 0
    for fqn, described in metadata.state_dict_metadata.items():
        if isinstance(described, BytesStorageMetadata):
            files.put(MetadataIndex(fqn), reader.saved_bytes(MetadataIndex(fqn)))
            continue
        written += _tensor(fqn, described, reader, files, chunk_bytes)
    files.close()
    metadata.storage_data = files.placed
    metadata.storage_meta = StorageMeta(checkpoint_id=directory)
    metadata.version = CURRENT_DCP_VERSION
    with open(final + ".tmp", "wb") as file:
        pickle.dump(metadata, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(final + ".tmp", final)
    return written


def _tensor(
    fqn: str, described: TensorStorageMetadata, reader: KeepstepStorageReader, files: _Files, chunk_bytes: int
) -> int:
    chunks, described.chunks = described.chunks, []
    written = 0
    for chunk in chunks:
        stored, origin = reader.stored_chunk(MetadataIndex(fqn, chunk.offsets))
        for begin, shape in _pieces(tuple(chunk.sizes), stored.dtype.itemsize, chunk_bytes):
            piece = _read(stored, _add(origin, begin), shape)
            offsets = _add(tuple(chunk.offsets), begin)
            files.put(MetadataIndex(fqn, offsets, len(described.chunks)), piece)
            described.chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(shape)))
            written += piece.nbytes
    return written


def _pieces(shape: Shape, item_bytes: int, most_bytes: int) -> Iterator[tuple[Shape, Shape]]:
    """Begin and shape of pieces of whole rows, in order."""
    if not shape or math.prod(shape) == 0:
        yield (0,) * len(shape), shape
        return
    rows = max(1, most_bytes // (math.prod(shape[1:]) * item_bytes))
    for begin in range(0, shape[0], rows):
        yield (begin, *[0] * (len(shape) - 1)), (min(rows, shape[0] - begin), *shape[1:])


def _read(stored: StoredTensor, origin: Shape, shape: Shape) -> torch.Tensor:
    array = stored[tuple(slice(a, a + n) for a, n in zip(origin, shape, strict=True))]
    raw = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return raw.view(torch_dtype(stored.stored_dtype)).reshape(shape)


def _add(one: Shape, other: Shape) -> Shape:
    return tuple(a + b for a, b in zip(one, other, strict=True))


class _Files:
    """`__0_<n>.distcp`, each up to about 4 GiB."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._number = -1
        self._file: IO[bytes] | None = None
        self.placed: dict[MetadataIndex, Any] = {}

    def put(self, index: MetadataIndex, value: bytes | torch.Tensor) -> None:
        file = self._file
        if file is None or file.tell() >= _FILE_BYTES:
            self.close()
            self._number += 1
            file = self._file = open(os.path.join(self._directory, f"__0_{self._number}.distcp"), "wb")  # noqa: SIM115
        begin = file.tell()
        if isinstance(value, bytes):
            file.write(value)
        else:
            torch.save(value, file)
        self.placed[index] = _StorageInfo(f"__0_{self._number}.distcp", begin, file.tell() - begin)

    def close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
