"""Data loaders saved by one layout and resumed by another: nothing lost, nothing twice, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest
import torch
from keepstep.dataloader import Block, items_state, state
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from tests.harness.daemon import Daemon


def world(daemon: Daemon, directory: Path, size: int, work: Callable[[keepstep.Checkpointer, int], Any]) -> list[Any]:
    """`work` on every rank of a world, each a thread of this process; what each returned."""
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            with keepstep.Checkpointer(
                directory, daemon=daemon.address, rank=rank, world_size=size, rng=False, on_error="raise"
            ) as checkpointer:
                results[rank] = work(checkpointer, rank)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]
    return results


def save(daemon: Daemon, directory: Path, extras: Sequence[Any], step: int = 1) -> None:
    """One save of a world in which rank r registers extras[r]."""

    def work(checkpointer: keepstep.Checkpointer, rank: int) -> None:
        checkpointer.register(model={f"w{rank}": np.ones(2)}, dataloader=extras[rank])
        checkpointer.save(step).result(60)

    world(daemon, directory, len(extras), work)


def load(daemon: Daemon, directory: Path, extras: Sequence[Any]) -> None:
    def work(checkpointer: keepstep.Checkpointer, rank: int) -> None:
        checkpointer.register(model={"w0": np.zeros(2)} if rank == 0 else {}, dataloader=extras[rank])
        assert checkpointer.load() == 1

    world(daemon, directory, len(extras), work)


class Stream:
    """A loader that reads ahead into a queue of each worker: item k of the stream is k."""

    def __init__(self, dp: tuple[int, int], workers: int, position: int = 0) -> None:
        self.dp, self.position = dp, position
        self.queues: list[list[Any]] = [[] for _ in range(workers)]

    def shared_state(self) -> Any:
        return {"position": self.position}

    def items(self) -> Sequence[Sequence[Any]]:
        return self.queues

    def resume(self, shared: Any, items: Sequence[Sequence[Any]]) -> None:
        self.position = shared["position"]
        self.queues = [list(listed) for listed in items]


def test_items_are_dealt_to_another_number_of_ranks_and_workers(daemon: Daemon, home: Path) -> None:
    old = [Stream((rank, 3), 2, position=17) for rank in range(3)]
    for item in range(17):
        step, dp = divmod(item, 3)
        old[dp].queues[step % 2].append({"number": item, "tokens": np.arange(item)})
    save(daemon, home / "job", [state(loader, dp=loader.dp) for loader in old])
    new = [Stream((rank, 2), 1) for rank in range(2)]
    load(daemon, home / "job", [state(loader, dp=loader.dp) for loader in new])
    assert [[item["number"] for item in loader.queues[0]] for loader in new] == [
        list(range(0, 17, 2)),
        list(range(1, 17, 2)),
    ]
    assert all(np.array_equal(item["tokens"], np.arange(item["number"])) for item in new[0].queues[0])
    assert {loader.position for loader in new} == {17}
    stored = keepstep.open(home / "job").extra("dataloader", 1)
    assert [entry[2]["number"] for entry in stored[1:]] == [1, 7, 13, 4, 10, 16], "items are stored one by one"
    assert stored[0]["shared"] is None, "what is the same everywhere is stored once"


def test_context_parallel_ranks_share_items_and_split_blocks(daemon: Daemon, home: Path) -> None:
    def block(sample: int, index: int, count: int) -> Block:
        return Block(sample, index, count, 4, f"{sample}.{index}")

    def place(rank: int) -> dict[str, Any]:
        return {"dp": (rank // 2, 2), "cp": (rank % 2, 2)}

    old = [Stream((rank // 2, 2), 1, position=4) for rank in range(4)]
    for rank, loader in enumerate(old):
        first = rank // 2 * 10
        loader.queues[0] = [block(first, rank % 2, 2), block(first + 1, 1 - rank % 2, 2)]
    save(daemon, home / "blocks", [state(loader, **place(rank)) for rank, loader in enumerate(old)])
    one = Stream((0, 1), 1)
    load(daemon, home / "blocks", [state(one, dp=(0, 1))])
    assert [item.payload for item in one.queues[0]] == ["0.0", "0.1", "10.0", "10.1", "1.0", "1.1", "11.0", "11.1"]
    four = [Stream((0, 1), 1) for _ in range(4)]
    load(daemon, home / "blocks", [state(loader, dp=(0, 1), cp=(rank, 4)) for rank, loader in enumerate(four)])
    assert [[item.payload for item in loader.queues[0]] for loader in four] == [
        [], ["0.0", "10.0", "1.0", "11.0"], [], ["0.1", "10.1", "1.1", "11.1"],
    ]  # fmt: skip
    for loader in old:
        loader.queues[0] = ["same", loader.dp[0]]
    save(daemon, home / "copies", [state(loader, **place(rank)) for rank, loader in enumerate(old)])
    single = Stream((0, 1), 1)
    load(daemon, home / "copies", [state(single, dp=(0, 1))])
    assert single.queues == [["same", "same", 0, 1]]


class Numbers(torch.utils.data.Dataset[int]):
    def __init__(self, length: int = 60) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def sampled(
    rank: int, size: int, batch: int, workers: int = 0, *, seed: int = 3, epoch: int = 2
) -> StatefulDataLoader[int]:
    sampler = StatefulDistributedSampler(Numbers(), num_replicas=size, rank=rank, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    return StatefulDataLoader(Numbers(), batch_size=batch, sampler=sampler, num_workers=workers)


def taken(iterators: Sequence[Iterator[Any]], steps: int) -> list[int]:
    """The samples of so many steps, as the job consumes them: sample by sample, rank by rank."""
    found: list[int] = []
    for _ in range(steps):
        batches = [next(iterator).tolist() for iterator in iterators]
        found += [batch[number] for number in range(len(batches[0])) for batch in batches]
    return found


@pytest.mark.parametrize(("size", "batch", "workers"), [(2, 3, 0), (3, 2, 0), (1, 6, 1), (4, 1, 0)])
def test_a_distributed_sampler_goes_on_where_all_had_come(
    daemon: Daemon, home: Path, size: int, batch: int, workers: int
) -> None:
    before = [sampled(rank, 2, 3) for rank in range(2)]
    iterators = [iter(loader) for loader in before]
    seen = taken(iterators, 3)
    save(daemon, home / "job", before)
    expected = taken([iter(sampled(0, 1, 1))], 60)
    assert seen == expected[:18]
    after = [sampled(rank, size, batch, workers, epoch=0) for rank in range(size)]
    load(daemon, home / "job", [state(loader) for loader in after])
    rest = taken([iter(loader) for loader in after], 42 // (size * batch))
    step = size * batch  # where 18 is no multiple of the ranks, the first of a step come from the last ranks
    steps = [(rest[at : at + step], expected[18 + at : 18 + at + step]) for at in range(0, len(rest), step)]
    assert all(sorted(one) == sorted(other) for one, other in steps)
    assert rest == expected[18 : 18 + len(rest)] or 18 % size
    assert len(rest) >= 40


class Packing(torch.utils.data.IterableDataset[int]):
    """Gives numbers, and keeps some that it has read ahead."""

    def __init__(self, start: int = 0) -> None:
        self.position, self.ahead = start, [100 + start, 101 + start, 102 + start]

    def __iter__(self) -> Iterator[int]:
        while self.ahead:
            yield self.ahead.pop(0)

    def state_dict(self) -> dict[str, Any]:
        return items_state({"corpus": "text"}, self.ahead)

    def load_state_dict(self, told: dict[str, Any]) -> None:
        assert told["shared"] == {"corpus": "text"}
        self.ahead = list(told["keepstep.items"])


def test_an_iterable_datasets_items_are_dealt_out(daemon: Daemon, home: Path) -> None:
    before = [StatefulDataLoader(Packing(10 * rank), batch_size=1) for rank in range(2)]
    for loader in before:
        next(iter(loader))
    save(daemon, home / "job", [state(loader, dp=(rank, 2)) for rank, loader in enumerate(before)])
    after = StatefulDataLoader(Packing(50), batch_size=1)
    load(daemon, home / "job", [state(after, dp=(0, 1))])
    assert [batch.item() for batch in after] == [101, 111, 102, 112]


class Opaque(Packing):
    def state_dict(self) -> dict[str, Any]:
        return {"left": self.ahead}

    def load_state_dict(self, told: dict[str, Any]) -> None:
        self.ahead = list(told["left"])


def test_what_cannot_be_taken_along_is_refused_and_the_same_layout_is_exact(daemon: Daemon, home: Path) -> None:
    before = [StatefulDataLoader(Opaque(10 * rank), batch_size=1) for rank in range(2)]
    for loader in before:
        next(iter(loader))
    save(daemon, home / "job", [state(loader, dp=(rank, 2)) for rank, loader in enumerate(before)])
    again = [StatefulDataLoader(Opaque(50), batch_size=1) for _ in range(2)]
    load(daemon, home / "job", [state(loader, dp=(rank, 2)) for rank, loader in enumerate(again)])
    assert [[batch.item() for batch in loader] for loader in again] == [[101, 102], [111, 112]]
    with pytest.raises(keepstep.KeepstepError, match="no items") as refused:
        load(daemon, home / "job", [state(StatefulDataLoader(Opaque(), batch_size=1), dp=(0, 1))])
    assert refused.value.reason == "LOADER_LAYOUT"
    save(daemon, home / "order", [sampled(0, 1, 2)])
    with pytest.raises(keepstep.KeepstepError, match="another seed"):
        load(daemon, home / "order", [sampled(rank, 2, 2, seed=4) for rank in range(2)])
    with pytest.raises(TypeError, match="has no state"):
        state([1, 2])
