"""Arrays for a rank's parts, and what Keepstep is told about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keepstep
import numpy as np

from tests.quickstart.layouts import Index, Part, Shape
from tests.quickstart.model import Array, digest


def _extent(box: Index) -> Shape:
    return tuple(side.stop - side.start for side in box)


@dataclass(frozen=True)
class Held:
    """One part in memory: a view per box, or one array for a flat range; views may share an allocation."""

    part: Part
    shape: Shape
    views: tuple[Array, ...]

    def digest(self) -> str:
        return digest(*self.views)

    def fill(self, tensor: Array) -> None:
        """With the part's elements of the whole tensor."""
        for view, piece in zip(self.views, self.pieces(tensor), strict=True):
            view[...] = piece

    def pieces(self, tensor: Array) -> tuple[Array, ...]:
        """The same elements of another tensor of this shape, view by view."""
        if self.part.flat is not None:
            return (tensor.reshape(-1)[slice(*self.part.flat)],)
        return tuple(tensor[box] for box in self.part.boxes)

    def declared(self) -> keepstep.Sharded:
        """What `Checkpointer.register` is given."""
        if self.part.flat is not None:
            return keepstep.flat(self.views[0], self.shape, self.part.flat[0])
        boxes = list(zip(self.part.boxes, self.views, strict=True))
        if len(boxes) > 1:
            return keepstep.pieces(self.shape, boxes)
        told = keepstep.piece(self.views[0], self.shape, self.part.boxes[0])
        if self.part.replicated_over:
            return keepstep.replica(self.views[0], self.part.replicated_over, of=told)
        return told


def allocate(part: Part, shape: Shape, dtype: np.dtype[Any]) -> Held:
    """Fresh memory for one part; several boxes lie one behind the other in one allocation."""
    if part.flat is not None:
        return Held(part, shape, (np.empty(part.flat[1] - part.flat[0], dtype),))
    return Held(part, shape, tuple(stacked([_extent(box) for box in part.boxes], dtype)))


def stacked(extents: Iterable[Shape], dtype: np.dtype[Any]) -> list[Array]:
    """Arrays of these shapes as views of one allocation."""
    listed = list(extents)
    sizes = [int(np.prod(extent)) for extent in listed]
    memory, ends = np.empty(sum(sizes), dtype), np.cumsum(sizes)
    return [memory[end - size : end].reshape(extent) for end, size, extent in zip(ends, sizes, listed, strict=True)]


def fuse_attention(parts: Mapping[str, Part], shapes: Mapping[str, Shape], held: dict[str, Held]) -> None:
    """Puts query, key and value of each layer into one allocation, as fused attention kernels want them."""
    for name in parts:
        if ".query." not in name or parts[name].flat is not None:
            continue
        names = [name.replace(".query.", f".{one}.") for one in ("query", "key", "value")]
        extents = [_extent(parts[one].boxes[0]) for one in names]
        for one, view in zip(names, stacked(extents, held[name].views[0].dtype), strict=True):
            held[one] = Held(parts[one], shapes[one], (view,))
