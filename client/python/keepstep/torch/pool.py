"""PyTorch tensors in GPU memory that the daemon owns, for warm restart (docs/pytorch.md, "Warm restart").

    pool = keepstep.torch.memory_pool(checkpointer)
    with torch.cuda.use_mem_pool(pool), torch.device("meta"):
        model = Model()
    with torch.cuda.use_mem_pool(pool):
        model.to_empty(device="cuda")
        optimizer = torch.optim.AdamW(model.parameters())
        keepstep.torch.empty_state(optimizer)
    checkpointer.register(model=model, optimizer=optimizer)
    step = checkpointer.load()

Nothing may write what the pool gave before that load.
"""

from __future__ import annotations

from typing import Any

import torch

from keepstep import _ffi
from keepstep.checkpointer import Checkpointer
from keepstep.errors import KeepstepError

_allocators: list[Any] = []  # a pool calls its allocator for as long as it has memory: maybe to the process's end


def memory_pool(checkpointer: Checkpointer) -> torch.cuda.MemPool:
    """A pool for `torch.cuda.use_mem_pool` whose memory comes from `checkpointer.device_alloc`.

    What is allocated from it stays valid when the Checkpointer is closed. One Checkpointer of a process at a time gives
    memory: that of the last call.

    Raises:
        KeepstepError: FAILED_PRECONDITION (NO_CUDA): this PyTorch has none, or is older than `torch.cuda.MemPool`.
    """
    if not torch.cuda.is_available() or not hasattr(torch.cuda, "MemPool"):
        built = torch.version.cuda or "the CPU alone"
        raise KeepstepError(
            f"PyTorch {torch.__version__} is built for {built} and sees no GPU here: memory_pool needs one, and "
            "torch.cuda.MemPool; without it leave out memory_pool, and tensors are saved and loaded as usual.",
            code="FAILED_PRECONDITION",
            reason="NO_CUDA",
        )
    checkpointer._client.use_for_pool()
    allocator = torch.cuda.memory.CUDAPluggableAllocator(_ffi.library_path(), "ks_pool_alloc", "ks_pool_free")
    _allocators.append(allocator)
    return torch.cuda.MemPool(allocator.allocator())  # type: ignore[no-untyped-call]


def empty_state(optimizer: torch.optim.Optimizer) -> None:
    """State for every parameter that lacks it, made without writing: what is in the memory stays there.

    New memory of the pool holds zeroes, which is the state of an optimizer that has made no step; memory that was kept
    holds the state that it had. For Adam, AdamW and SGD.

    Raises:
        TypeError: another kind of optimizer: its first step makes its state, and writes.
    """
    kind = type(optimizer)
    if kind not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        raise TypeError(f"{kind.__name__} makes its state by a step, which would write kept memory; empty_state knows "
                        "Adam, AdamW and SGD")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and parameter not in optimizer.state:
                optimizer.state[parameter] = _empty_sgd(parameter, group) if kind is torch.optim.SGD else _empty_adam(
                    parameter, group)


def _like(parameter: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(parameter, memory_format=torch.preserve_format, requires_grad=False)


def _empty_sgd(parameter: torch.Tensor, group: dict[str, Any]) -> dict[str, Any]:
    return {"momentum_buffer": _like(parameter)} if group["momentum"] else {}


def _empty_adam(parameter: torch.Tensor, group: dict[str, Any]) -> dict[str, Any]:
    on_device = group["capturable"] or group["fused"]
    step = torch.empty((), dtype=torch.float32, device=parameter.device) if on_device else torch.zeros(())
    state = {"step": step, "exp_avg": _like(parameter), "exp_avg_sq": _like(parameter)}
    if group["amsgrad"]:
        state["max_exp_avg_sq"] = _like(parameter)
    return state
