"""Tensors in GPU memory for trainers of these tests, laid out as frameworks lay them out, and their known content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fake_cuda.cuda import Gpu, Memory

MIB = 1 << 20
Array = NDArray[Any]
State = dict[str, Any]  # what is registered: GpuTensor or ndarray


@dataclass(eq=False)
class GpuTensor:
    """A strided array in `memory`, as CuPy would show one."""

    memory: Memory
    offset_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None = None  # bytes; None: row-major

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": self.shape, "typestr": self.dtype.str, "strides": self.strides,
                "data": (self.memory.pointer + self.offset_bytes, False)}

    def _host(self, span: Array) -> Array:
        """The elements in `span`, the bytes that they span."""
        if self.strides is None:
            return np.ndarray(self.shape, self.dtype, span)
        return np.ndarray(self.shape, self.dtype, span, strides=self.strides)

    @property
    def _span_bytes(self) -> int:
        if 0 in self.shape:
            return 0
        strides = self.strides or np.empty(self.shape, self.dtype).strides
        last = sum((extent - 1) * stride for extent, stride in zip(self.shape, strides, strict=True))
        return last + self.dtype.itemsize

    def get(self) -> Array:
        """A copy of the elements."""
        return self._host(self.memory.read(self._span_bytes, self.offset_bytes)).copy()

    def set(self, values: Array) -> None:
        """Elements between its own stay as they are."""
        span = self.memory.read(self._span_bytes, self.offset_bytes)
        self._host(span)[...] = values
        self.memory.write(span, self.offset_bytes)


F32, U16 = np.dtype("f4"), np.dtype("u2")


def one_each(gpu: Gpu) -> State:
    """One allocation for each tensor, odd sizes, one empty."""
    shapes = {"w": (1021, 517), "b": (517,), "scalar": (), "empty": (0, 7), "big": (1500, 1024)}
    sizes = {name: max(4, 4 * int(np.prod(shape))) for name, shape in shapes.items()}
    return {name: GpuTensor(gpu.alloc(sizes[name]), 0, shape, F32) for name, shape in shapes.items()}


def many(gpu: Gpu) -> State:
    """A caching allocator's block: tensors at any offset, side by side."""
    block, at, state = gpu.alloc(8 * MIB), 0, {}
    for index in range(200):
        shape = (3 + index % 17, 1 + index * 7 % 301)
        state[f"layer{index}.w"] = GpuTensor(block, at, shape, U16)
        at += 2 * shape[0] * shape[1]
    return state


def segment(gpu: Gpu) -> State:
    """An expandable segment of 2 MiB pieces; tensors begin and end anywhere in it."""
    pieces, state = gpu.alloc_pieces([2 * MIB] * 9), {}
    for index, (at, shape) in enumerate([(0, (700, 1000)), (3 * MIB + 4, (1500, 1024)), (10 * MIB - 8, (4,)),
                                         (10 * MIB + 256, (1024, 1500)), (18 * MIB - 400, (100,))]):
        state[f"w{index}"] = GpuTensor(pieces, at, shape, F32)
    return state


def views(gpu: Gpu) -> State:
    """Columns of one matrix, a transposed one, every third row."""
    block = gpu.alloc(4 * MIB)
    return {
        "left": GpuTensor(block, 0, (500, 300), F32, (4 * 1000, 4)),
        "right": GpuTensor(block, 4 * 300, (500, 700), F32, (4 * 1000, 4)),
        "transposed": GpuTensor(block, 2 * MIB, (200, 100), F32, (4, 4 * 200)),
        "rows": GpuTensor(block, 3 * MIB, (50, 64), F32, (4 * 64 * 3, 4)),
    }


def pool(gpu: Gpu) -> State:
    """Memory without a handle of any kind."""
    with gpu.stream() as stream:
        return {name: GpuTensor(gpu.alloc_from_pool(3 * MIB, stream), 0, (750, 1024), F32) for name in ("w", "m")}


def mixed(gpu: Gpu) -> State:
    """Everything at once, with host memory beside it."""
    state: State = {"host": np.zeros((300, 1000), np.float32), "step": np.zeros((), np.int64)}
    for layout in (one_each, many, segment, views, pool):
        state.update({f"{layout.__name__}.{name}": tensor for name, tensor in layout(gpu).items()})
    return state


def two_gpus(gpu: Gpu) -> State:
    """A model over two GPUs of one process."""
    state = {f"a.{name}": tensor for name, tensor in one_each(gpu).items()}
    other = Gpu(1)
    state.update({f"b.{name}": tensor for name, tensor in {**one_each(other), **segment(other)}.items()})
    gpu.use()
    return state


LAYOUTS: dict[str, Callable[[Gpu], State]] = {
    layout.__name__: layout for layout in (one_each, many, segment, views, pool, mixed, two_gpus)
}


def expected(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], step: int) -> Array:
    """What the tensor holds after `step` updates: every bit of it random, but known."""
    seed = [step, *name.encode()]
    count = int(np.prod(shape))
    return np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8).view(dtype).reshape(shape)


def update(state: State, step: int) -> None:
    for name, tensor in state.items():
        values = expected(name, tensor.shape, tensor.dtype, step)
        if isinstance(tensor, GpuTensor):
            tensor.set(values)
        else:
            tensor[...] = values


def differing(state: State, step: int) -> list[str]:
    """The tensors that do not hold, bit for bit, what they hold after `step` updates."""
    found = []
    for name, tensor in state.items():
        held = tensor.get() if isinstance(tensor, GpuTensor) else tensor
        if held.tobytes() != expected(name, tensor.shape, tensor.dtype, step).tobytes():
            found.append(name)
    return found
