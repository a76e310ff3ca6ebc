"""One rank as a process that does what it is told, one JSON object a line, and writes down what it gave and heard.

    {"do": "open", "job": directory, "ledger": directory}   ends the session before, opens one, loads
    {"do": "save", "step": s, "serial": n, "until": "over" or "staged"}
    {"do": "told"}                                          waits for the save that was staged
    {"do": "close"}

It answers each with one line. The ledger is what checker.py reads: `give` is on disk before the call is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from typing import Any

import keepstep
import numpy as np

ROWS, COLUMNS = 24, 512
SHAPES = {"weight": (ROWS, COLUMNS), "moment": (ROWS, COLUMNS), "bias": (COLUMNS,), "split": (16, 32)}
WORLD = 2
LIMIT_SECONDS = 60.0
OPEN_SECONDS = 30.0  # less than the driver waits for an answer


class Actor:
    def __init__(self, rank: int, address: str) -> None:
        self.rank, self.address = rank, address
        half, flat = ROWS // WORLD, ROWS * COLUMNS // WORLD + 100 * (1 - 2 * rank)
        first = 0 if rank == 0 else ROWS * COLUMNS - flat
        self.begin_row, self.begin_flat = rank * half, first
        self.weight = np.zeros((half, COLUMNS), np.uint32)
        self.moment = np.zeros(flat, np.uint32)
        self.bias = np.zeros(COLUMNS, np.uint32)
        self.split = np.zeros((16, 16), np.uint32)
        self.checkpointer: keepstep.Checkpointer | None = None
        self.handle: keepstep.SaveHandle | None = None
        self.serial = 0
        self.ledger = -1

    def state(self) -> dict[str, Any]:
        rows = slice(self.begin_row, self.begin_row + ROWS // WORLD)
        columns = slice(16 * self.rank, 16 * self.rank + 16)
        return {
            "model": {
                "weight": keepstep.piece(self.weight, SHAPES["weight"], np.s_[rows]),
                "bias": keepstep.replica(self.bias, range(WORLD)),
                "split": keepstep.piece(self.split, SHAPES["split"], np.s_[:, columns]),
            },
            "optimizer": {"moment": keepstep.flat(self.moment, SHAPES["moment"], self.begin_flat)},
        }

    def pieces(self) -> list[dict[str, Any]]:
        """SHA-256 of what this rank holds, with where it lies in the whole tensors, in bytes."""
        row = COLUMNS * 4
        places = {
            "weight": (self.weight, [[self.begin_row * row, (self.begin_row + ROWS // WORLD) * row]]),
            "bias": (self.bias, [[0, row]]),
            "split": (self.split, [[r * 128 + 64 * self.rank, r * 128 + 64 * self.rank + 64] for r in range(16)]),
            "optimizer.moment": (self.moment, [[self.begin_flat * 4, (self.begin_flat + self.moment.size) * 4]]),
        }
        return [{"tensor": name, "ranges": ranges, "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
                for name, (array, ranges) in places.items()]

    def fill(self, serial: int) -> None:
        """Values that no other serial has; replicas are equal on all ranks."""
        for salt, array in enumerate((self.weight, self.moment, self.split)):
            fresh = np.random.default_rng([serial, self.rank, salt]).integers(0, 1 << 32, array.shape, np.uint32)
            np.copyto(array, fresh)
        np.copyto(self.bias, np.random.default_rng([serial]).integers(0, 1 << 32, COLUMNS, np.uint32))

    def write_down(self, event: str, **what: Any) -> None:
        line = json.dumps({"event": event, "time": time.monotonic(), "rank": self.rank, **what}) + "\n"
        os.write(self.ledger, line.encode())
        os.fsync(self.ledger)

    def open(self, job: str, ledger: str) -> dict[str, Any]:
        self.let_go()
        if self.ledger >= 0:
            os.close(self.ledger)
        self.ledger = os.open(f"{ledger}/rank{self.rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        step = self.restore(job)
        assert self.checkpointer is not None
        epoch = self.checkpointer._client.info()[0]
        self.write_down("loaded", epoch=epoch, step=step, pieces=self.pieces() if step is not None else [])
        return {"step": step, "epoch": epoch}

    def restore(self, job: str) -> int | None:
        """A session and what it loads; again for a while, as whoever starts ranks would start them again.

        A load that storage refuses is tried in the same session: a new one would be a new run to the other rank.
        """
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                if self.checkpointer is None:
                    self.checkpointer = keepstep.Checkpointer(job, daemon=self.address, rank=self.rank,
                                                              world_size=WORLD, rng=False, gated=True,
                                                              max_failures=1 << 30)
                self.checkpointer.register(**self.state())
                return self.checkpointer.load()
            except keepstep.KeepstepError as error:
                if time.monotonic() > deadline:
                    raise
                if error.code == "ABORTED":
                    self.let_go()
                time.sleep(0.01)

    def let_go(self) -> None:
        """Of a session, whether or not it ended by itself."""
        with contextlib.suppress(keepstep.KeepstepError):
            self.close()
        self.checkpointer = None

    def save(self, step: int, serial: int, until: str) -> dict[str, Any]:
        assert self.checkpointer is not None
        self.checkpointer.before_update()
        self.fill(serial)
        self.serial = serial
        self.write_down("give", serial=serial, step=step, world=WORLD, pieces=self.pieces(),
                        tensors={f"optimizer.{name}" if name == "moment" else name: int(np.prod(shape)) * 4
                                 for name, shape in SHAPES.items()})
        try:
            self.handle = self.checkpointer.save(step)
        except keepstep.KeepstepError as error:
            self.handle = None
            return self.told(step, "FAILED", error.reason, error.code)
        if until == "staged":
            self.handle.staged(LIMIT_SECONDS)
            return {"state": "STAGED"}
        return self.outcome()

    def outcome(self) -> dict[str, Any]:
        assert self.handle is not None
        failure = self.handle.exception(LIMIT_SECONDS)
        handle, self.handle = self.handle, None
        if failure is None:
            return self.told(handle.step, "COMMITTED", "", "OK")
        return self.told(handle.step, failure.state, failure.reason, failure.code)

    def told(self, step: int, state: str, reason: str, code: str) -> dict[str, Any]:
        self.write_down("told", serial=self.serial, step=step, state=state, reason=reason)
        return {"state": state, "reason": reason, "code": code}

    def close(self) -> dict[str, Any]:
        if self.checkpointer is not None:
            self.checkpointer.close(LIMIT_SECONDS)
            self.checkpointer = None
        return {}

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        what = request.pop("do")
        if what == "open":
            return self.open(**request)
        if what == "save":
            return self.save(**request)
        return self.outcome() if what == "told" else self.close()


def main() -> int:
    actor = Actor(int(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        try:
            answer = actor.do(json.loads(line))
        except keepstep.KeepstepError as error:
            answer = {"error": str(error), "reason": error.reason, "code": error.code}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # a save may be in flight; that is the driver's affair


if __name__ == "__main__":
    sys.exit(main())
