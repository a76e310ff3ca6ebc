"""Who holds what: the layout of the training job, and four others to restore into. Pure functions of shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.quickstart.model import FUSED, MOMENTS, Array, digest, moment_name

Shape = tuple[int, ...]
Index = tuple[slice, ...]

TRAINERS = 4
_COLUMN = (".query.weight", ".query.bias", ".key.weight", ".key.bias", ".value.weight", ".value.bias",
           ".intermediate.dense.weight", ".intermediate.dense.bias", "word_embeddings.weight")  # fmt: skip
_ROW = (".attention.output.dense.weight", ".output.dense.weight")


@dataclass(frozen=True)
class Part:
    """One rank's part of one tensor: boxes of it, or a range of its flattening."""

    boxes: tuple[Index, ...] = ()
    flat: tuple[int, int] | None = None
    replicated_over: tuple[int, ...] = ()

    def digest_of(self, tensor: Array) -> str:
        """Of this part, cut out of the whole tensor."""
        if self.flat is not None:
            return digest(tensor.reshape(-1)[slice(*self.flat)])
        return digest(*[tensor[box] for box in self.boxes])


@dataclass(frozen=True)
class Layout:
    """A world and, for each of its ranks, the parts that it holds, by tensor name."""

    title: str
    world_size: int
    part: Callable[[str, Shape, int], Part]

    def parts(self, shapes: Mapping[str, Shape], rank: int) -> dict[str, Part]:
        return {name: self.part(name, shape, rank) for name, shape in shapes.items()}


def _share(length: int, weights: tuple[int, ...], rank: int) -> slice:
    """A rank's run of `length` elements, in proportion to its weight; runs differ where it does not divide."""
    total, before = sum(weights), sum(weights[:rank])
    return slice(length * before // total, length * (before + weights[rank]) // total)


def _along(shape: Shape, dim: int, share: slice) -> Index:
    return tuple(share if at == dim else slice(0, extent) for at, extent in enumerate(shape))


def _even(world_size: int) -> tuple[int, ...]:
    return (1,) * world_size


def _flat(shape: Shape, world_size: int, rank: int) -> Part:
    share = _share(math.prod(shape), _even(world_size), rank)
    return Part(flat=(share.start, share.stop))


def is_moment(name: str) -> bool:
    return any(name.startswith(moment_name(moment, "")) for moment in MOMENTS)


def _base(name: str) -> str:
    """The weight that a moment belongs to."""
    return name.split(".", 2)[2] if is_moment(name) else name


def _split_dim(name: str) -> int | None:
    """The dimension along which training splits a weight; None: every rank holds it whole."""
    if name.endswith(_COLUMN):
        return 0
    return 1 if name.endswith(_ROW) else None


def _training(name: str, shape: Shape, rank: int) -> Part:
    if is_moment(name):
        return _flat(shape, TRAINERS, rank)
    if name == FUSED:
        half = shape[0] // 2
        share = _share(half, _even(TRAINERS), rank)
        halves = [slice(share.start + begin, share.stop + begin) for begin in (0, half)]
        return Part(boxes=tuple(_along(shape, 0, rows) for rows in halves))
    dim = _split_dim(name)
    if dim is None:
        return Part(boxes=(_along(shape, -1, slice(0)),), replicated_over=tuple(range(TRAINERS)))
    return Part(boxes=(_along(shape, dim, _share(shape[dim], _even(TRAINERS), rank)),))


def _whole(name: str, shape: Shape, rank: int) -> Part:
    return Part(boxes=(_along(shape, -1, slice(0)),))


def _other_dimension(name: str, shape: Shape, rank: int) -> Part:
    dim = 0 if len(shape) == 1 or _split_dim(_base(name)) == 1 else 1
    return Part(boxes=(_along(shape, dim, _share(shape[dim], _even(2), rank)),))


def _uneven(name: str, shape: Shape, rank: int) -> Part:
    return Part(boxes=(_along(shape, 0, _share(shape[0], (1, 2, 4), rank)),))


def _flat_ranges(name: str, shape: Shape, rank: int) -> Part:
    return _flat(shape, 4, rank)


TRAINING = Layout("four processes, tensor parallel", TRAINERS, _training)
RESTORES = {
    "whole": Layout("one process, whole", 1, _whole),
    "other": Layout("two, the other dimension split", 2, _other_dimension),
    "uneven": Layout("three, uneven (1:2:4)", 3, _uneven),
    "flat": Layout("four, flat ranges", 4, _flat_ranges),
}
