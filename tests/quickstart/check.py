"""What is compared with what: trainers, restored processes, the reader and the export against the expected tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import keepstep
import numpy as np
from safetensors import safe_open

from tests.quickstart.layouts import Layout, Shape
from tests.quickstart.model import Array, State, digest, published


def shapes_of(state: State) -> dict[str, Shape]:
    return {name: tensor.shape for name, tensor in state.tensors.items()}


def differing_parts(state: State, layout: Layout, rank: int, claimed: Mapping[str, str]) -> list[str]:
    """Tensors of a rank whose digest is not that of the same part of the expected tensor, or that are missing."""
    parts = layout.parts(shapes_of(state), rank)
    wrong = [name for name, part in parts.items() if claimed.get(name) != part.digest_of(state.tensors[name])]
    return wrong + sorted(set(claimed) - set(parts))


def differing_in_reader(state: State, directory: Path) -> list[str]:
    """The same for the pure-Python reader, which needs no daemon."""
    stored = keepstep.open(directory, state.step)
    names = set(stored.names())
    wrong = sorted(names ^ set(state.tensors))
    for name, tensor in state.tensors.items():
        if name in names and digest(stored.tensor(name).numpy()) != digest(tensor):
            wrong.append(name)
    return wrong


def differing_in_export(folder: Path) -> list[str]:
    """Published tensors that the exported files lack or hold with another dtype, shape or bytes."""
    exported: dict[str, Array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            exported.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return [name for name, tensor in published().items() if not _same(exported.get(name), tensor)]


def index_of(folder: Path) -> str:
    """What the export consists of, in words."""
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return ", ".join(files)
    return f"{len(files)} files and an index of {len(json.loads(index.read_text())['weight_map'])} tensors"


def _same(found: Array | None, wanted: Array) -> bool:
    return (
        found is not None
        and found.dtype == wanted.dtype
        and found.shape == wanted.shape
        and bool(np.array_equal(found.reshape(-1).view(np.uint8), wanted.reshape(-1).view(np.uint8)))
    )
