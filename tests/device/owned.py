"""Tensors in GPU memory that the daemon owns, for trainers of these tests, and how much of it the daemon holds."""

from __future__ import annotations

import os
from pathlib import Path

import keepstep
import numpy as np

from tests.device.gpus import Gpus, until
from tests.device.tensors import F32, MIB, GpuTensor, State, mixed
from tests.fake_cuda.cuda import Gpu, Memory

POOL = ("--gpu-pool-bytes", "64MiB")
SIZES = (6 * MIB, 3 * MIB, 5000)  # bytes that the layouts below ask for, in order


class Lent(Memory):
    """Memory from `Checkpointer.device_alloc`."""

    def __init__(self, checkpointer: keepstep.Checkpointer, size_bytes: int, device: int = 0) -> None:
        super().__init__(checkpointer.device_alloc(size_bytes, device=device), size_bytes)
        self._checkpointer = checkpointer

    def free(self) -> None:
        self._checkpointer.device_free(self.pointer)


def owned(gpu: Gpu, checkpointer: keepstep.Checkpointer) -> State:
    """Tensors side by side, at odd places, in three allocations."""
    large, middle, small = (Lent(checkpointer, size) for size in SIZES)
    return {
        "w": GpuTensor(large, 0, (700, 1000), F32),
        "m": GpuTensor(large, 3 * MIB + 4, (750, 1000), F32),
        "columns": GpuTensor(middle, 512, (500, 300), F32, (4 * 1000, 4)),
        "b": GpuTensor(small, 4, (100,), F32),
    }


def owned_mixed(gpu: Gpu, checkpointer: keepstep.Checkpointer) -> State:
    """Beside memory of every other kind, on both sides."""
    return {**mixed(gpu), **{f"owned.{name}": tensor for name, tensor in owned(gpu, checkpointer).items()}}


LAYOUTS = {"owned": owned, "owned_mixed": owned_mixed}


def pieces_held(gpus: Gpus) -> int:
    """How many pieces of GPU memory the daemon itself holds: the fake driver's are memfds."""
    held = 0
    for entry in Path(f"/proc/{gpus.daemon.pid}/fd").iterdir():
        try:
            held += "fake-cuda-memory" in os.readlink(entry)
        except FileNotFoundError:
            continue  # closed meanwhile
    return held


def await_pieces(gpus: Gpus, count: int) -> None:
    until(lambda: pieces_held(gpus) == count, f"the daemon does not come to hold {count} pieces")


def holds(memory: Memory, byte: int) -> bool:
    return bool(np.all(memory.read() == byte))
