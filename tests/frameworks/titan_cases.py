"""What ranks do with torchtitan's own containers and either checkpoint manager; see tests/torch_dcp/ranks.py."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from keepstep.torchtitan import KeepstepCheckpointManager
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torchtitan.components.checkpointer.dcp import CheckpointManager
from torchtitan.components.optimizer.lr_scheduler import LRSchedulersContainer
from torchtitan.components.optimizer.optimizer import OptimizersContainer, ParamGroupConfig

warnings.filterwarnings("ignore")


class TrainState:
    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": torch.tensor(self.step)}

    def load_state_dict(self, told: dict[str, Any]) -> None:
        self.step = int(told["step"])


class Loader:
    def __init__(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {f"rank_{dist.get_rank()}": self.position}

    def load_state_dict(self, told: dict[str, Any]) -> None:
        self.position = told[f"rank_{dist.get_rank()}"]


class Job:
    """A small sharded model, its optimizer and schedule, and a manager of the given kind."""

    def __init__(self, folder: str, address: str, seed: int, ranks: int, **options: Any) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        fully_shard(self.model, mesh=DeviceMesh("cpu", list(range(ranks))))
        groups = [ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 0.01})]
        self.optimizers = OptimizersContainer.Config(param_groups=groups, implementation="for-loop").build(
            model_parts=[self.model]
        )
        self.schedule = LRSchedulersContainer.Config(warmup_steps=2).build(optimizers=self.optimizers, training_steps=9)
        self.state, self.loader = TrainState(), Loader()
        kind: Any = KeepstepCheckpointManager if address else CheckpointManager
        if address:
            options["daemon"] = address
        config = kind.Config(enable=True, folder="checkpoint", interval=2, **options)
        self.manager = config.build(
            dataloader=self.loader, model_parts=[self.model], optimizers=self.optimizers, lr_schedulers=self.schedule,
            states={"train_state": self.state}, sd_adapter=None, base_folder=folder,
        )  # fmt: skip

    def train(self, until: int) -> list[float]:
        losses = []
        while self.state.step < until:
            generator = torch.Generator().manual_seed(self.state.step)
            self.optimizers.zero_grad()
            loss = self.model(torch.randn(4, 6, generator=generator)).square().mean()
            loss.backward()
            self.manager.maybe_wait_for_staging()
            self.optimizers.step()
            self.schedule.step()
            self.state.step += 1
            self.loader.position += 4
            losses.append(float(loss.detach()))
            self.manager.save(self.state.step, last_step=False)
        return losses

    def close(self) -> None:
        self.manager.maybe_wait_for_staging()
        self.manager.maybe_wait_for_saving()
        self.manager.close()


def train_and_resume(folder: str, address: str, mode: str) -> Any:
    """Eight steps; then another job from step 6 and from the newest. All that can be seen of it."""
    first = Job(folder, address, 1, dist.get_world_size(), async_mode=mode, keep_latest_k=2)
    losses = first.train(8)
    first.close()
    dist.barrier()
    saved = sorted(path.name for path in Path(folder, "checkpoint").iterdir())
    found = {}
    for name, step in (("newest", -1), ("six", 6)):
        again = Job(folder, address, 2, dist.get_world_size(), load_only=True)
        loaded = again.manager.load(step)
        found[name] = (loaded, again.state.step, again.loader.position, again.train(10))
        again.close()
    expected = Job(folder + "-elsewhere", "", 1, dist.get_world_size(), load_only=True)
    whole = expected.train(10)
    expected.close()
    return saved, found, losses, whole


def what_is_loaded(folder: str, address: str, other: str) -> Any:
    """exclude_from_loading, initial_load_path of either kind, a torn step, and a folder with nothing in it."""
    job = Job(folder, address, 1, dist.get_world_size())
    job.train(4)
    job.close()
    dist.barrier()
    if dist.get_rank() == 0 and address:
        torn = Path(folder, "checkpoint/step-6/000000000000/e1-a1-0000000000000000")
        torn.mkdir(parents=True)
    dist.barrier()
    excluded = Job(folder, address, 2, dist.get_world_size(), exclude_from_loading=["dataloader"], load_only=True)
    found: dict[str, Any] = {"excluded": (excluded.manager.load(), excluded.state.step, excluded.loader.position)}
    excluded.close()
    for name, path in (("ours", folder), ("theirs", other)):
        start = os.path.join(path, "checkpoint/step-4")
        fresh = Job(folder + "-fresh", address, 2, dist.get_world_size(), initial_load_path=start, load_only=True)
        loaded = fresh.manager.load()
        same = all(
            torch.equal(a.to_local(), b.to_local())
            for a, b in zip(fresh.model.parameters(), job.model.parameters(), strict=True)
        )
        found[name] = (loaded, fresh.state.step, same)
        fresh.close()
    empty = Job(folder + "-empty", address, 2, dist.get_world_size(), load_only=True)
    found["empty"] = empty.manager.load()
    empty.close()
    return found
