"""How ordered items of data-loader workers move to another number of ranks and workers. Pure; no I/O.

The stream that a job trains on has one order: step by step, and within a step rank by rank. A rank takes its steps from
its workers in turn, so item i of worker w of rank d is of step i · workers + w. Dealing that stream out again keeps it
as it is, whatever the numbers: nothing is lost, nothing comes twice, and each new list is in the stream's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")
Place = tuple[int, int]  # data-parallel rank, worker
CpPlace = tuple[int, int, int]  # … and context-parallel rank


@dataclass(frozen=True)
class Grid:
    """How many data-parallel ranks, workers of each, and context-parallel ranks there are."""

    dp: int
    workers: int = 1
    cp: int = 1

    def __post_init__(self) -> None:
        if min(self.dp, self.workers, self.cp) < 1:
            raise ValueError(f"{self} has no place for anything; each number is at least 1")


@dataclass(frozen=True)
class Block:
    """One of the `count` blocks of a long sample, which lie on several context-parallel ranks.

    `sample` numbers the samples of a data-parallel rank's worker in the order in which they will be trained on; `size`
    is what the block weighs (its tokens).
    """

    sample: int
    index: int
    count: int
    size: int
    payload: Any

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count or self.size < 0:
            raise ValueError(f"block {self.index} of {self.count}, of size {self.size}, cannot be")


def deal(lists: Mapping[Place, Sequence[Item]], old: Grid, new: Grid) -> dict[Place, list[Item]]:
    """The items of every (rank, worker) of `old` as the lists of every (rank, worker) of `new`.

    The same numbers again give the same lists. ValueError: a list of a place that `old` does not have.
    """
    places = {(dp, worker) for dp in range(old.dp) for worker in range(old.workers)}
    if set(lists) - places:
        raise ValueError(f"items of {sorted(set(lists) - places)}, where there are only {old.dp} ranks × {old.workers}")
    if (old.dp, old.workers) == (new.dp, new.workers):
        return {place: list(lists.get(place, ())) for place in sorted(places)}
    stream = sorted(
        ((number * old.workers + worker, dp), item)
        for (dp, worker), items in lists.items()
        for number, item in enumerate(_Opaque(item) for item in items)
    )
    dealt: dict[Place, list[Item]] = {(dp, worker): [] for dp in range(new.dp) for worker in range(new.workers)}
    for number, (_, item) in enumerate(stream):
        step, dp = divmod(number, new.dp)
        dealt[dp, step % new.workers].append(item.value)
    return dealt


@dataclass(frozen=True)
class _Opaque:
    """An item that the sort of the stream never compares: no two keys are equal."""

    value: Any


def deal_blocks(lists: Mapping[CpPlace, Sequence[Block]], old: Grid, new: Grid) -> dict[CpPlace, list[Block]]:
    """The same for samples cut in blocks: a sample stays together on one data-parallel rank.

    With the same number of context-parallel ranks a block keeps its rank; with another, the blocks of a sample are cut
    into runs of about equal size, in order. In every list samples are in the stream's order and blocks ascend.

    Raises:
        ValueError: a block is missing or there twice.
    """
    places = {(dp, worker, cp) for dp in range(old.dp) for worker in range(old.workers) for cp in range(old.cp)}
    if set(lists) - places:
        raise ValueError(f"blocks of {sorted(set(lists) - places)}, where there is no such rank")
    if old == new:
        return {place: list(lists.get(place, ())) for place in sorted(places)}
    samples = {
        (dp, worker): _samples([lists.get((dp, worker, cp), ()) for cp in range(old.cp)])
        for dp in range(old.dp)
        for worker in range(old.workers)
    }
    dealt: dict[CpPlace, list[Block]] = {
        (dp, worker, cp): [] for dp in range(new.dp) for worker in range(new.workers) for cp in range(new.cp)
    }
    for (dp, worker), whole in deal(samples, old, new).items():
        for sample in whole:
            for cp, block in sample if new.cp == old.cp else _runs([block for _, block in sample], new.cp):
                dealt[dp, worker, cp].append(block)
    return dealt


def _samples(by_cp: Sequence[Sequence[Block]]) -> list[list[tuple[int, Block]]]:
    """Samples in order: (context-parallel rank, block) of each, blocks ascending."""
    found: dict[int, list[tuple[int, Block]]] = {}
    for cp, blocks in enumerate(by_cp):
        for block in blocks:
            found.setdefault(block.sample, []).append((cp, block))
    for sample, parts in found.items():
        parts.sort(key=lambda part: part[1].index)
        indices = [block.index for _, block in parts]
        if indices != list(range(parts[0][1].count)):
            raise ValueError(f"sample {sample} has blocks {indices} of {parts[0][1].count}")
    return [found[sample] for sample in sorted(found)]


def _runs(blocks: Sequence[Block], ranks: int) -> list[tuple[int, Block]]:
    total = sum(block.size for block in blocks)
    placed, before = [], 0
    for number, block in enumerate(blocks):
        middle = (2 * before + block.size) * ranks // (2 * total) if total else number * ranks // len(blocks)
        placed.append((min(middle, ranks - 1), block))
        before += block.size
    return placed
