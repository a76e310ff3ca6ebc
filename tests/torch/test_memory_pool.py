"""What PyTorch needs to go on with kept memory: a pool (this PyTorch may have no GPU), and state made unwritten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keepstep
import keepstep.torch
import pytest
import torch
from keepstep.torch.optimizers import make_state


def model() -> torch.nn.Module:
    torch.manual_seed(3)
    made = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    made[1].bias.requires_grad_(False)
    return made


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "AdamW, amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
    "AdamW, fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD, momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


def described(optimizer: torch.optim.Optimizer) -> list[dict[str, tuple[torch.Size, torch.dtype, torch.device]]]:
    """Of all that takes memory."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [
        {key: (value.shape, value.dtype, value.device) for key, value in optimizer.state.get(parameter, {}).items()
         if isinstance(value, torch.Tensor)}
        for parameter in parameters
    ]  # fmt: skip


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_empty_state_is_the_state_that_a_step_makes(kind: str) -> None:
    first = model()
    made, by_step = OPTIMIZERS[kind](first.parameters()), OPTIMIZERS[kind](copy.deepcopy(first).parameters())
    before = [parameter.clone() for parameter in first.parameters()]
    keepstep.torch.empty_state(made)
    make_state(by_step)
    assert described(made) == described(by_step)
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), before, strict=True)), "no parameter is written"


# What a load would make is there already: it makes no step, which would write.
def test_a_load_adds_nothing_to_empty_state(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = OPTIMIZERS["Adam"](model().parameters())
    keepstep.torch.empty_state(optimizer)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: pytest.fail("a step"))
    make_state(optimizer)


def test_other_optimizers_are_refused() -> None:
    with pytest.raises(TypeError, match="RMSprop makes its state by a step"):
        keepstep.torch.empty_state(torch.optim.RMSprop(model().parameters()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch has a GPU")
def test_without_cuda_a_pool_is_refused_by_name(tmp_path: Path) -> None:
    class Open:
        """A Checkpointer that must not be asked."""

    with pytest.raises(keepstep.KeepstepError, match="leave out memory_pool") as refused:
        keepstep.torch.memory_pool(Open())  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.reason) == ("FAILED_PRECONDITION", "NO_CUDA")
