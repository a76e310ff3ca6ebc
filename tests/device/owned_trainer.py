"""A trainer with owned memory: `python -m tests.device.owned_trainer SCENARIO LAYOUT ADDRESS DIRECTORY`."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import keepstep
from keepstep import _ffi

from tests.device.owned import LAYOUTS, Lent, holds, owned
from tests.device.tensors import MIB
from tests.device.trainer import restarted, round_trip
from tests.fake_cuda.cuda import Gpu, Memory


def allocates(gpu: Gpu, checkpointer: keepstep.Checkpointer, wishes: str) -> list[str]:
    """Asks for each of "GPU:BYTES,…": the reason that it is refused with, or "" for memory of zeroes that works."""
    told = []
    for wish in wishes.split(","):
        device, size = (int(number) for number in wish.split(":"))
        try:
            memory = Lent(checkpointer, size, device)
        except keepstep.KeepstepError as error:
            told.append(error.reason)
            continue
        assert holds(memory, 0)
        memory.fill(0x5A)
        assert holds(memory, 0x5A)
        told.append("")
    return told


def frees(gpu: Gpu, checkpointer: keepstep.Checkpointer) -> dict[str, Any]:
    """Takes most of what there is and gives it back, again and again, beside tensors that stay."""
    state = owned(gpu, checkpointer)
    checkpointer.register(**state)
    wrong = []
    for turn in range(100):
        memory = Lent(checkpointer, 40 * MIB)
        if not holds(memory, 0):
            wrong.append(turn)
        memory.fill(0xFF)
        memory.free()
    try:
        memory.free()
    except keepstep.KeepstepError as error:
        assert error.reason == "BAD_ARGUMENT", error
    else:
        wrong.append(-1)
    return {"wrong": wrong}


def pool(checkpointer: keepstep.Checkpointer) -> Callable[[], str]:
    """The functions that an allocator is given by name: while the client is open; and what works once it is closed."""
    library = ctypes.CDLL(_ffi.library_path())
    alloc, free = library.ks_pool_alloc, library.ks_pool_free
    alloc.restype, alloc.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
    free.restype, free.argtypes = None, [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
    assert alloc(4096, 0, None) is None, "no client is named"
    checkpointer._client.use_for_pool()
    assert alloc(65 * MIB, 0, None) is None, "more than there is"
    assert alloc(4096, 7, None) is None, "no such GPU"
    kept, freed = Memory(alloc(30 * MIB, 0, None), 30 * MIB), Memory(alloc(30 * MIB, 0, None), 30 * MIB)
    assert holds(kept, 0) and holds(freed, 0)
    freed.fill(1)
    free(freed.pointer, 30 * MIB, 0, None)
    again = Memory(alloc(30 * MIB, 0, None), 30 * MIB)
    assert holds(again, 0), "what is new holds zeroes"
    kept.fill(0x5A)

    def closed() -> str:
        assert alloc(4096, 0, None) is None, "the client is closed"
        assert holds(kept, 0x5A), "tensors outlive the client"
        for memory in (kept, again):
            free(memory.pointer, 30 * MIB, 0, None)
        return "closed"

    return closed


def main() -> int:
    scenario, layout, address, directory = sys.argv[1:]
    gpu = Gpu()
    then: Callable[[], str] = "closed".__str__
    with keepstep.Checkpointer(directory, daemon=address, rng=False) as checkpointer:
        if scenario == "allocates":
            told: Any = allocates(gpu, checkpointer, layout)
        elif scenario == "frees":
            told = frees(gpu, checkpointer)
        elif scenario == "pool":
            then, told = pool(checkpointer), "open"
        else:
            told = SCENARIOS[scenario](gpu, LAYOUTS[layout](gpu, checkpointer), checkpointer)
        print(json.dumps(told), flush=True)
        sys.stdin.readline()  # until the test has seen what is held
    print(json.dumps(then()), flush=True)
    sys.stdin.readline()
    return 0


SCENARIOS: dict[str, Callable[..., Any]] = {"round_trip": round_trip, "restarted": restarted}

if __name__ == "__main__":
    sys.exit(main())
