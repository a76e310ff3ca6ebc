"""Without PyTorch: arrays of NumPy, saved while the program goes on, and read without a daemon.

    python arrays.py /tmp/run
"""

from __future__ import annotations

import argparse

import numpy as np

import keepstep


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    weights = {"embedding": np.zeros((1000, 64), np.float32), "head": np.zeros(64, np.float32)}
    seen = {"samples": 0}

    # `gated`: the program itself says when it is about to change the arrays.
    with keepstep.Checkpointer(arguments.directory, gated=True) as ck:
        ck.register(model=weights, reader=(lambda: seen, seen.update))
        step = ck.load() or 0
        while step < arguments.steps:
            gradient = np.full(64, 0.5, np.float32)  # computed while the last save is still being copied
            ck.before_update()
            weights["head"] += gradient
            weights["embedding"][step] = step + 1
            seen["samples"] += 64
            step += 1
            if step % 10 == 0:
                ck.save(step)

    stored = keepstep.open(arguments.directory)  # needs neither daemon nor library
    print(f"step {stored.step}: {', '.join(stored.names())}")
    print(f"head[0] = {stored.tensor('head')[0]}, embedding[9] = {stored.tensor('embedding')[9, 0]}, {seen}")


if __name__ == "__main__":
    main()
