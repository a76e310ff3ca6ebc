"""DCP's Metadata for a checkpoint that dcp.save did not make: from the names and boxes that are stored.

Keys are the stored names: {"layers.0.weight": tensor} finds the parameter that `Checkpointer.register(model=…)` stored.
Extra state is there under its name, its dicts and lists flattened as DCP flattens them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from keepstep.extras import RNG
from keepstep.reader import Reader, StoredTensor
from keepstep.torch.dcp.record import StoredChunk
from keepstep.torch.tensors import torch_dtype


@dataclass(frozen=True)
class StoredValue:
    """A value of the checkpoint's extra state, as decoded: an entry of Metadata.storage_data."""

    value: Any

    def saved(self) -> bytes:
        """As DCP's planner writes an item that is no tensor."""
        buffer = io.BytesIO()
        torch.save(self.value, buffer)
        return buffer.getvalue()


def metadata(checkpoint: Reader) -> Metadata:
    """Of a committed checkpoint; the lowest rank's extra state, without that of the random generators."""
    described: dict[str, STORAGE_TYPES] = {}
    paths: dict[str, tuple[str | int, ...]] = {}
    placed: dict[MetadataIndex, StoredChunk | StoredValue] = {}
    for name in checkpoint.names():
        described[name] = _tensor(name, checkpoint.tensor(name), placed)
        paths[name] = (name,)
    extra = {name: checkpoint.extra(name) for name in dict(checkpoint.extra_names()) if name != RNG}
    values, value_paths = flatten_state_dict(extra)
    for name, value in values.items():
        if name not in described:
            described[name] = BytesStorageMetadata()
            paths[name] = value_paths[name]
            placed[MetadataIndex(name)] = StoredValue(value)
    return Metadata(described, planner_data=paths, storage_data=placed)


def _tensor(
    name: str, stored: StoredTensor, placed: dict[MetadataIndex, StoredChunk | StoredValue]
) -> TensorStorageMetadata:
    chunks = []
    for number, (origin, shape) in enumerate(stored.boxes()):
        chunks.append(ChunkStorageMetadata(torch.Size(origin), torch.Size(shape)))
        placed[MetadataIndex(name, origin, number)] = StoredChunk(name, origin)
    properties = TensorProperties(dtype=torch_dtype(stored.stored_dtype))
    return TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
