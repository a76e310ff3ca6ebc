"""A trainer of these tests: `python -m tests.device.trainer SCENARIO LAYOUT ADDRESS DIRECTORY`. It prints JSON."""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import keepstep
import numpy as np

from tests.device.tensors import F32, LAYOUTS, MIB, GpuTensor, State, differing, update
from tests.fake_cuda.cuda import Gpu


def saved(checkpointer: keepstep.Checkpointer, step: int, **options: Any) -> keepstep.SaveHandle:
    handle = checkpointer.save(step, **options)
    handle.result()
    return handle


def round_trip(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """Saves two steps, spoils everything, loads them, and says what differs."""
    checkpointer.register(**state)
    for step in (1, 2):
        update(state, step)
        saved(checkpointer, step)
    found = {}
    for step in (1, 2):
        update(state, 9)
        checkpointer.load(step)
        found[str(step)] = differing(state, step)
    return {"differing": found, "paths": checkpointer.memory_paths}


def ordered(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """What a stream was still to write when the save was called is saved; an update at the gate is not."""
    update(state, 1)
    checkpointer.register(**state)
    page = np.zeros(1024, np.uint32)
    held = gpu.stream()
    held.wait_value(gpu.register(page), 1)
    tensors = [tensor for tensor in state.values() if isinstance(tensor, GpuTensor) and tensor.strides is None]
    for tensor in tensors:
        if tensor.memory.size_bytes and 0 not in tensor.shape:
            size = int(np.prod(tensor.shape)) * tensor.dtype.itemsize
            tensor.memory.fill(0x77, size, tensor.offset_bytes, stream=held)
    begin = time.monotonic()
    handle = checkpointer.save(1, streams=[held.handle])
    seconds = time.monotonic() - begin
    waited = held.done()
    page[0] = 1
    checkpointer.before_update()
    update(state, 5)  # the optimizer, as soon as the gate opens
    handle.result()
    checkpointer.load(1)
    wrong = [name for name, tensor in state.items() if tensor in tensors and set(tensor.get().tobytes()) - {0x77}]
    return {"wrong": wrong, "waited": waited, "seconds": seconds}


def reused(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """Tensors are freed, and their addresses used again, between saves."""
    kept = GpuTensor(gpu.alloc(MIB), 0, (256, 1024), F32)
    addresses, found = set(), []
    for step in range(1, 7):
        block = gpu.alloc(2 * MIB)
        now: State = {"kept": kept, "moving": GpuTensor(block, 0, (512, 1024), F32)}
        addresses.add(block.pointer)
        checkpointer.register(**now)
        update(now, step)
        saved(checkpointer, step)
        update(now, 99)
        checkpointer.load(step)
        found += differing(now, step)
        checkpointer.register(kept=kept)
        block.free()
    return {"differing": found, "addresses": len(addresses)}


class Owned(GpuTensor):
    """A tensor whose memory goes back to the allocator with it, and from there to the driver (`empty_cache`)."""

    def __del__(self) -> None:
        self.memory.free()  # type: ignore[attr-defined]


def emptied(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """The program lets go of a registered tensor, and its allocator gives memory that nobody has back to the driver."""
    shape, size_bytes = (512, 1024), 2 * MIB
    tensor = Owned(gpu.alloc(size_bytes), 0, shape, F32)
    address = tensor.memory.pointer
    update({"w": tensor}, 1)
    checkpointer.register(w=tensor)
    del tensor
    gc.collect()
    other = gpu.alloc(size_bytes)  # at the same address, if that is free
    other.fill(0x77)
    saved(checkpointer, 1)
    now: State = {"w": GpuTensor(other, 0, shape, F32)}
    checkpointer.register(**now)
    gc.collect()
    again = gpu.alloc(size_bytes)
    checkpointer.load(1)
    return {"kept": other.pointer != address, "freed": again.pointer == address, "differing": differing(now, 1)}


def ungated(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """Updates that ignore the gate, one after the other while a save copies."""
    checkpointer.register(**state)
    update(state, 1)
    handle, ungated = checkpointer.save(1), 100
    while handle.state == "ACCEPTED":
        update(state, ungated)
        ungated += 1
    failure = handle.exception(60)
    checkpointer.before_update()
    update(state, 3)
    saved(checkpointer, 3)
    return {"failure": None if failure is None else [failure.code, failure.reason, str(failure)]}


def faulty(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """Saves until one has failed and the next one was committed."""
    checkpointer.register(**state)
    failures = []
    for step in range(1, 20):
        update(state, step)
        failure = checkpointer.save(step).exception(60)
        if failure is not None:
            failures.append([failure.code, failure.reason, failure.rank, str(failure)])
        elif failures:
            break
    update(state, 99)
    found = checkpointer.load("latest")
    return {"failures": failures, "step": found, "last": step, "differing": differing(state, step)}


def queued(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """Updates and saves by turns with nothing but the stream between them: each save is whole.

    The program runs ahead of the GPU: the second save's point in the stream lies behind the gate of the first.
    """
    block, stream = gpu.alloc(8 * MIB), gpu.stream()
    checkpointer.register(w=GpuTensor(block, 0, (2 * MIB,), F32))
    handles = []
    for step in range(1, 8):
        checkpointer.before_update(stream=stream.handle)
        block.fill(step, stream=stream)
        handles.append(checkpointer.save(step, streams=[stream.handle]))
    committed = [handle.result(60) for handle in handles]
    held = []
    for step in committed:
        checkpointer.load(step)
        held.append(sorted(set(block.read().tobytes())))
    return {"held": held}


def restarted(gpu: Gpu, state: State, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """The daemon is killed and another started between two saves."""
    checkpointer.register(**state)
    update(state, 1)
    saved(checkpointer, 1)
    print(json.dumps("saved"), flush=True)
    sys.stdin.readline()
    step = 1
    while True:  # one that began before the new session fails
        step += 1
        update(state, step)
        handle = checkpointer.save(step)
        if handle.exception(60) is None:
            break
    found = {}
    for each in (1, step):
        update(state, 99)
        checkpointer.load(each)
        found[str(each == step)] = differing(state, each)
    return {"differing": found, "paths": checkpointer.memory_paths}


def main() -> int:
    scenario, layout, address, directory = sys.argv[1:]
    gpu = Gpu()
    state = LAYOUTS[layout](gpu)
    gated = scenario in ("ordered", "queued", "ungated")
    try:
        opened = keepstep.Checkpointer(directory, daemon=address, gated=gated, rng=False)
    except keepstep.KeepstepError as error:
        print(json.dumps({"refused": [error.code, error.reason]}), flush=True)
        return 1
    with opened as checkpointer:
        print(json.dumps(SCENARIOS[scenario](gpu, state, checkpointer)), flush=True)
        sys.stdin.readline()  # until the test has seen what is mapped
    print(json.dumps("closed"), flush=True)
    sys.stdin.readline()
    return 0


SCENARIOS = {"round_trip": round_trip, "ordered": ordered, "reused": reused, "queued": queued, "restarted": restarted,
             "emptied": emptied, "ungated": ungated, "faulty": faulty}

if __name__ == "__main__":
    sys.exit(main())
