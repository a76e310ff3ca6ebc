"""One rank as a process: restores, updates, saves, and says on stdout what happened, one event a line.

    RESTORED <step> <yes|no>     after load: the step (0: nothing to load), and whether every element is right
    SAVED <step>                 `save` returned
    COMMITTED <step> / FAILED <step> <reason>
    ASKED                        with --ask, once: it has asked should_save, and saves only when told to
    DONE

It stops after --steps updates, or when it is killed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import keepstep

from tests.e2e.content import Model


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # whole lines from any thread


def report(handle: keepstep.SaveHandle) -> None:
    error = handle.exception()
    if error is None:
        say("COMMITTED", handle.step)
    else:
        say("FAILED", handle.step, getattr(error, "reason", type(error).__name__))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--address", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--ask", action="store_true")
    arguments = parser.parse_args()
    model = Model(arguments.rank, arguments.world)
    with keepstep.Checkpointer(
        arguments.directory,
        daemon=arguments.address,
        rank=arguments.rank,
        world_size=arguments.world,
        rng=False,
        gated=True,
    ) as checkpointer:
        checkpointer.register(**model.state())
        step = checkpointer.load() or 0
        say("RESTORED", step, "yes" if step == 0 or model.holds(step) else "no")
        for completed in range(step + 1, step + 1 + arguments.steps):
            checkpointer.before_update()
            model.update(completed)
            if arguments.ask:
                wanted = checkpointer.should_save(completed)
                if completed == step + 1:
                    say("ASKED")
                if not wanted:
                    time.sleep(0.001)  # an update takes a while
                    continue
            handle = checkpointer.save(completed)
            say("SAVED", completed)
            handle.add_done_callback(report)
        checkpointer.wait()
    say("DONE")
    return 0


if __name__ == "__main__":
    sys.exit(main())
