"""The same model and optimizer in each layout, on a gloo world: what `build` returns is what a training script has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tests.torch.model import Block, Tiny, tokens


@dataclass
class Trainee:
    """A model in a layout, as its training script has it. `averaged`: a group whose gradients it averages itself."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    stage: int | None = None
    averaged: Any = None
    register: dict[str, Any] = field(default_factory=dict)
    data_rank: int = 0

    def step(self, step: int) -> float:
        """One update; the loss."""
        if self.stage == 1:  # a later stage: what the earlier one would send
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(4, 6, 8, generator=generator)
        else:
            inputs = tokens(step, self.data_rank)
        out = self.module(inputs)
        targets = tokens(step + 1, self.data_rank)
        if self.stage == 0:
            loss = out.square().mean()
        else:
            loss = nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten())
        loss.backward()
        if self.averaged is not None:
            for parameter in self.module.parameters():
                assert parameter.grad is not None
                local = parameter.grad._local_tensor if isinstance(parameter.grad, DTensor) else parameter.grad
                dist.all_reduce(local, group=self.averaged)
                local /= dist.get_world_size(self.averaged)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return loss.item()

    def state(self) -> dict[str, Any]:
        return {"model": self.module, "optimizer": self.optimizer, "scheduler": self.scheduler, **self.register}


def tensor_parallel(module: nn.Module, mesh: DeviceMesh) -> None:
    plan = {f"layers.{name}.{linear}": style for name in module.layers  # type: ignore[union-attr]
            for linear, style in (("up", ColwiseParallel()), ("down", RowwiseParallel()))}
    parallelize_module(module, mesh, plan)


def shard_blocks(module: nn.Module, mesh: DeviceMesh) -> None:
    for block in module.layers.values():  # type: ignore[union-attr, operator]
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def build(layout: str, seed: int = 0, kind: str = "AdamW", dropout: float = 0.1) -> Trainee:
    """The model of `seed`, in a layout, over all ranks of the world."""
    torch.manual_seed(seed)
    size, rank = dist.get_world_size(), dist.get_rank()
    made: dict[str, Any] = {"data_rank": rank}
    module: nn.Module = Tiny(dropout=dropout)
    if layout == "single":
        assert size == 1
    elif layout in ("ddp", "zero1"):
        # It keeps the buckets of its first backward; otherwise a resumed step may add gradients up in another order.
        module = DistributedDataParallel(module, find_unused_parameters=True)
    elif layout.startswith("fsdp1"):
        module = FullyShardedDataParallel(
            module, auto_wrap_policy=ModuleWrapPolicy({Block}), use_orig_params="flat" not in layout,
            device_id=torch.device("cpu"), sharding_strategy={
                "fsdp1whole": ShardingStrategy.NO_SHARD, "fsdp1hybrid": ShardingStrategy.HYBRID_SHARD,
            }.get(layout, ShardingStrategy.FULL_SHARD),
            device_mesh=init_device_mesh("cpu", (2, size // 2)) if "hybrid" in layout else None)
    elif layout == "fsdp2":
        shard_blocks(module, init_device_mesh("cpu", (size,), mesh_dim_names=("dp",)))
    elif layout == "tp":
        tensor_parallel(module, init_device_mesh("cpu", (size,), mesh_dim_names=("tp",)))
        made["data_rank"] = 0
    elif layout == "hsdp":
        shard_blocks(module, init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("replicate", "shard")))
    else:
        names = {"fsdp2tp": ("dp", "tp"), "ddptp": ("dp", "tp"), "cp": ("cp", "dp"), "pptp": ("pp", "tp")}[layout]
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names)
        made["data_rank"] = mesh.get_local_rank(names[0])
        if layout == "fsdp2tp":
            tensor_parallel(module, mesh["tp"])
            shard_blocks(module, mesh["dp"])
        elif layout == "ddptp":
            tensor_parallel(module, mesh["tp"])
            made |= {"averaged": mesh.get_group("dp"), "register": {"replicated": mesh["dp"]}}
        elif layout == "cp":
            shard_blocks(module, mesh["dp"])
            made |= {"averaged": mesh.get_group("cp"), "register": {"replicated": mesh["cp"]}, "data_rank": rank}
        else:
            stage = mesh.get_local_rank("pp")
            module = Tiny(("emb", "0") if stage == 0 else ("1", "norm", "head"), dropout)
            tensor_parallel(module, mesh["tp"])
            made |= {"stage": stage, "data_rank": 0}
    made_by = getattr(torch.optim, kind)
    if layout == "zero1":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer: torch.optim.Optimizer = ZeroRedundancyOptimizer(
            module.parameters(), optimizer_class=made_by, lr=0.01)
    else:
        optimizer = made_by(groups(module), lr=0.01, foreach=False)
    return Trainee(module, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), **made)


def groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups with options of their own, where the layout leaves the parameters apart."""
    named = list(module.named_parameters())
    plain = [parameter for name, parameter in named if "norm" in name]
    return [{"params": [parameter for name, parameter in named if "norm" not in name], "weight_decay": 0.1},
            *([{"params": plain, "weight_decay": 0.0}] if plain else [])]
