"""A trainer on one GPU that is measured: `python -m tests.gpu.rank DIRECTORY ADDRESS`. It needs NumPy, the keepstep
package and a driver, fake or real. What its standard input says is done, each line answered with a line of JSON:

    hold NAME COUNT       forgets what it held; large: one tensor of COUNT bytes in one allocation; small: COUNT tensors
                          of 8 to 16 KiB side by side in one, each on a multiple of 512 bytes, as caching allocators
                          place them → bytes of all tensors
    register              → seconds, path
    save STEP             → call, snapshot and commit seconds, once it is committed
    load                  → the load's report
    plain OUT BYTES       one copy of so many bytes in this process, pinned; OUT 1: from the GPU, 0: to it → seconds
    training BYTES COPIES  from now on a step copies so many bytes of GPU memory so often
    step SAVE             one step, after save(SAVE) unless that is 0: copies, gate → seconds, call_seconds
    settle                → {} when the last save is committed
    free                  → bytes that the GPU has free
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import keepstep
import numpy as np

from tests.fake_cuda.cuda import Block, Gpu

_ALIGN = 512


@dataclass(frozen=True)
class Tensor:
    """float32 elements of a block."""

    block: Block
    offset_bytes: int
    elements: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.elements,), "typestr": "<f4", "strides": None,
                "data": (self.block.pointer + self.offset_bytes, False)}


def small_sizes(count: int) -> list[int]:
    """Bytes of each: 8 to 16 KiB, and no two neighbours the same."""
    return [8192 + 4 * (index * 389 % 2049) for index in range(count)]


class Rank:
    def __init__(self, gpu: Gpu, checkpointer: keepstep.Checkpointer) -> None:
        self._gpu = gpu
        self._checkpointer = checkpointer
        self._held: list[Block] = []
        self._state: dict[str, Tensor] = {}
        self._stream = gpu.stream()
        self._training: tuple[Block, Block, int] | None = None
        self._handle: keepstep.SaveHandle | None = None
        self._pinned = np.empty(0, np.uint8)

    def hold(self, name: str, count: int) -> dict[str, Any]:
        if self._held:
            self._checkpointer.register(model={"nothing": np.zeros(1, np.float32)})
        for block in self._held:
            block.free()
        sizes = [count] if name == "large" else small_sizes(count)
        offsets, at = [], 0
        for size in sizes:
            offsets.append(at)
            at += -(-size // _ALIGN) * _ALIGN
        block = self._gpu.alloc(at)
        block.write(np.random.default_rng(at).integers(0, 256, at, np.uint8))
        self._held = [block]
        self._state = {f"layers.{index:05}.w": Tensor(block, offset, size // 4)
                       for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True))}
        return {"bytes": sum(sizes)}

    def register(self) -> dict[str, Any]:
        begin = time.perf_counter()
        self._checkpointer.register(model=self._state)
        return {"seconds": time.perf_counter() - begin, "path": self._checkpointer.memory_paths}

    def save(self, step: int) -> dict[str, Any]:
        handle = self._checkpointer.save(step)
        handle.result(600)
        return handle.stats

    def load(self) -> dict[str, Any]:
        self._checkpointer.load()
        assert self._checkpointer.last_load is not None
        return asdict(self._checkpointer.last_load)

    def plain(self, out: int, size_bytes: int) -> dict[str, Any]:
        """Of what is held, or of a block of its own."""
        if self._pinned.size < size_bytes:
            if self._pinned.size:
                self._gpu.unregister(self._pinned)
            self._pinned = np.zeros(size_bytes, np.uint8)
            self._gpu.register(self._pinned)
        host = self._pinned[:size_bytes]
        block = next((block for block in self._held if block.size_bytes >= size_bytes), None)
        used = block or self._gpu.alloc(size_bytes)
        begin = time.perf_counter()
        if out:
            used.read_into(host, stream=self._stream)
        else:
            used.write(host, stream=self._stream)
        self._stream.synchronize()
        seconds = time.perf_counter() - begin
        if block is None:
            used.free()
        return {"seconds": seconds}

    def training(self, size_bytes: int, copies: int) -> dict[str, Any]:
        if self._training is not None:
            for block in self._training[:2]:
                block.free()
        self._training = (self._gpu.alloc(size_bytes), self._gpu.alloc(size_bytes), copies)
        return {}

    def step(self, save: int) -> dict[str, Any]:
        assert self._training is not None, "training comes first"
        source, target, copies = self._training
        call_seconds = 0.0
        begin = time.perf_counter()
        if save:
            self._handle = self._checkpointer.save(save)
            call_seconds = time.perf_counter() - begin
        for _ in range(copies):
            target.copy_from(source, stream=self._stream)
        self._stream.synchronize()
        self._checkpointer.before_update()
        return {"seconds": time.perf_counter() - begin, "call_seconds": call_seconds}

    def settle(self) -> dict[str, Any]:
        if self._handle is not None:
            self._handle.result(600)
        return {}

    def free(self) -> dict[str, Any]:
        return {"bytes": self._gpu.free_bytes()}


def main() -> int:
    directory, address = sys.argv[1:]
    gpu = Gpu()
    with keepstep.Checkpointer(directory, daemon=address, gated=True, rng=False) as checkpointer:
        rank = Rank(gpu, checkpointer)
        for line in sys.stdin:
            verb, *words = line.split()
            operands = [int(word) if word.isdigit() else word for word in words]
            print(json.dumps(getattr(rank, verb)(*operands)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
