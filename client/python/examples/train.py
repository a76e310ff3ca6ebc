"""A training loop that goes on where it was stopped: run it, kill it, run it again.

    python train.py /tmp/run --steps 200
"""

from __future__ import annotations

import argparse
import logging

import torch
from torch import nn

import keepstep


def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(64, 8, generator=generator)
    return x, x.sum(dim=1, keepdim=True).sin()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)

    with keepstep.Checkpointer(arguments.directory, keep_last=3) as ck:
        ck.register(model=model, optimizer=optimizer, scheduler=scheduler)
        step = ck.load() or 0  # completed updates; the random generators go on from there, too
        print(f"begins after step {step}")
        loss = torch.zeros(())
        while step < arguments.steps:
            x, y = batch(torch.default_generator)
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()  # waits by itself, if a save still copies what it changes
            scheduler.step()
            step += 1
            if ck.should_save(step, every=arguments.every):
                ck.save(step, metrics={"loss": loss.item()})
        print(f"ends after step {step}, loss {loss.item():.6f}")


if __name__ == "__main__":
    main()
