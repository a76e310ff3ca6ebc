"""DCP's Metadata as bytes and back, without pickle: JSON, compressed.

What can be told from the rest is left out: a chunk lies under its fqn unless `names` says where. `paths` is what DCP's
own planner keeps as planner_data; that of another one is packed as extra state is (keepstep.extras).
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from keepstep import extras
from keepstep.errors import DataLoss, KeepstepError

_FORMAT = 1
_MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "preserve": torch.preserve_format,
}


@dataclass(frozen=True)
class StoredChunk:
    """Where one chunk of a tensor lies: an entry of Metadata.storage_data. `origin` is within the tensor `name`."""

    name: str
    origin: tuple[int, ...]


@dataclass(frozen=True)
class StoredBytes:
    """Where an item that is no tensor lies: bytes begin … end of the tensor `name`."""

    name: str
    begin: int
    end: int


def encode(metadata: Metadata) -> bytes:
    """TypeError: `planner_data` of a planner of the caller's own holds what JSON cannot."""
    placed = metadata.storage_data or {}
    meta = metadata.storage_meta
    told = {
        "format": _FORMAT,
        "version": metadata.version,
        "items": [_item(fqn, described, placed) for fqn, described in metadata.state_dict_metadata.items()],
        **_planner_data(metadata.planner_data),
        "checkpoint_id": None if meta is None or meta.checkpoint_id is None else os.fspath(meta.checkpoint_id),
        "save_id": None if meta is None else meta.save_id,
        "modules": [] if meta is None else list(meta.modules),
    }
    return zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 1)


def decode(data: bytes) -> Metadata:
    """The same graph again. DataLoss: bytes that `encode` did not make; KeepstepError: a later format."""
    try:
        told = json.loads(zlib.decompress(data))
        if told["format"] != _FORMAT:
            raise KeepstepError(
                f"the DCP metadata has format {told['format']}, this version reads {_FORMAT}; upgrade keepstep.",
                code="FAILED_PRECONDITION",
                reason="UNSUPPORTED_VERSION",
            )
        described: dict[str, STORAGE_TYPES] = {}
        placed: dict[MetadataIndex, StoredChunk | StoredBytes] = {}
        for item in told["items"]:
            described[item["fqn"]] = _described(item, placed)
        return Metadata(
            described,
            planner_data=_planner_data_of(told),
            storage_data=placed,
            storage_meta=StorageMeta(told["checkpoint_id"], told["save_id"], modules=told["modules"]),
            version=told["version"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise DataLoss(f"the DCP metadata cannot be read: {error}") from error


def _planner_data(given: Any) -> dict[str, Any]:
    if isinstance(given, dict) and all(map(_is_path, given, given.values())):
        return {"paths": given}
    try:
        return {"planner_data": extras.encode(given).decode()}
    except TypeError as error:
        raise TypeError(f"the planner's planner_data cannot be stored without pickle: {error}") from None


def _is_path(name: Any, path: Any) -> bool:
    """Whether it is an entry of DCP's flattening: a name, and the keys and indices that lead there."""
    return type(name) is str and type(path) is tuple and all(type(part) in (str, int) for part in path)


def _planner_data_of(told: dict[str, Any]) -> Any:
    if "paths" in told:
        return {name: tuple(path) for name, path in told["paths"].items()}
    return extras.decode(told["planner_data"].encode())


def _item(fqn: str, described: STORAGE_TYPES, placed: dict[MetadataIndex, Any]) -> dict[str, Any]:
    if isinstance(described, BytesStorageMetadata):
        at = placed.get(MetadataIndex(fqn))
        return {"fqn": fqn, "bytes": None if at is None else [at.name, at.begin, at.end]}
    properties = described.properties
    item: dict[str, Any] = {
        "fqn": fqn,
        "dtype": str(properties.dtype).removeprefix("torch."),
        "size": list(described.size),
        "chunks": [[list(chunk.offsets), list(chunk.sizes)] for chunk in described.chunks],
    }
    names = [_place(fqn, chunk, placed) for chunk in described.chunks]
    if any(name is not None for name in names):
        item["names"] = names
    if properties.layout is not torch.strided:
        item["layout"] = str(properties.layout).removeprefix("torch.")
    if properties.memory_format is not torch.contiguous_format:
        item["memory_format"] = next(
            name for name, value in _MEMORY_FORMATS.items() if value is properties.memory_format
        )
    for flag in ("requires_grad", "pin_memory"):
        if getattr(properties, flag):
            item[flag] = True
    return item


def _place(fqn: str, chunk: ChunkStorageMetadata, placed: dict[MetadataIndex, Any]) -> list[Any] | None:
    at = placed.get(MetadataIndex(fqn, chunk.offsets))
    if at is None or (at.name == fqn and at.origin == tuple(chunk.offsets)):
        return None
    return [at.name, list(at.origin)]


def _described(item: dict[str, Any], placed: dict[MetadataIndex, StoredChunk | StoredBytes]) -> STORAGE_TYPES:
    fqn = item["fqn"]
    if "bytes" in item:
        if item["bytes"] is not None:
            placed[MetadataIndex(fqn)] = StoredBytes(*item["bytes"])
        return BytesStorageMetadata()
    chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in item["chunks"]]
    for number, chunk in enumerate(chunks):
        elsewhere = item["names"][number] if "names" in item else None
        name, origin = (fqn, list(chunk.offsets)) if elsewhere is None else elsewhere
        placed[MetadataIndex(fqn, chunk.offsets, number)] = StoredChunk(name, tuple(origin))
    properties = TensorProperties(
        dtype=_torch(item["dtype"], torch.dtype),
        layout=_torch(item.get("layout", "strided"), torch.layout),
        requires_grad=item.get("requires_grad", False),
        memory_format=_MEMORY_FORMATS[item.get("memory_format", "contiguous")],
        pin_memory=item.get("pin_memory", False),
    )
    return TensorStorageMetadata(properties, torch.Size(item["size"]), chunks)


def _torch(name: str, kind: type) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise ValueError(f"torch has no {kind.__name__} {name}")
    return found
