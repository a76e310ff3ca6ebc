"""A trainer that stands at one point of a save, to be stopped or killed there, or to see what others do meanwhile:
`python -m tests.device.points POINT PATH ADDRESS DIRECTORY [MIB]`. It prints JSON, and goes on when it is told to:

    "started"                 step 1 is committed
    "there"                   step 2 is asked for, and this is the point
    {"gate_seconds": …}       its gate has opened, and the memory was updated at once
    {"failure": …, "ran": …}  what came of step 2: nothing, or [code, reason]; whether what was queued has run
    {"next": …}               which later step was committed
    "closed"                  the session is over, the memory still there
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import keepstep
import numpy as np

from tests.device.tensors import F32, MIB, GpuTensor, expected
from tests.fake_cuda.cuda import Gpu, Memory

QUEUED, UPDATED = 0x55, 0x77  # every byte of an update that is queued behind the gate; of one behind the save
PIECE_BYTES = 2 * MIB


def _segment(gpu: Gpu, size_bytes: int) -> Memory:
    return gpu.alloc_pieces([PIECE_BYTES] * (size_bytes // PIECE_BYTES))


def _pool(gpu: Gpu, size_bytes: int) -> Memory:
    with gpu.stream() as stream:
        return gpu.alloc_from_pool(size_bytes, stream)


PATHS: dict[str, Callable[[Gpu, int], Memory]] = {
    "ipc": lambda gpu, size_bytes: gpu.alloc(size_bytes), "vmm": _segment, "window": _pool,
}


class Trainer:
    """One tensor by one path, and the point of its second save."""

    def __init__(self, gpu: Gpu, memory: Memory, checkpointer: keepstep.Checkpointer) -> None:
        self.memory = memory
        self.tensor = GpuTensor(memory, 0, (memory.size_bytes // 4,), F32)
        self.checkpointer = checkpointer
        self.stream = gpu.stream()
        self.page = np.zeros(1024, np.uint32)
        self.page_address = gpu.register(self.page)
        checkpointer.register(w=self.tensor)

    def fill(self, step: int) -> None:
        self.memory.write(expected("w", self.tensor.shape, F32, step))

    def save(self, step: int) -> keepstep.SaveHandle:
        self.checkpointer.before_update()
        self.fill(step)
        return self.checkpointer.save(step)

    def fences(self) -> keepstep.SaveHandle:
        """The copy waits for work of the GPU that was queued before the save and is not done."""
        self.fill(2)
        self.stream.wait_value(self.page_address, 1)
        return self.checkpointer.save(2, streams=[self.stream.handle])

    def copy(self) -> keepstep.SaveHandle:
        """The copy is under way."""
        return self.save(2)

    def queued(self) -> keepstep.SaveHandle:
        """The copy is under way, and an update is queued behind its gate."""
        handle = self.save(2)
        self.checkpointer.before_update(stream=self.stream.handle)
        self.memory.fill(QUEUED, stream=self.stream)
        return handle

    def pass_the_gate(self) -> float:
        """Lets the GPU go on, waits for the gate, and updates; how long it waited."""
        begin = time.monotonic()
        self.page[0] = 1
        self.checkpointer.before_update()
        self.stream.synchronize()
        seconds = time.monotonic() - begin
        # Samples are from a tensor's middle: nothing but the verdict keeps this out of a commit.
        quarter = self.memory.size_bytes // 4
        self.memory.fill(UPDATED, quarter, 3 * quarter)
        return seconds

    def outcome(self, handle: keepstep.SaveHandle) -> dict[str, Any]:
        failure = handle.exception(60)
        ran = set(self.memory.read(self.memory.size_bytes // 4).tobytes()) == {QUEUED}
        return {"failure": None if failure is None else [failure.code, failure.reason], "ran": ran}

    def next(self) -> int:
        """The first may have begun before the daemon was back."""
        for step in range(3, 20):
            if self.save(step).exception(60) is None:
                return step
        raise AssertionError("no save commits any more")


POINTS = {"fences": Trainer.fences, "copy": Trainer.copy, "queued": Trainer.queued}


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)
    sys.stdin.readline()


def main() -> int:
    point, path, address, directory, *mib = sys.argv[1:]
    gpu = Gpu()
    memory = PATHS[path](gpu, int(mib[0]) * MIB if mib else 32 * MIB)
    with keepstep.Checkpointer(directory, daemon=address, gated=True, rng=False) as checkpointer:
        trainer = Trainer(gpu, memory, checkpointer)
        trainer.save(1).result(60)
        say("started")
        handle = POINTS[point](trainer)
        say("there")
        say({"gate_seconds": trainer.pass_the_gate()})
        say(trainer.outcome(handle))
        say({"next": trainer.next()})
    say("closed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
