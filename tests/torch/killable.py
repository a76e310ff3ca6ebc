"""A rank that trains under FSDP2, saves often, and writes down what it did, until it is killed. Forked by nursery.py.

In its folder: `state-<step>-<rank>`, a digest of this rank's tensors just before the save of that step was called, and
`losses-<rank>` and `committed-<rank>`, a line for each. A line is whole or absent: each is one write of a few bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import keepstep
import torch
import torch.distributed as dist

from tests.torch import layouts


def digest(trainee: layouts.Trainee) -> str:
    """Of every parameter, buffer and optimizer tensor that this rank holds."""
    found = hashlib.sha256()
    held = [*trainee.module.parameters(), *trainee.module.buffers()]
    for state in trainee.optimizer.state.values():
        held += [value for _, value in sorted(state.items()) if isinstance(value, torch.Tensor)]
    for tensor in held:
        local = getattr(tensor, "_local_tensor", tensor)
        found.update(local.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def run(folder: str, directory: str, rank: int, size: int, store: str, last: int) -> None:
    """Loads, checks the load against what was written down, trains up to `last`."""
    logging.basicConfig(level=logging.WARNING, format=f"rank {rank}: %(message)s")
    notes = Path(folder)
    losses = os.open(notes / f"losses-{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    committed = os.open(notes / f"committed-{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    resumed = os.open(notes / f"resumed-{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    trainee = layouts.build("fsdp2", seed=os.getpid())  # what is not loaded differs every time

    def note(handle: keepstep.SaveHandle) -> None:
        if handle.exception() is None:
            os.write(committed, f"{handle.step}\n".encode())

    with keepstep.Checkpointer(directory, max_failures=10**6, preemption=False) as ck:
        ck.register(**trainee.state())
        step = ck.load()
        if step is None:
            torch.manual_seed(7 + rank)
            with torch.no_grad():
                for parameter in trainee.module.parameters():
                    parameter._local_tensor.normal_(std=0.1)  # type: ignore[attr-defined]
            step = 0
        else:
            right = (notes / f"state-{step}-{rank}").read_text() == digest(trainee)
            os.write(resumed, f"{step} {'right' if right else 'wrong'}\n".encode())
        while step < last:
            step += 1
            loss = trainee.step(step)
            os.write(losses, f"{step} {loss.hex()}\n".encode())
            if ck.should_save(step, every=2):
                whole = notes / f"state-{step}-{rank}.{os.getpid()}"
                whole.write_text(digest(trainee))
                whole.rename(notes / f"state-{step}-{rank}")
                ck.save(step).add_done_callback(note)
    (notes / f"done-{rank}").touch()
