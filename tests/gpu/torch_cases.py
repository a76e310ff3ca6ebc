"""Tensors of PyTorch, saved and compared with copies on the host.

`python -m tests.gpu.torch_cases DIRECTORY ADDRESS DEVICE` prints {"cases": {case: what is wrong, or ""}, "paths": how
memory reached the daemon}. On the device "cpu" the cases run as they are, and show nothing of a GPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import keepstep
import torch

State = dict[str, torch.Tensor]
_SEED = 4711


def _random(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """On the host, every bit of it random."""
    count = 1
    for extent in shape:
        count *= extent
    item_bytes = torch.empty(0, dtype=dtype).element_size()
    limit = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, limit, (count * item_bytes,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its bytes on the host."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).clone()


def _differing(state: State, copies: State) -> str:
    return ", ".join(name for name, tensor in state.items() if not torch.equal(_bits(tensor), copies[name]))


class Cases:
    def __init__(self, checkpointer: keepstep.Checkpointer, device: torch.device) -> None:
        self._checkpointer = checkpointer
        self._device = device
        self._generator = torch.Generator().manual_seed(_SEED)
        self._step = 0

    def _put(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device).copy_(_random(self._generator, *shape, dtype=dtype))

    def _spoil(self, state: State) -> None:
        for tensor in state.values():
            tensor.zero_()

    def _round_trip(self, state: State, mutate: Callable[[], None] | None = None) -> str:
        """Saves; `mutate` runs as soon as the gate opens; loads. What differs from copies of before the save."""
        self._step += 1
        copies = {name: _bits(tensor) for name, tensor in state.items()}
        self._checkpointer.register(model=state)
        handle = self._checkpointer.save(self._step)
        self._checkpointer.before_update()
        if mutate is not None:
            mutate()
        handle.result()
        self._spoil(state)
        self._checkpointer.load(self._step)
        return _differing(state, copies)

    def sizes(self) -> str:
        """1 byte to 64 MiB, every type, one without elements."""
        types = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float64)
        state = {f"{str(dtype).split('.')[1]}.{size}": self._put(size, dtype=dtype)
                 for dtype in types for size in (1, 7, 1000, 300_001)}
        state["large"] = self._put(4096, 4096)
        state["scalar"] = self._put()
        state["empty"] = self._put(0, 5)
        return self._round_trip(state)

    def thousands(self) -> str:
        """3,000 small tensors, which share segments."""
        return self._round_trip({f"layers.{index}": self._put(1 + index * 97 % 5000) for index in range(3000)})

    def views(self) -> str:
        """Slices, a transposed matrix, steps, and a tensor in the middle of another's storage."""
        base = self._put(1024, 1024)
        deep = self._put(64, 32, 48)
        state = {"columns": base[:512, 100:900], "transposed": base[512:, :].t(), "steps": deep[::3, :, ::5],
                 "permuted": self._put(20, 30, 40).permute(2, 0, 1), "middle": self._put(100_000)[33:70_000]}
        return self._round_trip(state)

    def optimizer_at_the_gate(self) -> str:
        """An update of every element as soon as the gate opens."""
        state = {f"w{index}": self._put(1024, 1024) for index in range(24)}

        def update() -> None:
            for tensor in state.values():
                tensor.mul_(0.5).add_(1)

        return self._round_trip(state, update)

    def queued_work(self) -> str:
        """What is queued when save is called, and has not run yet, belongs to the saved state."""
        left, right = torch.ones(2048, 2048, device=self._device), torch.ones(2048, 2048, device=self._device)
        state = {"w": torch.zeros(2048, 2048, device=self._device)}
        self._checkpointer.register(model=state)
        self._step += 1
        for _ in range(20):
            torch.matmul(left, right, out=state["w"])
        state["w"].fill_(self._step)
        handle = self._checkpointer.save(self._step)
        self._checkpointer.before_update()
        state["w"].fill_(-1)
        handle.result()
        self._checkpointer.load(self._step)
        return "" if bool((state["w"] == self._step).all()) else "w"

    def freed_between_saves(self) -> str:
        """Tensors go, the allocator gives their memory back, others take their place."""
        found = []
        for round_number in range(4):
            state = {f"w{index}": self._put(700 + 100 * round_number, 1000) for index in range(8)}
            found.append(self._round_trip(state))
            self._checkpointer.register(model={"nothing": torch.zeros(1)})
            del state
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return ", ".join(one for one in found if one)

    def side_stream(self) -> str:
        """The current stream of the saving thread is another than the default one."""
        if self._device.type != "cuda":
            return self._round_trip({"w": self._put(512, 512)})
        stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(stream):
            state = {"w": self._put(2048, 2048)}

            def update() -> None:
                state["w"].add_(1)

            wrong = self._round_trip(state, update)
        stream.synchronize()
        return wrong


CASES: dict[str, Callable[[Cases], str]] = {
    "every size and type": Cases.sizes,
    "3,000 small tensors": Cases.thousands,
    "views": Cases.views,
    "an update as soon as the gate opens": Cases.optimizer_at_the_gate,
    "work queued before the save": Cases.queued_work,
    "memory given back between saves": Cases.freed_between_saves,
    "on a side stream": Cases.side_stream,
}


def main() -> int:
    directory, address, device = sys.argv[1:]
    with keepstep.Checkpointer(directory, daemon=address, gated=True, rng=False) as checkpointer:
        cases = Cases(checkpointer, torch.device(device))
        found, paths = {}, ""
        for name, case in CASES.items():
            found[name] = case(cases)
            if case is Cases.sizes:
                paths = checkpointer.memory_paths
        print(json.dumps({"cases": found, "paths": paths}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
