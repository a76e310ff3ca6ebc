"""What a rank notes of its saves and loads for tests/crash/checker.py, by its own arithmetic and SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keepstep
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from tests.training.trainee import Trainee

Piece = tuple[str, int, list[list[int]], str]  # tensor, its bytes, ranges in it, SHA-256 of what lies there


class Ledger:
    """Appends to one file of a rank's own; each line is on disk before the call that it is about."""

    def __init__(self, directory: str, run: int, rank: int, trainee: Trainee) -> None:
        self._run, self._rank, self._world = run, rank, dist.get_world_size()
        self._path = Path(directory) / f"rank{rank}.jsonl"
        self._trainee = trainee
        # A step that is run again has the same bytes: this tells whose save a checkpoint is.
        self._number = torch.zeros((), dtype=torch.int64)

    def state(self) -> dict[str, Any]:
        """To be registered with the rest."""
        return {"run": {"number": keepstep.replica(self._number, ranks=range(self._world))}}

    def give(self, step: int) -> None:
        pieces = self._pieces()
        self._write("give", serial=self._serial(step), step=step, world=self._world,
                    tensors={name: whole for name, whole, _, _ in pieces}, pieces=_listed(pieces))

    def told(self, handle: keepstep.SaveHandle) -> None:
        failure = handle.exception(0.0)
        self._write("told", serial=self._serial(handle.step), step=handle.step, state=handle.state,
                    reason="" if failure is None else failure.reason)

    def loaded(self, step: int) -> None:
        self._write("loaded", epoch=self._run, step=step or None, pieces=_listed(self._pieces()) if step else [])
        self._number.fill_(self._run)

    def _serial(self, step: int) -> int:
        return self._run * 1_000_000 + step

    def _pieces(self) -> list[Piece]:
        module, optimizer = self._trainee.module, self._trainee.optimizer
        pieces = list(_piece("run.number", self._number))
        for name, parameter in module.named_parameters():
            pieces += _piece(name, parameter.detach())
            for key, value in optimizer.state[parameter].items():
                pieces += _piece(f"optimizer.{name}.{key}", value)
        return pieces

    def _write(self, event: str, **values: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time(), "rank": self._rank, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _listed(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [{"tensor": name, "ranges": ranges, "sha256": digest} for name, _, ranges, digest in pieces]


def _piece(name: str, tensor: torch.Tensor) -> Iterator[Piece]:
    local, shape, offset = tensor, tensor.shape, (0,) * tensor.dim()
    if isinstance(tensor, DTensor):
        local = tensor.to_local()
        _, offset = compute_local_shape_and_global_offset(shape, tensor.device_mesh, tensor.placements)
    item = local.element_size()
    raw = local.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if local.numel():
        yield name, tensor.numel() * item, _ranges(shape, offset, local.shape, item), hashlib.sha256(raw).hexdigest()


def _ranges(shape: torch.Size, offset: tuple[int, ...], size: torch.Size, item: int) -> list[list[int]]:
    """Where the rows of a box of at most two dimensions lie in the whole tensor, in bytes."""
    if len(shape) < 2:
        first = offset[0] if shape else 0
        return [[first * item, (first + (size[0] if shape else 1)) * item]]
    columns = shape[1]
    ranges: list[list[int]] = []
    for row in range(offset[0], offset[0] + size[0]):
        begin = (row * columns + offset[1]) * item
        end = begin + size[1] * item
        if ranges and ranges[-1][1] == begin:
            ranges[-1][1] = end
        else:
            ranges.append([begin, end])
    return ranges
