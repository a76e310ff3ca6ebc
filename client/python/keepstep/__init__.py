"""Keepstep: saves training state in the background, commits it atomically, loads it into any layout.

    with keepstep.Checkpointer("/ckpt/run") as ck:
        ck.register(model=weights, optimizer=moments)
        step = ck.load() or 0
        while step < steps:
            train(); step += 1
            if ck.should_save(step, every=100):
                ck.save(step)

    keepstep.open("/ckpt/run").tensor("embeddings.weight")[0:8]     # no daemon, no library
"""

from __future__ import annotations

import os

from keepstep import dataloader
from keepstep.checkpointer import Checkpointer
from keepstep.errors import (
    CheckpointNotFound,
    DaemonUnavailable,
    DataLoss,
    KeepstepError,
    MissingTensors,
    SaveFailed,
    SaveTimeout,
    ShapeMismatch,
)
from keepstep.handle import SaveHandle
from keepstep.oneshot import load, save
from keepstep.reader import CheckpointInfo, Reader, StoredTensor
from keepstep.shards import (
    Box,
    Replicate,
    Shard,
    Sharded,
    StridedShard,
    flat,
    piece,
    pieces,
    placed,
    replica,
)
from keepstep.version import __version__


def open(directory: str | os.PathLike[str], step: int | None = None, *, verify: bool = True) -> Reader:
    """Opens a committed checkpoint, by default the latest, for reading: see `Reader`."""
    return Reader(directory, step, verify=verify)


__all__ = [
    "Box", "CheckpointInfo", "CheckpointNotFound", "Checkpointer", "DaemonUnavailable", "DataLoss", "KeepstepError",
    "MissingTensors", "Reader", "Replicate", "SaveFailed", "SaveHandle", "SaveTimeout", "ShapeMismatch", "Shard",
    "Sharded", "StoredTensor", "StridedShard", "__version__", "dataloader", "flat", "load", "open", "piece", "pieces",
    "placed", "replica", "save",
]  # fmt: skip
