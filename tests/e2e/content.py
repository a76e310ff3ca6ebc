"""What a model holds after a step, computed from the step alone, so that any process can tell right from wrong."""

from __future__ import annotations

from typing import Any

import keepstep
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROWS, COLUMNS = 96, 16 * 1024
WEIGHT, MOMENT, BIAS = "layers.0.weight", "optimizer.layers.0.weight.exp_avg", "layers.0.bias"
SHAPES = {WEIGHT: (ROWS, COLUMNS), MOMENT: (ROWS, COLUMNS), BIAS: (COLUMNS,)}
_SALT = {WEIGHT: 1, MOMENT: 2, BIAS: 3}


def expected(name: str, step: int) -> Array:
    """The whole tensor after `step` updates, uint32: every element differs from that of every other step."""
    size = int(np.prod(SHAPES[name]))
    mixed = np.arange(size, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(step * 40503 + _SALT[name] * 977)
    return mixed.reshape(SHAPES[name])


def bounds(extent: int, rank: int, world: int) -> tuple[int, int]:
    """Rank's share of `extent`, the first ones longer by one where it does not divide."""
    base, extra = divmod(extent, world)
    begin = rank * base + min(rank, extra)
    return begin, begin + base + (rank < extra)


class Model:
    """One rank's tensors: rows of the weight, a flat range of its moment, a replica of the bias."""

    def __init__(self, rank: int, world: int) -> None:
        self._rows = bounds(ROWS, rank, world)
        self._flat = bounds(ROWS * COLUMNS, rank, world)
        self._world = world
        self.weight = np.zeros((self._rows[1] - self._rows[0], COLUMNS), np.uint32)
        self.moment = np.zeros(self._flat[1] - self._flat[0], np.uint32)
        self.bias = np.zeros(COLUMNS, np.uint32)

    def state(self) -> dict[str, dict[str, Any]]:
        """What `Checkpointer.register` takes."""
        begin, end = self._rows
        return {
            "model": {
                WEIGHT: keepstep.piece(self.weight, SHAPES[WEIGHT], np.s_[begin:end]),
                BIAS: keepstep.replica(self.bias, range(self._world)) if self._world > 1 else self.bias,
            },
            "optimizer": {MOMENT.removeprefix("optimizer."): keepstep.flat(self.moment, SHAPES[MOMENT], self._flat[0])},
        }

    def local(self, step: int) -> dict[str, Array]:
        """The values that this rank's arrays have after `step`."""
        return {
            "weight": expected(WEIGHT, step)[self._rows[0] : self._rows[1]],
            "moment": expected(MOMENT, step).reshape(-1)[self._flat[0] : self._flat[1]],
            "bias": expected(BIAS, step),
        }

    def update(self, step: int) -> None:
        """Brings every array to `step`, in place."""
        for name, values in self.local(step).items():
            np.copyto(getattr(self, name), values)

    def holds(self, step: int) -> bool:
        return all(np.array_equal(getattr(self, name), values) for name, values in self.local(step).items())
