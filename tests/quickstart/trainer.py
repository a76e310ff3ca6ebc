"""One rank of the training job. Prints one JSON line for each thing that its parent must know.

    python -m tests.quickstart.trainer DIRECTORY ADDRESS RANK VICTIM

Steps 0, 1, 2 are saved, each after the update that ends it; step 0 holds the published weights. Copying overlaps
training: an update waits in `before_update`, not in `save`. The victim is killed by SIGKILL as soon as its third save
has begun.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import keepstep
import numpy as np

from tests.quickstart.holding import Held, allocate, fuse_attention
from tests.quickstart.layouts import TRAINERS, TRAINING, is_moment
from tests.quickstart.model import (
    MOMENTS,
    Array,
    moment_name,
    starting_weights,
    trained,
    update_moments,
    update_weight,
)  # fmt: skip

LAST_STEP = 2
TIMEOUT_SECONDS = 120.0


class Schedule:
    """Extra state: what a scheduler or a data loader would keep."""

    def __init__(self) -> None:
        self.updates = 0

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]


class Trainer:
    def __init__(self, rank: int) -> None:
        self.schedule = Schedule()
        self.starts = starting_weights()
        shapes = {name: start.shape for name, start in self.starts.items()}
        for name, start in self.starts.items():
            if trained(start):
                shapes.update({moment_name(moment, name): start.shape for moment in MOMENTS})
        parts = TRAINING.parts(shapes, rank)
        self.held = {name: allocate(part, shapes[name], self._start(name).dtype) for name, part in parts.items()}
        fuse_attention(parts, shapes, self.held)
        for name, held in self.held.items():
            held.fill(np.zeros(held.shape, np.float32) if is_moment(name) else self._start(name))

    def _start(self, name: str) -> Array:
        return self.starts[name.split(".", 2)[2] if is_moment(name) else name]

    def register(self, checkpointer: keepstep.Checkpointer) -> None:
        told: dict[str, Any] = {name: held.declared() for name, held in self.held.items()}
        checkpointer.register(
            model={name: value for name, value in told.items() if not is_moment(name)},
            optimizer={name.removeprefix("optimizer."): value for name, value in told.items() if is_moment(name)},
            schedule=self.schedule,
        )

    def update(self, step: int) -> None:
        """Changes every trained tensor in place."""
        for name, start in self.starts.items():
            if trained(start):
                self._update(self.held[name], start, step)
                first, second = (self.held[moment_name(moment, name)] for moment in MOMENTS)
                update_moments(first.views[0], second.views[0], first.pieces(start)[0], step)
        self.schedule.updates = step

    def _update(self, held: Held, start: Array, step: int) -> None:
        for view, piece in zip(held.views, held.pieces(start), strict=True):
            update_weight(view, piece, step)

    def digests(self) -> dict[str, str]:
        return {name: held.digest() for name, held in self.held.items()}


def tell(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def run(directory: str, address: str, rank: int, victim: int) -> None:
    trainer = Trainer(rank)
    handles: list[keepstep.SaveHandle] = []
    with keepstep.Checkpointer(
        directory, daemon=address, rank=rank, world_size=TRAINERS, gated=True, on_error="warn"
    ) as checkpointer:
        trainer.register(checkpointer)
        assert checkpointer.load() is None, "the job is new: there is nothing to go on from"
        for step in range(LAST_STEP + 1):
            if step > 0:
                checkpointer.before_update()
                trainer.update(step)
            if step == LAST_STEP:  # the third save begins with two committed ones behind it
                for handle in handles:
                    handle.result(TIMEOUT_SECONDS)
                    tell("committed", stats=handle.stats)
            tell("state", step=step, digests=trainer.digests())
            handles.append(checkpointer.save(step))
            if step == LAST_STEP and rank == victim:
                os.kill(os.getpid(), signal.SIGKILL)
        failure = handles[-1].exception(TIMEOUT_SECONDS)
        tell("third", message=str(failure) if failure else "committed")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
