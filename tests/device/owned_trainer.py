"""A trainer with owned memory: `python -m tests.device.owned_trainer SCENARIO LAYOUT ADDRESS DIRECTORY`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import keepstep

from tests.device.owned import LAYOUTS, Lent, holds, owned
from tests.device.tensors import MIB
from tests.device.trainer import restarted, round_trip
from tests.fake_cuda.cuda import Gpu


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


def main() -> int:
    scenario, layout, address, directory = sys.argv[1:]
    gpu = Gpu()
    with keepstep.Checkpointer(directory, daemon=address, rng=False) as checkpointer:
        if scenario == "allocates":
            told: Any = allocates(gpu, checkpointer, layout)
        elif scenario == "frees":
            told = frees(gpu, checkpointer)
        else:
            told = SCENARIOS[scenario](gpu, LAYOUTS[layout](gpu, checkpointer), checkpointer)
        print(json.dumps(told), flush=True)
        sys.stdin.readline()  # until the test has seen what is held
    print(json.dumps("closed"), flush=True)
    sys.stdin.readline()
    return 0


SCENARIOS: dict[str, Callable[..., Any]] = {"round_trip": round_trip, "restarted": restarted}

if __name__ == "__main__":
    sys.exit(main())
