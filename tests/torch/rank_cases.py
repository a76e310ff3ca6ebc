"""What single ranks do in test_ranks.py, run by tests/torch/worker.py. Each returns what it saw."""

from __future__ import annotations

import os
import signal
from typing import Any

import keepstep
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tests.torch.model import Block

OPEN: dict[str, keepstep.Checkpointer] = {}


def outcome(handle: keepstep.SaveHandle, seconds: float = 60) -> tuple[str, str]:
    failure = handle.exception(seconds)
    return ("COMMITTED", "") if failure is None else (failure.reason, str(failure))


def same_local_names(directory: str, layout: str) -> Any:
    """Two pipeline stages whose modules call their weights alike, first as they are, then told apart."""
    stage: Any = nn.Linear(4, 4)
    rank = dist.get_rank()
    number = rank
    if layout == "tp":
        mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("pp", "tp"))
        number = mesh.get_local_rank("pp")
        stage = {"weight": distribute_tensor(torch.zeros(4, 4), mesh["tp"], [Shard(0)])}
    with keepstep.Checkpointer(directory) as ck:
        ck.register(model=stage)
        first = outcome(ck.save(1))
        ck.register(model={f"stage{number}": stage})
        return first, outcome(ck.save(2))


def statistics_differ(directory: str) -> Any:
    """Batch norm on each replica's own data, not synchronised; and then a weight that differs, which must not."""
    torch.manual_seed(0)
    net = DistributedDataParallel(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), broadcast_buffers=False)
    net(torch.randn(8, 3) + dist.get_rank())
    mean = net.module[1].running_mean.clone()
    with keepstep.Checkpointer(directory) as ck:
        ck.register(model=net)
        first = outcome(ck.save(1))
        stored = keepstep.open(directory).tensor("1.running_mean").numpy()
    with torch.no_grad():
        net.module[0].weight += dist.get_rank()
    with keepstep.Checkpointer(f"{directory}-weights") as ck:
        ck.register(model=net.module, replicated=range(dist.get_world_size()))
        second = outcome(ck.save(1))
    return first, second, mean.tolist(), stored.tolist()


def only_rank_zero(directory: str) -> Any:
    """The classic mistake: `if rank == 0: ck.save(step)`."""
    net = DistributedDataParallel(nn.Linear(2, 2))
    with keepstep.Checkpointer(directory, max_failures=10) as ck:
        ck.register(model=net)
        first = ck.save(1).exception(60)
        handles = [ck.save(step) for step in (2, 3)] if dist.get_rank() == 0 else []
        pending = handles[0].state if handles else ""
        dist.barrier()
        if dist.get_rank():
            ck.close()
        dist.barrier()
        return str(first), pending, [outcome(handle) for handle in handles]


def replaced_local(directory: str) -> Any:
    """FSDP2 may give a parameter another local tensor after `register`, at its lazy initialisation."""
    net = Block(0.0)
    fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    with keepstep.Checkpointer(directory) as ck:
        ck.register(model=net)
        weight = net.up.weight
        weight._local_tensor = torch.full_like(weight._local_tensor, 7.0)
        return outcome(ck.save(1))


def open_and_save(directory: str) -> str:
    """A running job, which stays open for what comes."""
    ck = keepstep.Checkpointer(directory)
    OPEN[directory] = ck
    ck.register(model=DistributedDataParallel(nn.Linear(2, 2)))
    return outcome(ck.save(1))[0]


def go_on(directory: str) -> tuple[str, str]:
    """The next save of the job that open_and_save left running."""
    ck = OPEN.pop(directory)
    try:
        return outcome(ck.save(2))
    except keepstep.KeepstepError as error:
        return error.reason, str(error)
    finally:
        ck.close()


def take_over(directory: str) -> str:
    """Another launch on the same directory, of one rank, while the first one runs."""
    with keepstep.Checkpointer(directory, rank=0, world_size=1) as ck:
        ck.register(model=nn.Linear(2, 2))
        assert ck.load() == 1
        return outcome(ck.save(2))[0]


def in_a_fork(directory: str) -> str:
    """A data-loader worker that was forked from the trainer, and saves."""
    with keepstep.Checkpointer(directory) as ck:
        ck.register(model=nn.Linear(2, 2))
        ck.save(1).result(60)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                ck.save(2)
                told = "saved"
            except keepstep.KeepstepError as error:
                told = f"{error.reason}: {error}"
            os.write(write, told.encode())
            os._exit(0)
        os.close(write)
        told = os.read(read, 4096).decode()
        os.close(read)
        os.waitpid(child, 0)
        return told if outcome(ck.save(3))[0] == "COMMITTED" else "the trainer was hurt"


def preempted(directory: str) -> Any:
    """SIGTERM on one rank in the middle of training: at which step each rank saves, and which was told to end."""
    net = DistributedDataParallel(nn.Linear(2, 2))
    with keepstep.Checkpointer(directory) as ck:
        ck.register(model=net)
        for step in range(1, 100_000):
            dist.barrier()
            if step == 5 and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if ck.should_save(step):
                return step, outcome(ck.save(step))[0], ck.preempted
    raise AssertionError("nobody was told to save")


def verdicts(directory: str) -> list[tuple[int, str]]:
    """At which of its saves each rank raises, and why, when rank 1 calls its second one by another step."""
    raised = []
    with keepstep.Checkpointer(directory, on_error="raise") as ck:
        ck.register(model=DistributedDataParallel(nn.Linear(8, 8)))
        for step in range(1, 7):
            try:
                ck.save(step + 100 if step == 2 and dist.get_rank() == 1 else step)
            except keepstep.SaveFailed as error:
                raised.append((step, error.reason))
    return raised
