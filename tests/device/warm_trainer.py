"""A rank of a job whose tensors lie in owned memory, as a test's script says:
`python -m tests.device.warm_trainer SCRIPT LAYOUT ADDRESS DIRECTORY`, where SCRIPT is a Script as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import keepstep
import numpy as np

from tests.device.owned import Lent
from tests.device.tensors import F32, MIB, GpuTensor, State, differing, update
from tests.fake_cuda.cuda import CudaError, Gpu, Stream


@dataclass
class Script:
    """What the process does, in this order; then it says "ready" and waits to be killed, or told to close.

    Attributes:
        sizes: Bytes of its allocations, in order.
        warm: Whether it asks for warm restart.
        rescue: Whether it asks for crash flush.
        transfer: Of host memory.
        first: What it does before it loads: "write" into what it was given, or nothing.
        load: "latest", a step, or nothing.
        names: Which of the tensors it registers.
        steps: The updates that it makes and notes.
        saves: Those of them that it saves.
        last: An update after those: "half" run, "queued" behind a stream that stands, "unnoted".
    """

    rank: int = 0
    world: int = 1
    sizes: list[int] = field(default_factory=lambda: [6 * MIB, 3 * MIB, 5000])
    warm: bool = True
    rescue: bool = False
    transfer: str = "pull"
    first: str = ""
    load: str | int = "latest"
    names: str = "w m columns b count"
    steps: list[int] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)
    last: str = ""


def tensors(checkpointer: keepstep.Checkpointer, script: Script) -> State:
    """Side by side, at odd places, in three allocations; and one in host memory."""
    large, middle, small = (Lent(checkpointer, size) for size in script.sizes)
    state: State = {
        "w": GpuTensor(large, 0, (700, 1000), F32),
        "m": GpuTensor(large, 3 * MIB + 4, (750, 1000), F32),
        "columns": GpuTensor(middle, 512, (500, 300), F32, (4 * 1000, 4)),
        "b": GpuTensor(small, 4, (100,), F32),
        "count": np.zeros(7, np.float32),
    }
    return {f"{name}.{script.rank}": state[name] for name in script.names.split()}


class Loop:
    def __init__(self, checkpointer: keepstep.Checkpointer, state: State, gpu: Gpu) -> None:
        self._checkpointer = checkpointer
        self._state = state
        self._stream = gpu.stream()
        self._gate = np.zeros(1024, np.uint32)
        self._gate_address = gpu.register(self._gate)
        self.seen = -1  # of the extra state: the last step that was made or loaded

    def extra(self) -> tuple[Any, Any]:
        def restore(value: int) -> None:
            self.seen = value

        return lambda: self.seen, restore

    def step(self, number: int, *, note: bool = True) -> None:
        self._checkpointer.before_update(stream=self._stream.handle)
        update(self._state, number)
        self._checkpointer.after_update(stream=self._stream.handle)
        self.seen = number
        if note:
            self._checkpointer.should_save(number)
        self._stream.synchronize()

    def half(self, number: int) -> None:
        """Some tensors have been written, the others not."""
        self._checkpointer.before_update(stream=self._stream.handle)
        update(dict(list(self._state.items())[:1]), number)
        self._stream.synchronize()

    def queue(self) -> None:
        """An update behind work that is not done: it has not begun."""
        held: Stream = self._stream
        held.wait_value(self._gate_address, 1)
        self._checkpointer.before_update(stream=held.handle)
        self._checkpointer.after_update(stream=held.handle)


def run(script: Script, checkpointer: keepstep.Checkpointer, gpu: Gpu) -> dict[str, Any]:
    told: dict[str, Any] = {}
    state = tensors(checkpointer, script)
    loop = Loop(checkpointer, state, gpu)
    if script.first == "write":
        try:
            for tensor in state.values():
                if isinstance(tensor, GpuTensor):
                    tensor.memory.fill(0)
            gpu.synchronize()
            told["wrote"] = ""
        except CudaError as error:
            told["wrote"] = str(error)
            return told
    checkpointer.register(**state, seen=loop.extra())
    told["paths"] = checkpointer.memory_paths
    if script.load:
        told["step"] = checkpointer.load(script.load)
        report = checkpointer.last_load
        if report is not None:
            told.update(warm=report.warm, why=report.why_cold, read=report.read_bytes, delivered=report.delivered_bytes)
            told["differing"] = differing(state, report.step)
            told["seen"] = loop.seen
    for number in script.steps:
        loop.step(number)
        if number in script.saves:
            checkpointer.save(number).result()
    if script.last == "half":
        loop.half(99)
    elif script.last == "unnoted":
        loop.step(99, note=False)
    elif script.last == "queued":
        loop.queue()
    told["rescue"] = checkpointer.rescue.why_not
    return told


def main() -> int:
    given, _, address, directory = sys.argv[1:]
    script = Script(**json.loads(given))
    gpu = Gpu()
    with keepstep.Checkpointer(
        directory, daemon=address, gated=True, rng=False, rank=script.rank, world_size=script.world, warm=script.warm,
        rescue=script.rescue, transfer="window" if script.transfer == "window" else "pull", preemption=False,
    ) as checkpointer:  # fmt: skip
        print(json.dumps(run(script, checkpointer, gpu)), flush=True)
        sys.stdin.readline()
    print(json.dumps("closed"), flush=True)
    sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main())
