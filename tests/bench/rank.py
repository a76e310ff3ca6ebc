"""One rank of a benchmark: does what its standard input says, answers with one line of JSON.

    register LAYOUT        rows | columns | flat, of 64 float32 matrices; small: 20,000 tensors of 4 to 32 KiB;
                           tiny: 100,000 tensors of 4 KiB. Again: the same memory is registered anew
    save STEP              → call, snapshot, durable and committed seconds
    load                   → the load's report
    gate COUNT             → seconds of one before_update with nothing in flight, the mean of COUNT
    quit
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

import keepstep
import numpy as np

from tests.e2e.content import bounds

TENSORS = 64
COLUMNS = 4096


def many(layout: str) -> dict[str, Any]:
    """Each an array of its own memory, as a model holds them."""
    if layout == "tiny":
        return {f"layers.{index}.w": np.ones(1024, np.float32) for index in range(100_000)}
    return {f"layers.{index}.w": np.ones(1024 + 256 * (index * 7 % 29), np.float32) for index in range(20_000)}


def shards(layout: str, size_bytes: int, rank: int, world: int) -> dict[str, Any]:
    """TENSORS matrices of together `size_bytes`, this rank's share of each as the layout says."""
    rows = size_bytes // (4 * COLUMNS * TENSORS)
    shape = (rows, COLUMNS)
    out: dict[str, Any] = {}
    for index in range(TENSORS):
        name = f"layers.{index}.weight"
        if layout == "rows":
            begin, end = bounds(rows, rank, world)
            out[name] = keepstep.piece(np.full((end - begin, COLUMNS), rank, np.float32), shape, np.s_[begin:end])
        elif layout == "columns":
            begin, end = bounds(COLUMNS, rank, world)
            out[name] = keepstep.piece(np.full((rows, end - begin), rank, np.float32), shape, np.s_[:, begin:end])
        else:
            begin, end = bounds(rows * COLUMNS, rank, world)
            out[name] = keepstep.flat(np.full(end - begin, rank, np.float32), shape, begin)
    return out


def save(checkpointer: keepstep.Checkpointer, step: int) -> dict[str, Any]:
    begin = time.perf_counter()
    handle = checkpointer.save(step)
    call_seconds = time.perf_counter() - begin
    handle.result(600)
    return {**handle.stats, "call_seconds": call_seconds}


def gate(checkpointer: keepstep.Checkpointer, count: int) -> dict[str, float]:
    begin = time.perf_counter()
    for _ in range(count):
        checkpointer.before_update()
    return {"seconds": (time.perf_counter() - begin) / count}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--address", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--transfer", default="auto")
    arguments = parser.parse_args()
    with keepstep.Checkpointer(arguments.directory, daemon=arguments.address, rank=arguments.rank,
                               world_size=arguments.world, gated=True,
                               transfer=arguments.transfer) as checkpointer:
        state: dict[str, Any] = {}
        for line in sys.stdin:
            word, *operands = line.split()
            answer: dict[str, Any] = {}
            if word == "register":
                if not state:
                    state = (many(operands[0]) if operands[0] in ("small", "tiny") else
                             shards(operands[0], arguments.bytes, arguments.rank, arguments.world))
                begin = time.perf_counter()
                checkpointer.register(model=state)
                answer = {"seconds": time.perf_counter() - begin}
            elif word == "save":
                answer = save(checkpointer, int(operands[0]))
            elif word == "load":
                checkpointer.load()
                assert checkpointer.last_load is not None
                answer = asdict(checkpointer.last_load)
            elif word == "gate":
                answer = gate(checkpointer, int(operands[0]))
            elif word == "quit":
                break
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
