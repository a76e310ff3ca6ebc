"""`keepstep.save` and `keepstep.load`: one call, one process, the whole state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.reader import Reader
from keepstep.shards import Array


def save(directory: str | os.PathLike[str], state: Mapping[str, Any], *, step: int = 0) -> int:
    """Saves a dict of arrays (nested as you like) as one step, and returns when it is committed.

    Raises:
        SaveFailed: it was not; earlier steps are intact.
        DaemonUnavailable: nobody listens; start keepstepd.
    """
    with Checkpointer(directory, rank=0, world_size=1, rng=False, preemption=False, on_error="raise") as checkpointer:
        checkpointer.register(model=state)
        return checkpointer.save(step).result()


def load(
    directory: str | os.PathLike[str], into: Mapping[str, Any] | None = None, *, step: int | None = None
) -> dict[str, Array] | Mapping[str, Any]:
    """Loads a checkpoint, by default the latest, and returns its state.

    Without `into`: every tensor as a new array, by name, read without a daemon. With it: the arrays of that dict are
    filled in place, through the daemon.

    Raises:
        CheckpointNotFound: no such step, or nothing was ever committed.
        MissingTensors, ShapeMismatch, DataLoss: as `Checkpointer.load`.
    """
    if into is None:
        reader = Reader(directory, step)
        return {name: reader.tensor(name).numpy() for name in reader.names()}
    with Checkpointer(directory, rank=0, world_size=1, rng=False, read_only=True) as checkpointer:
        checkpointer.register(model=into)
        # The directory decides whether there is anything, with the error that names what there is.
        checkpointer.load(Reader(directory, step).step)
    return into
