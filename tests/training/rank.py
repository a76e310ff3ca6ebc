"""One rank of the training job: resumes where the job is, trains, saves every few steps, and may be killed in a save.

What it tells its parent, one JSON object a line: resumed, step, saving, committed, done.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import Any, TextIO

import keepstep
import torch
import torch.distributed as dist

from tests.training.ledger import Ledger
from tests.training.trainee import LAYOUTS, build

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Task:
    """What one world does. `die_at`: rank `victim` is killed by SIGKILL right after its save of that step began."""

    directory: str
    address: str
    store: str  # a file, for torch's rendezvous
    layout: str
    until: int
    every: int
    die_at: int | None = None
    victim: int = 0
    keep_last: int | None = 3
    ledger: str | None = None  # a directory: see tests/crash/checker.py
    run: int = 0  # for the ledger: which of the job's runs this is

    @property
    def world_size(self) -> int:
        return LAYOUTS[self.layout][1]


def run(task: Task, rank: int, out: TextIO) -> None:
    def tell(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, **values}) + "\n")
        out.flush()

    torch.set_num_threads(1)
    store = dist.FileStore(task.store, task.world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=task.world_size)
    trainee = build(task.layout)
    ledger = None if task.ledger is None else Ledger(task.ledger, task.run, rank, trainee)
    handles: list[keepstep.SaveHandle] = []
    with keepstep.Checkpointer(
        task.directory, daemon=task.address, keep_last=task.keep_last, max_failures=100
    ) as checkpointer:
        checkpointer.register(**trainee.state(), **({} if ledger is None else ledger.state()))
        step = checkpointer.load() or 0
        report = checkpointer.last_load
        if ledger is not None:
            ledger.loaded(step)
        tell("resumed", step=step, seconds=0.0 if report is None else report.seconds)
        while step < task.until:
            step += 1
            tell("step", step=step, loss=trainee.update(step))
            if not checkpointer.should_save(step, every=task.every):
                continue
            if ledger is not None:
                ledger.give(step)
            handles.append(checkpointer.save(step))
            tell("saving", step=step)
            if step == task.die_at and rank == task.victim:
                os.kill(os.getpid(), signal.SIGKILL)
            handles[-1].add_done_callback(lambda handle: tell("over", **handle.stats))
        for handle in handles:
            handle.exception(TIMEOUT_SECONDS)
    if ledger is not None:
        for handle in handles:
            ledger.told(handle)
    tell("done", step=step)
    dist.destroy_process_group()
