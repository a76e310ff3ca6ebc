"""A rank that trains with crash flush: `python -m tests.device.rescue_trainer` and what `main` takes.

It prints a line of JSON when it stands where the scenario wants it to be killed, and then waits for its end.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keepstep
import numpy as np

from tests.device.tensors import LAYOUTS, Array, GpuTensor, State, differing, expected
from tests.fake_cuda.cuda import Gpu, Stream


class Trainer:
    """Updates by a stream of its own, each announced, and each step noted."""

    def __init__(self, gpu: Gpu, layout: str, checkpointer: keepstep.Checkpointer) -> None:
        self.gpu = gpu
        self.checkpointer = checkpointer
        self.stream: Stream = gpu.stream()
        self.page = np.zeros(1024, np.uint32)
        self._page_address = gpu.register(self.page)
        self.state: State = {} if layout == "host" else LAYOUTS[layout](gpu)
        if layout == "many":
            self.state["optimizer.count"] = np.zeros((), np.int64)
        if layout == "host":
            self.state = {"w": np.zeros((300, 1000), np.float32), "big": np.zeros(1 << 22, np.float32)}
        if checkpointer.world_size > 1:  # each rank holds tensors of its own
            self.state = {f"r{checkpointer.rank}.{name}": tensor for name, tensor in self.state.items()}
        self.loop = 0
        checkpointer.register(**self.state, loop=(lambda: self.loop, self._set_loop))

    def _set_loop(self, value: int) -> None:
        self.loop = value

    def values(self, step: int, names: Iterator[str] | None = None) -> dict[str, Array]:
        """What the tensors hold after `step` updates."""
        chosen = {name: self.state[name] for name in names or self.state}
        return {name: expected(name, tensor.shape, tensor.dtype, step) for name, tensor in chosen.items()}

    def write(self, held: dict[str, Array]) -> None:
        """Queues an update to these values; host memory is written at once."""
        for name, values in held.items():
            tensor = self.state[name]
            if not isinstance(tensor, GpuTensor):
                tensor[...] = values
            elif values.size:
                tensor.memory.write(values.reshape(-1), tensor.offset_bytes, self.stream)

    def note(self, step: int) -> bool:
        self.loop = step
        return self.checkpointer.should_save(step)

    def update(self, step: int) -> None:
        values = self.values(step)
        self.checkpointer.before_update(stream=self.stream.handle)
        self.write(values)
        self.checkpointer.after_update(stream=self.stream.handle)
        self.note(step)

    def train(self, through: int, begin: int = 1) -> None:
        for step in range(begin, through + 1):
            self.update(step)
        self.stream.synchronize()

    def hold(self) -> None:
        """What is queued from now on does not run."""
        self.stream.wait_value(self._page_address, 1)

    def told(self) -> dict[str, Any]:
        rescue = self.checkpointer.rescue
        return {"on": rescue.on, "why_not": rescue.why_not, "noted": rescue.step}


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def between(trainer: Trainer) -> None:
    """Killed between two updates."""
    trainer.train(3)


def ahead(trainer: Trainer) -> None:
    """One step further than `between`."""
    trainer.train(4)


def unnoted(trainer: Trainer) -> None:
    """Before the first step was noted."""
    trainer.checkpointer.before_update(stream=trainer.stream.handle)
    trainer.write(trainer.values(1))
    trainer.checkpointer.after_update(stream=trainer.stream.handle)
    trainer.stream.synchronize()


def queued(trainer: Trainer) -> None:
    """The fourth update is queued and noted, and the stream has not come to it."""
    trainer.train(3)
    trainer.hold()
    trainer.update(4)


def half_run(trainer: Trainer) -> None:
    """The fourth update has written some of the tensors."""
    trainer.train(3)
    names = [name for name, tensor in trainer.state.items() if isinstance(tensor, GpuTensor)]
    trainer.checkpointer.before_update(stream=trainer.stream.handle)
    trainer.write(trainer.values(4, iter(names[: len(names) // 2])))
    trainer.stream.synchronize()
    trainer.hold()
    trainer.write(trainer.values(4, iter(names[len(names) // 2 :])))
    trainer.checkpointer.after_update(stream=trainer.stream.handle)
    trainer.note(4)


def not_noted(trainer: Trainer) -> None:
    """Two updates have run since the newest note but one, and the process dies before it notes the second."""
    trainer.train(3)
    trainer.checkpointer.before_update(stream=trainer.stream.handle)
    trainer.write(trainer.values(4))
    trainer.checkpointer.after_update(stream=trainer.stream.handle)
    trainer.stream.synchronize()


def saving(trainer: Trainer) -> None:
    """While a save of the third step is being copied."""
    trainer.train(3)
    trainer.checkpointer.save(3, streams=[trainer.stream.handle])


def saved(trainer: Trainer) -> None:
    """The newest step is saved already."""
    trainer.train(3)
    trainer.checkpointer.save(3, streams=[trainer.stream.handle]).result()


def loaded(trainer: Trainer) -> None:
    """An older step was loaded over what was noted."""
    trainer.train(1)
    trainer.checkpointer.save(1, streams=[trainer.stream.handle]).result()
    trainer.train(3, begin=2)
    trainer.checkpointer.load(1)


def closed(trainer: Trainer) -> None:
    """It has left."""
    trainer.train(3)
    trainer.checkpointer.close()


def unordered(trainer: Trainer) -> None:
    """An update without a stream."""
    trainer.train(2)
    trainer.checkpointer.before_update()
    trainer.train(3, begin=3)


def running(trainer: Trainer) -> None:
    """It trains without a pause: killed anywhere."""
    say(trainer.told())
    step = 0
    while True:
        step += 1
        trainer.update(step)
        if step % 5 == 0:
            trainer.stream.synchronize()


def forked(trainer: Trainer) -> None:
    """A fork that still has the record writes to it while it is being copied."""
    trainer.train(3)
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)}
    record = next(int(fd) for fd, link in links.items() if "keepstep-flight-record" in link)
    go = Path(sys.argv[4]) / "go"
    if os.fork() == 0:
        deadline = time.monotonic() + 60
        while not go.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.pwrite(record, struct.pack("<I", 77), 4096)  # FlightWords::begun[0]
        os._exit(0)


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def reconnected(trainer: Trainer) -> None:
    """The daemon was killed, and another started, between two updates."""
    trainer.train(2)
    say("trained")
    sys.stdin.readline()
    while not trainer.checkpointer._client.connected():
        time.sleep(0.01)
    trainer.train(5, begin=3)


def resumed(trainer: Trainer) -> None:
    """A run that goes on."""
    step = trainer.checkpointer.load()
    say({"step": step, "loop": trainer.loop, "differing": [] if step is None else differing(trainer.state, step)})


SCENARIOS: dict[str, Callable[[Trainer], None]] = {
    each.__name__: each
    for each in (between, ahead, unnoted, queued, half_run, not_noted, saving, saved, loaded, closed, unordered,
                 running, forked, reconnected, resumed)
}


def main() -> int:
    scenario, layout, address, directory, rank, world = sys.argv[1:]
    checkpointer = keepstep.Checkpointer(
        directory, daemon=address, gated=True, rng=False, rescue=True, preemption=False, keep_last=2, rank=int(rank),
        world_size=int(world), on_error="raise")
    trainer = Trainer(Gpu(), layout, checkpointer)
    SCENARIOS[scenario](trainer)
    if scenario != "closed":
        say(trainer.told())
    else:
        say("closed")
    sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main())
