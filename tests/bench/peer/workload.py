"""What is trained while checkpoints are taken: bfloat16 parameters, float32 masters, Adam's two moments.

`gpt` is split over the ranks by DTensor (the first dimension), `small` is 20,000 tensors of one rank, `large` few
tensors of one rank. A step computes, then updates every tensor in place, as Adam would: as much memory is moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

BYTES_OF_A_PARAMETER = 2 + 3 * 4
KINDS = ("parameter", "master", "exp_avg", "exp_avg_sq")  # the latter three are the optimizer's state


@dataclass(frozen=True)
class Workload:
    name: str
    parameters: int  # tensors; the state has four times as many
    rows: int
    columns: int
    world: int
    compute_seconds: float  # of a step before its update

    @property
    def state_bytes(self) -> int:
        return self.parameters * self.rows * self.columns * BYTES_OF_A_PARAMETER


def workload(name: str, quick: bool) -> Workload:
    if name == "gpt":  # 1.2 GB; 592 tensors
        return Workload(name, 148, 96 if quick else 768, 768, 2, 0.3 if quick else 1.0)
    if name == "small":  # 20,000 tensors of 8 to 16 KiB
        return Workload(name, 500 if quick else 5000, 4, 1024, 1, 0.2 if quick else 0.5)
    if name == "large":  # 2 GB
        return Workload(name, 36 if quick else 144, 256 if quick else 1024, 1024, 1, 0.3 if quick else 1.0)
    raise ValueError(name)


class Adam(torch.optim.AdamW):
    """Of bfloat16 parameters, with float32 masters in its state, as mixed-precision optimizers keep them.

    The update is done on local tensors, without gradients.
    """

    def bind(self) -> None:
        """After its tensors were made or replaced."""
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        columns = [[_local(self.state[parameter][name]) for parameter in own] for name in KINDS[1:]]
        self.locals = dict(zip(KINDS, [[_local(parameter) for parameter in own], *columns], strict=True))

    def step(self, closure: Any = None) -> None:
        target, master, first, second = (self.locals[kind] for kind in KINDS)
        torch._foreach_mul_(first, 0.9)
        torch._foreach_add_(first, 1e-3)
        torch._foreach_mul_(second, 0.99)
        torch._foreach_add_(second, 1e-6)
        torch._foreach_add_(master, first, alpha=-1e-3)
        torch._foreach_copy_(target, master)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """In place: torch's own would make the state bfloat16, as the parameters are."""
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        for key, parameter in zip(saved, own, strict=True):
            for name, value in state_dict["state"][key].items():
                if value is not self.state[parameter][name]:
                    self.state[parameter][name].copy_(value)


class Trained(nn.Module):
    """The parameters of this rank, and their optimizer."""

    def __init__(self, shape: Workload, mesh: DeviceMesh | None, rank: int, world: int) -> None:
        super().__init__()
        self.shape = shape
        self.rank, self.world = rank, world
        begin, end = shape.rows * rank // world, shape.rows * (rank + 1) // world
        generator = torch.Generator().manual_seed(rank)

        def make(dtype: torch.dtype) -> torch.Tensor:
            local = torch.empty(end - begin, shape.columns, dtype=dtype).uniform_(-1, 1, generator=generator)
            if mesh is None:
                return local
            whole = torch.Size((shape.rows, shape.columns))
            return DTensor.from_local(local, mesh, [Shard(0)], shape=whole, stride=(shape.columns, 1))

        self.layers = nn.ParameterDict(
            {f"w{index}": nn.Parameter(make(torch.bfloat16)) for index in range(shape.parameters)}
        )
        self.optimizer = Adam(self.parameters(), foreach=True)
        for parameter in self.parameters():
            state = {name: make(torch.float32) for name in KINDS[1:]}
            self.optimizer.state[parameter] = {"step": torch.zeros(()), **state}
        self.optimizer.bind()

    def named(self) -> dict[str, torch.Tensor]:
        """Every tensor of more than one element, this rank's part."""
        return {f"{kind}.{index}": tensor for kind, column in self.optimizer.locals.items()
                for index, tensor in enumerate(column)}

    def digest(self) -> int:
        """Of the whole state when the ranks' are added up, however it is split."""
        total = 0
        for index, tensor in enumerate(self.named().values()):
            words = tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32)
            total += (index + 1) * int(words.sum(dtype=torch.int64))
        return total

    def zero(self) -> None:
        for column in self.optimizer.locals.values():
            torch._foreach_zero_(column)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


class Compute:
    """A fixed amount of work, as long as a forward and backward pass when nothing else runs."""

    def __init__(self, seconds: float) -> None:
        self._operand = torch.rand(512, 512)
        self._run(3)
        begin = time.perf_counter()
        self._run(10)
        self.count = max(1, round(seconds / ((time.perf_counter() - begin) / 10)))

    def _run(self, count: int) -> None:
        for _ in range(count):
            torch.mm(self._operand, self._operand)

    def __call__(self) -> None:
        self._run(self.count)


def step(trained: Trained, compute: Compute, before_update: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the whole step, and of the wait within it."""
    begin = time.perf_counter()
    compute()
    ready = time.perf_counter()
    before_update()
    waited = time.perf_counter() - ready
    trained.optimizer.step()
    return time.perf_counter() - begin, waited
