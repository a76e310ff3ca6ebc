"""Dealing items and blocks to another layout, against a naive stream, over many random layouts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from keepstep.dataloader import Block, Grid, deal, deal_blocks

CASES = 400


def stream(lists: Mapping[Any, Sequence[Any]], grid: Grid) -> list[Any]:
    """The items as a training job consumes them: step by step, in each step rank by rank, workers in turn."""
    queues = {place: list(items) for place, items in lists.items()}
    order = []
    for step in itertools.count():
        if not any(queues.values()):
            return order
        for dp in range(grid.dp):
            queue = queues.get((dp, step % grid.workers), [])
            if queue:
                order.append(queue.pop(0))
    raise AssertionError


def random_grid(draw: random.Random, cp: bool = False) -> Grid:
    return Grid(draw.randint(1, 5), draw.randint(1, 4), draw.randint(1, 4) if cp else 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_stream_stays_as_it_was(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(CASES // 4):
        old, new = random_grid(draw), random_grid(draw)
        numbers = itertools.count()
        lists: dict[tuple[int, int], list[int]] = {}
        whole = draw.randint(0, 40)  # as a job that deals its stream itself would have left it
        ragged = draw.random() < 0.5
        for number in range(whole):
            step, dp = divmod(number, old.dp)
            lists.setdefault((dp, step % old.workers), []).append(next(numbers))
        if ragged:
            place = (draw.randrange(old.dp), draw.randrange(old.workers))
            lists.setdefault(place, []).extend(itertools.islice(numbers, draw.randint(0, 7)))
        dealt = deal(lists, old, new)
        assert sorted(itertools.chain.from_iterable(dealt.values())) == sorted(
            itertools.chain.from_iterable(lists.values())
        )
        if (old.dp, old.workers) == (new.dp, new.workers):
            assert all(dealt[place] == list(items) for place, items in lists.items())
            continue
        assert stream(dealt, new) == ordered(lists, old)
        if not ragged:
            assert stream(dealt, new) == list(range(whole)) == stream(lists, old)
            assert deal(dealt, new, old) == {
                (dp, worker): lists.get((dp, worker), []) for dp in range(old.dp) for worker in range(old.workers)
            }


def ordered(lists: Mapping[tuple[int, int], Sequence[int]], grid: Grid) -> list[int]:
    """By step and rank, an item's step told by its place in its list alone."""
    keyed = [
        (number * grid.workers + worker, dp, item)
        for (dp, worker), items in lists.items()
        for number, item in enumerate(items)
    ]
    return [item for _, _, item in sorted(keyed)]


@pytest.mark.parametrize("seed", range(4))
def test_blocks_stay_together_whole_and_in_order(seed: int) -> None:
    draw = random.Random(100 + seed)
    for _ in range(CASES // 4):
        old, new = random_grid(draw, cp=True), random_grid(draw, cp=True)
        lists = packed(draw, old)
        dealt = deal_blocks(lists, old, new)
        before = [block for blocks in lists.values() for block in blocks]
        after = [block for blocks in dealt.values() for block in blocks]
        assert sorted(before, key=repr) == sorted(after, key=repr)
        homes: dict[Any, set[tuple[int, int]]] = {}
        for (dp, worker, _), blocks in dealt.items():
            for block in blocks:
                homes.setdefault(block.payload[0], set()).add((dp, worker))
            ranks = [tuple(block.payload) for block in blocks]
            if old != new:
                assert ranks == sorted(ranks), "samples in the stream's order, blocks ascending"
        assert all(len(places) == 1 for places in homes.values())
        if old.cp == new.cp:
            was = {tuple(block.payload): cp for (_, _, cp), blocks in lists.items() for block in blocks}
            assert all(was[tuple(block.payload)] == cp for (_, _, cp), blocks in dealt.items() for block in blocks)


def packed(draw: random.Random, grid: Grid) -> dict[tuple[int, int, int], list[Block]]:
    """Samples dealt to ranks and workers, their blocks anywhere among the context-parallel ranks."""
    lists: dict[tuple[int, int, int], list[Block]] = {}
    for number in range(draw.randint(0, 20)):
        step, dp = divmod(number, grid.dp)
        count = draw.randint(1, 6)
        for index in range(count):
            block = Block(step // grid.workers, index, count, draw.randint(0, 9), [number, index])
            lists.setdefault((dp, step % grid.workers, draw.randrange(grid.cp)), []).append(block)
    return lists


def test_long_samples_are_balanced_over_context_ranks() -> None:
    blocks = [Block(0, index, 8, 10, None) for index in range(8)]
    dealt = deal_blocks({(0, 0, 0): blocks}, Grid(1), Grid(1, 1, 4))
    assert [[block.index for block in dealt[0, 0, cp]] for cp in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_what_cannot_be_is_refused() -> None:
    one, two = Block(0, 0, 2, 1, None), Block(0, 1, 2, 1, None)
    for lists, told in (
        ({(0, 0, 0): [one]}, r"blocks \[0\] of 2"),
        ({(0, 0, 0): [one, two], (0, 0, 1): [two]}, r"blocks \[0, 1, 1\] of 2"),
        ({(3, 0, 0): [one, two]}, "no such rank"),
    ):
        with pytest.raises(ValueError, match=told):
            deal_blocks(lists, Grid(1, 1, 2), Grid(2, 1, 2))
    with pytest.raises(ValueError, match="where there are only 1"):
        deal({(1, 0): [1]}, Grid(1), Grid(2))
    with pytest.raises(ValueError, match="cannot be"):
        Block(0, 2, 2, 1, None)
    with pytest.raises(ValueError, match="at least 1"):
        Grid(0)
