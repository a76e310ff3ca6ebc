"""Values of PyTorch in extra state, as what JSON can hold, and PyTorch's random generators.

    {"$tensor": {"dtype": "bfloat16", "shape": [2], "data": base64}}   {"$dtype": "float32"}   {"$device": "cuda:0"}
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch

from keepstep.torch.tensors import local_of, memory


def pack(value: Any) -> dict[str, Any] | None:
    """None: no value of PyTorch. TypeError: one that extra state cannot hold."""
    if isinstance(value, torch.Tensor):
        host = local_of(value).detach().cpu()
        data = base64.b64encode(memory(host).tobytes()).decode()
        return {"$tensor": {"dtype": _name(host.dtype), "shape": list(host.shape), "data": data}}
    if isinstance(value, torch.dtype):
        return {"$dtype": _name(value)}
    if isinstance(value, torch.device):
        return {"$device": str(value)}
    return None


def unpack(kind: str, inner: Any) -> Any:
    """The way back, for a `kind` of KINDS; tensors come back on the CPU."""
    if kind == "$dtype":
        return _dtype(inner)
    if kind == "$device":
        return torch.device(inner)
    raw = torch.frombuffer(bytearray(base64.b64decode(inner["data"])) or bytearray(1), dtype=torch.uint8)
    dtype = _dtype(inner["dtype"])
    whole = raw[: len(raw) // dtype.itemsize * dtype.itemsize] if inner["data"] else raw[:0]
    return whole.view(dtype).reshape(inner["shape"])


KINDS = frozenset({"$tensor", "$dtype", "$device"})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"this version of PyTorch has no {name}")
    return found


def assign(current: Any, value: Any) -> Any:
    """`value` as what takes the place of `current`: a tensor is filled in place and stays, a number stays a number."""
    if isinstance(current, torch.Tensor):
        with torch.no_grad():
            current.copy_(value) if isinstance(value, torch.Tensor) else current.fill_(value)
        return current
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return value.item()
    return value


def rng_state() -> dict[str, Any]:
    """Of the CPU generator, and of each CUDA device that is in use."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = {str(torch.cuda.current_device()): torch.cuda.get_rng_state().numpy()}
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Gives back what rng_state returned; a device that this process lacks is left out."""
    torch.set_rng_state(torch.from_numpy(state["cpu"]))
    for generator in state.get("cuda", {}).values():
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.from_numpy(generator))
