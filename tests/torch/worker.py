"""One rank of a test's world: reads one command a line, runs it, answers with one line of JSON.

A command names a function of this module, or of another one, and its arguments. What `build` makes stays, by name,
until `drop`.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import logging
import socket
import traceback
from typing import Any

import keepstep
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.optim import ZeroRedundancyOptimizer

from tests.torch import layouts

KEPT: dict[str, layouts.Trainee] = {}


def build(name: str, layout: str, seed: int = 0, **options: Any) -> None:
    KEPT[name] = layouts.build(layout, seed, **options)


def drop() -> None:
    KEPT.clear()
    gc.collect()


def train(name: str, first: int, last: int) -> list[str]:
    """Updates first … last; the exact losses."""
    return [KEPT[name].step(step).hex() for step in range(first, last + 1)]


def train_saving(name: str, directory: str, last: int, at: int) -> list[str]:
    """Updates 1 … last with one save among them that training does not wait for; the exact losses."""
    losses = []
    with keepstep.Checkpointer(directory) as checkpointer:
        checkpointer.register(**KEPT[name].state())
        for step in range(1, last + 1):
            losses.append(KEPT[name].step(step).hex())
            if checkpointer.should_save(step, every=at) and step == at:
                checkpointer.save(step)
    return losses


def save(name: str, directory: str, step: int) -> int:
    with keepstep.Checkpointer(directory) as checkpointer:
        checkpointer.register(**KEPT[name].state())
        return checkpointer.save(step).result(60)


def load(name: str, directory: str, **options: Any) -> dict[str, Any]:
    with keepstep.Checkpointer(directory) as checkpointer:
        checkpointer.register(**KEPT[name].state())
        step = checkpointer.load(**options)
        report = checkpointer.last_load
    assert report is not None
    return {"step": step, "missing": report.missing, "unexpected": report.unexpected,
            "read": report.read_bytes, "unique": report.unique_bytes}


def digest(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} {hashlib.sha256(raw).hexdigest()[:16]}"


def digests(name: str) -> dict[str, str]:
    """Every tensor whole, as torch's own state-dict code gathers it, and every group option by parameter."""
    trainee = KEPT[name]
    options = StateDictOptions(full_state_dict=True)
    found = {key: digest(value) for key, value in get_model_state_dict(trainee.module, options=options).items()}
    if isinstance(trainee.optimizer, ZeroRedundancyOptimizer):
        return found | zero_digests(trainee)
    state = get_optimizer_state_dict(trainee.module, trainee.optimizer, options=options)
    for parameter, held in state["state"].items():
        found |= {f"optimizer.{parameter}.{key}": digest(value) for key, value in held.items()}
    for group in state["param_groups"]:
        for parameter in group["params"]:
            found |= {f"group.{parameter}.{key}": repr(group[key]) for key in ("lr", "weight_decay", "betas")
                      if key in group}
    return found


def zero_digests(trainee: layouts.Trainee) -> dict[str, str]:
    """ZeRO-1's own gathering, to rank 0, where parameters are numbers."""
    optimizer = trainee.optimizer
    optimizer.consolidate_state_dict(0)  # type: ignore[attr-defined]
    if dist.get_rank():
        return {}
    names = [name.removeprefix("module.") for name, _ in trainee.module.named_parameters()]
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{names[index]}.{key}": digest(value) for index, held in state.items()
            for key, value in held.items()}


def scramble(name: str) -> None:
    """What is there before a load must not matter."""
    trainee = KEPT[name]
    with torch.no_grad():
        for tensor in [*trainee.module.parameters(), *trainee.module.buffers()]:
            local = getattr(tensor, "_local_tensor", tensor)
            local.view(torch.uint8).random_(0, 3) if local.numel() and local.dim() else local.zero_()


def serve(path: str, rank: int, size: int, store: str) -> None:
    """One rank: answers the commands of its World until that hangs up."""
    logging.basicConfig(level=logging.INFO, format=f"rank {rank}: %(message)s")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        stream = connection.makefile("rw")
        stream.write(f"{rank}\n")
        stream.flush()
        dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
        for line in stream:
            stream.write(json.dumps(answer(json.loads(line))) + "\n")
            stream.flush()


def answer(told: dict[str, Any]) -> dict[str, Any]:
    module = importlib.import_module(told["module"] or __name__)
    try:
        return {"ok": getattr(module, told["function"])(**told["arguments"])}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
