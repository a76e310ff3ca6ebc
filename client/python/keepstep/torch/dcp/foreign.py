"""An existing DCP directory, understood without unpickling: where in which file each chunk's elements lie."""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from keepstep.errors import CheckpointNotFound, DataLoss
from keepstep.shards import Shape
from keepstep.torch.dcp.pickles import Pickles
from keepstep.torch.tensors import dtype_name

_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class ForeignChunk:
    """Elements of one chunk: strided in `file` from byte `begin`."""

    fqn: str
    origin: Shape
    shape: Shape
    dtype: torch.dtype
    file: str
    begin: int
    strides_bytes: Shape


@dataclass(frozen=True)
class ForeignBytes:
    """An item that is no tensor."""

    fqn: str
    file: str
    begin: int
    size: int


@dataclass(frozen=True)
class ForeignCheckpoint:
    """`metadata` has no storage_data."""

    metadata: Metadata
    chunks: list[ForeignChunk]
    items: list[ForeignBytes]


def read(directory: str) -> ForeignCheckpoint:
    """Reads `.metadata` and the heads of all items; no tensor.

    Raises:
        CheckpointNotFound: no `.metadata`.
        DataLoss: what no DCP of torch writes, or something that the files do not hold.
    """
    path = os.path.join(directory, ".metadata")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise CheckpointNotFound(
            f"{directory} holds no .metadata: it is no DCP checkpoint that was saved with collectives.",
            code="NOT_FOUND",
            reason="CHECKPOINT_NOT_FOUND",
        ) from None
    with Pickles() as pickles:
        told = pickles.describe(data, path)
        try:
            return _understand(directory, told, pickles)
        except (KeyError, TypeError, ValueError, AttributeError, OSError, zipfile.BadZipFile, struct.error) as error:
            raise DataLoss(f"{directory} is not what DCP writes: {error}") from error


def _understand(directory: str, told: dict[str, Any], pickles: Pickles) -> ForeignCheckpoint:
    described: dict[str, STORAGE_TYPES] = {}
    shapes: dict[tuple[str, Shape], Shape] = {}
    for item in told["items"]:
        described[item["fqn"]] = _described(item)
        for origin, shape in item.get("chunks", ()):
            shapes[item["fqn"], tuple(origin)] = tuple(shape)
    chunks: list[ForeignChunk] = []
    items: list[ForeignBytes] = []
    for at in told["storage"]:
        if at["transforms"]:
            raise ValueError(f"{at['fqn']} was written through {', '.join(at['transforms'])}; save it without")
        if os.path.basename(at["file"]) != at["file"]:
            raise ValueError(f"{at['file']} leads elsewhere")
        path = os.path.join(directory, at["file"])
        if not 0 <= at["begin"] <= at["begin"] + at["bytes"] <= os.stat(path).st_size:
            raise ValueError(f"{at['fqn']} lies beyond the end of {at['file']}")
        if at["offset"] is None:
            items.append(ForeignBytes(at["fqn"], path, at["begin"], at["bytes"]))
        else:
            origin = tuple(at["offset"])
            chunks.append(_chunk(at, path, origin, shapes[at["fqn"], origin], pickles))
    paths = None if told["paths"] is None else {name: tuple(parts) for name, parts in told["paths"]}
    return ForeignCheckpoint(Metadata(described, planner_data=paths, version=told["version"]), chunks, items)


def _described(item: dict[str, Any]) -> STORAGE_TYPES:
    if "size" not in item:
        return BytesStorageMetadata()
    chunks = [ChunkStorageMetadata(torch.Size(origin), torch.Size(shape)) for origin, shape in item["chunks"]]
    properties = TensorProperties(_dtype(item["dtype"]), requires_grad=item["requires_grad"])
    return TensorStorageMetadata(properties, torch.Size(item["size"]), chunks)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch has no dtype {name}")
    dtype_name(found)
    return found


def _chunk(at: dict[str, Any], path: str, origin: Shape, shape: Shape, pickles: Pickles) -> ForeignChunk:
    """Finds the elements in the zip archive that torch.save made of the chunk."""
    with open(path, "rb") as file:
        view = _View(file, at["begin"], at["bytes"])
        archive = zipfile.ZipFile(view)
        entries = {name.filename.split("/", 1)[-1]: name for name in archive.infolist()}
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ValueError(f"{at['fqn']} is not little-endian")
        told = pickles.describe(archive.read(entries["data.pkl"]), f"{path}:{at['fqn']}")
        entry = entries[f"data/{told['tensor']}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{at['fqn']} is compressed")
        view.seek(entry.header_offset)
        head = view.read(_LOCAL_HEADER_BYTES)
    name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
    dtype = _dtype(told["dtype"])
    if tuple(told["shape"]) != shape:
        raise ValueError(f"{at['fqn']} has shape {told['shape']} where its metadata says {list(shape)}")
    strides = tuple(stride * dtype.itemsize for stride in told["strides"])
    first = told["offset"] * dtype.itemsize
    reach = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    if math.prod(shape) and not (first >= 0 and min(strides, default=1) >= 0 and first + reach <= entry.file_size):
        raise ValueError(f"{at['fqn']} reaches beyond its storage")
    begin = at["begin"] + entry.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes + first
    return ForeignChunk(at["fqn"], origin, shape, dtype, path, begin, strides)


class _View(io.RawIOBase):
    """Bytes begin … begin + size of a file, as a file."""

    def __init__(self, file: BinaryIO, begin: int, size: int) -> None:
        self._file, self._begin, self._size = file, begin, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError("a position before the beginning")  # as a file says it; zipfile expects that
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._begin + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
