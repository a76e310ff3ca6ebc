"""Save every 10 steps, flat step time: the same training with no saves, with DCP's async_save, and with Keepstep.

    deploy/demo.sh flat-steps [--steps N] [--json FILE]

One process trains a GPT on one thread. Each step is drawn as it ends, as high as it took: ▁ is a step without a save.
What a save costs is the extra time of all steps, the one that saves and those beside which it is written, against the
steps that come later after a save than that. From the cost follow the best interval between saves, √(2 · cost · MTBF),
and what of the time is left for training at that interval (Young's formula), for a failure every three hours.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.harness.daemon import REPOSITORY, Daemon

sys.path.insert(0, str(REPOSITORY / "client/python"))

import keepstep
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from tests.quickstart.story import say, table
from tests.training import text
from tests.training.gpt import GPT

EVERY = 10
WIDTH, LAYERS = 256, 6
WARM_UP = 3
MTBF_SECONDS = 3 * 3600.0
HEIGHTS = "▁▂▃▄▅▆▇█"
Save = Callable[[int], object]  # what a step that saves does after its update


@dataclass(frozen=True)
class Result:
    name: str
    seconds: list[float]  # of each step

    @property
    def usual(self) -> float:
        """The median of the steps long after a save."""
        return statistics.median(took for index, took in enumerate(self.seconds, start=1) if index % EVERY > EVERY // 2)

    @property
    def cost(self) -> float:
        """Seconds that one save added to all steps; not below 0, where it is lost in the noise."""
        return max(0.0, sum(self.seconds) - len(self.seconds) * self.usual) / (len(self.seconds) // EVERY)

    @property
    def best_interval(self) -> float:
        return math.sqrt(2 * self.cost * MTBF_SECONDS)

    @property
    def goodput(self) -> float:
        return 1 - math.sqrt(2 * self.cost / MTBF_SECONDS)


class Job:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = GPT(WIDTH, LAYERS, text.LENGTH)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-3)

    def update(self, step: int) -> None:
        inputs, targets = text.batch(step, 0, 3)
        nn.functional.cross_entropy(self.module(inputs).flatten(0, 1), targets.flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def bytes(self) -> int:
        parameters = sum(parameter.nbytes for parameter in self.module.parameters())
        return parameters + sum(value.nbytes for state in self.optimizer.state.values() for value in state.values())


@contextmanager
def no_saves(job: Job, home: Path, daemon: Daemon) -> Iterator[Save]:
    yield lambda step: None


@contextmanager
def dcp_async(job: Job, home: Path, daemon: Daemon) -> Iterator[Save]:
    """As PyTorch's tutorial has it: wait for the save before, then stage and write in a thread."""
    pending = None

    def save(step: int) -> None:
        nonlocal pending
        if pending is not None:
            pending.result()
        model, optimizer = get_state_dict(job.module, job.optimizer)
        shutil.rmtree(home / f"dcp-{step - 2 * EVERY}", ignore_errors=True)
        pending = dcp.async_save({"model": model, "optimizer": optimizer}, checkpoint_id=home / f"dcp-{step}")

    yield save
    if pending is not None:
        pending.result()


@contextmanager
def with_keepstep(job: Job, home: Path, daemon: Daemon) -> Iterator[Save]:
    directory = daemon.root / "flat"
    with keepstep.Checkpointer(directory, daemon=daemon.address, rank=0, world_size=1, keep_last=2) as checkpointer:
        checkpointer.register(model=job.module, optimizer=job.optimizer)
        yield checkpointer.save


MODES = {"no saves": no_saves, "DCP async_save": dcp_async, "Keepstep": with_keepstep}


def measure(job: Job, mode: str, steps: int, home: Path, daemon: Daemon, usual: float | None) -> list[float]:
    """Seconds of each step; draws them, against `usual` seconds (None: the median so far)."""
    seconds: list[float] = []
    print(f"  {mode:>14} ", end="", flush=True)
    with MODES[mode](job, home, daemon) as save:
        for step in range(1 - WARM_UP, steps + 1):
            begin = time.perf_counter()
            job.update(abs(step))
            if step % EVERY == 0:
                save(step + WARM_UP * EVERY)
            if step > 0:
                seconds.append(time.perf_counter() - begin)
                extra = seconds[-1] / (usual or statistics.median(seconds)) - 1
                print(HEIGHTS[min(max(int(extra * 8), 0), len(HEIGHTS) - 1)], end="", flush=True)
    print(flush=True)
    return seconds


def run(steps: int) -> list[Result]:
    torch.set_num_threads(1)
    job = Job()
    job.update(0)
    say(f"A GPT of {job.bytes() / 1e6:.0f} MB with Adam's state trains {steps} steps three times over, saving every "
        f"{EVERY}. A bar is a step, as high as it took; a save falls on each tenth.")
    with tempfile.TemporaryDirectory(prefix="ks-flat-") as name, Daemon(Path(name)) as daemon:
        seconds: dict[str, list[float]] = {}
        for mode in MODES:
            usual = statistics.median(seconds["no saves"]) if seconds else None
            seconds[mode] = measure(job, mode, steps, Path(name), daemon, usual)
    return [Result(mode, took) for mode, took in seconds.items()]


def show(results: list[Result]) -> None:
    print()
    table(
        ["", "usual step", "every tenth", "worst step", "a save costs", "best interval", "left for training"],
        [
            [one.name, _ms(one.usual), _ms(statistics.median(one.seconds[EVERY - 1 :: EVERY])),
             _ms(max(one.seconds)), _ms(one.cost), f"{one.best_interval:.0f} s", f"{100 * one.goodput:.2f} %"]
            for one in results
        ],
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="flat-steps", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="of each of the three (default: 60)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args(arguments)
    if options.steps < EVERY:
        parser.error(f"--steps {options.steps}: at least {EVERY}, or nothing is saved")
    logging.disable(logging.WARNING)  # of torch, about running without a process group
    warnings.simplefilter("ignore")
    results = run(options.steps)
    show(results)
    if options.json:
        rows = [{**asdict(one), "usual": one.usual, "cost": one.cost, "best_interval": one.best_interval,
                 "goodput": one.goodput} for one in results]
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
