"""FSDP2 on any number of processes: what one layout saved, another loads.

    torchrun --nproc-per-node 4 fsdp.py /tmp/run --steps 50
    torchrun --nproc-per-node 2 fsdp.py /tmp/run --steps 100
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import keepstep


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--every", type=int, default=10)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    mesh = init_device_mesh(device, (dist.get_world_size(),))

    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(4)]).to(device)
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    with keepstep.Checkpointer(arguments.directory, keep_last=2) as ck:
        ck.register(model=model, optimizer=optimizer)
        step = ck.load() or 0
        loss = torch.zeros(())
        begin = step
        while step < arguments.steps:
            x = torch.rand(16, 32, device=device)
            loss = (model(x) - x.flip(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if ck.should_save(step, every=arguments.every):
                ck.save(step)
        if dist.get_rank() == 0:
            print(f"{dist.get_world_size()} processes: steps {begin} to {step}, loss {loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
