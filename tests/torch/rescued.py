"""A trainer with crash flush on the CPU: `python -m tests.torch.rescued ADDRESS DIRECTORY`.

It says what it holds after each step, as JSON, and trains until it is killed; told "stop" as a third word it says only
what it has loaded.
"""

from __future__ import annotations

import hashlib
import json
import sys

import keepstep
import torch
from torch import nn


def digest(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    state = hashlib.sha256()
    for tensor in model.state_dict().values():
        state.update(tensor.numpy().tobytes())
    for slots in optimizer.state_dict()["state"].values():
        for tensor in slots.values():
            state.update(tensor.numpy().tobytes())
    state.update(torch.get_rng_state().numpy().tobytes())
    return state.hexdigest()


def main() -> None:
    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Linear(128, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    ck = keepstep.Checkpointer(sys.argv[2], daemon=sys.argv[1], rescue=True, preemption=False, rank=0, world_size=1)
    ck.register(model=model, optimizer=optimizer, scheduler=scheduler)
    step = ck.load() or 0
    print(json.dumps([step, scheduler.last_epoch, digest(model, optimizer)]), flush=True)
    while len(sys.argv) < 4:
        step += 1
        model(torch.randn(16, 64)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        held = digest(model, optimizer)
        if ck.should_save(step, every=1000):
            ck.save(step)
        print(json.dumps([step, scheduler.last_epoch, held]), flush=True)


if __name__ == "__main__":
    main()
