"""The GPT, its optimizer and its schedule in one layout of a gloo world: what a training script has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.training import text
from tests.training.gpt import GPT, Block

LAYERS = 2
WIDTH = 96
LAYOUTS = {  # name → what it is called, and its processes
    "fsdp2tp": ("FSDP2 × TP, 2 × 2", 4),
    "fsdp2": ("FSDP2 over 2", 2),
    "fsdp2of3": ("FSDP2 over 3", 3),
}


@dataclass
class Trainee:
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    data_rank: int
    data_world: int

    def state(self) -> dict[str, Any]:
        return {"model": self.module, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def update(self, step: int) -> float:
        """Update `step`; the loss over all sequences, the same number on every rank."""
        inputs, targets = text.batch(step, self.data_rank, self.data_world)
        loss = nn.functional.cross_entropy(self.module(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        shown = loss.detach().clone()
        dist.all_reduce(shown)
        return float(shown) / dist.get_world_size()


def build(layout: str, width: int = WIDTH, layers: int = LAYERS) -> Trainee:
    """With weights that are the same in every layout."""
    torch.manual_seed(0)
    module = GPT(width, layers, text.LENGTH)
    world = dist.get_world_size()
    assert world == LAYOUTS[layout][1], f"{layout} is a layout of {LAYOUTS[layout][1]} processes"
    if layout == "fsdp2tp":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("dp", "tp"))
        for block in module.blocks:
            parallelize_module(block, mesh["tp"], {
                "attention.query": ColwiseParallel(), "attention.key": ColwiseParallel(),
                "attention.value": ColwiseParallel(), "attention.out": RowwiseParallel(),
                "up": ColwiseParallel(), "down": RowwiseParallel(),
            })  # fmt: skip
        data = mesh["dp"]
    else:
        data = init_device_mesh("cpu", (world,), mesh_dim_names=("dp",))
    for block in module.modules():
        if isinstance(block, Block):
            fully_shard(block, mesh=data)
    fully_shard(module, mesh=data)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, foreach=False)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 10)
    return Trainee(module, optimizer, scheduler, data.get_local_rank(), data.size())
