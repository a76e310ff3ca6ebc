"""One rank of a restored job: another process, another layout. Prints one JSON line with what it found.

    python -m tests.quickstart.restorer DIRECTORY ADDRESS LAYOUT RANK
"""

from __future__ import annotations

import json
import sys

import keepstep

from tests.quickstart.holding import allocate
from tests.quickstart.layouts import RESTORES, is_moment
from tests.quickstart.trainer import Schedule


def run(directory: str, address: str, layout_name: str, rank: int) -> None:
    layout = RESTORES[layout_name]
    stored = keepstep.open(directory)  # shapes and names alone: no tensor is read here
    shapes = {name: stored.tensor(name).shape for name in stored.names()}
    held = {
        name: allocate(part, shapes[name], stored.tensor(name).dtype)
        for name, part in layout.parts(shapes, rank).items()
    }
    for one in held.values():
        for view in one.views:
            view.fill(-7)  # what load leaves untouched shows
    declared = {name: one.declared() for name, one in held.items()}
    schedule = Schedule()
    with keepstep.Checkpointer(directory, daemon=address, rank=rank, world_size=layout.world_size) as checkpointer:
        checkpointer.register(
            model={name: one for name, one in declared.items() if not is_moment(name)},
            optimizer={name.removeprefix("optimizer."): one for name, one in declared.items() if is_moment(name)},
            schedule=schedule,
        )
        step = checkpointer.load()
        report = checkpointer.last_load
        digests = {name: one.digest() for name, one in held.items()}
        told: dict[str, object] = {
            "event": "restored", "step": step, "updates": schedule.updates, "digests": digests
        }  # fmt: skip
        if report is not None:
            told |= {
                "seconds": report.seconds, "delivered_bytes": report.delivered_bytes, "read_bytes": report.read_bytes
            }  # fmt: skip
        print(json.dumps(told), flush=True)
        sys.stdin.read()  # a rank that left now would be missing to one that has yet to load


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
