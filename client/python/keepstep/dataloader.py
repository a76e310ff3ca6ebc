"""State of data loaders that comes back on another number of ranks: docs/dataloader.md.

    ck.register(model=model, optimizer=opt, dataloader=keepstep.dataloader.state(loader, dp=(dp_rank, dp_size)))

A loader says what is the same on every rank, and what is its own: ordered items, by worker. The former is stored once,
the items where they are; on other data-parallel or context-parallel sizes they are dealt out anew (_deal.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from keepstep import extras
from keepstep._deal import Block, CpPlace, Grid, Place, deal, deal_blocks
from keepstep._world import rank_and_size
from keepstep.errors import KeepstepError
from keepstep.extras import Extra, ItemList

__all__ = ["Block", "Grid", "ResumableLoader", "deal", "deal_blocks", "is_loader", "items_state", "state"]
_ITEMS = "keepstep.items"
_FORMAT = 1


@runtime_checkable
class ResumableLoader(Protocol):
    """What a data loader offers so that its state survives another layout."""

    def shared_state(self) -> Any:
        """What is the same on every rank: epoch, seed, mixture, position in the stream."""

    def items(self) -> Sequence[Sequence[Any]]:
        """What this rank alone has, for each worker in the order in which it will be trained on: samples that were
        read ahead, remainders of packing, open files. With context parallelism either the same on every
        context-parallel rank, or `Block`s."""

    def resume(self, shared: Any, items: Sequence[Sequence[Any]]) -> None:
        """Goes on from there; as many lists as `items()` has now."""


def state(
    loader: Any, *, dp: tuple[int, int] | None = None, cp: tuple[int, int] = (0, 1), primary: bool = True
) -> Extra:
    """What to register for a loader: a ResumableLoader, or torchdata's StatefulDataLoader.

    Args:
        dp: this rank's place in the data-parallel dimension, and its size. None: of the loader's sampler, where that
            is a distributed one, else this rank's in the whole world.
        cp: the same of the context-parallel dimension; its ranks feed on one stream.
        primary: this rank saves. Ranks that share a (dp, cp) place (tensor or pipeline parallel ones) have the same;
            say False on all but one of them, and it is stored once.

    Raises, at the load:
        KeepstepError: FAILED_PRECONDITION, LOADER_LAYOUT: the loader's state cannot be taken to this layout, with why.
    """
    if not isinstance(loader, ResumableLoader):
        from keepstep.torch import loaders

        loader, dp = loaders.adapted(loader, dp)
    return _State(loader, dp or rank_and_size(None, None), cp, primary).extra()


def items_state(shared: Any, items: Sequence[Any]) -> dict[str, Any]:
    """What `state_dict()` of an IterableDataset under a StatefulDataLoader returns, for its items to be dealt out anew.

    `load_state_dict` of it gets the same again: `state["shared"]` and `state["keepstep.items"]`.
    """
    return {_ITEMS: list(items), "shared": shared}


def is_loader(value: Any) -> bool:
    """Whether `register` takes it for a data loader by itself."""
    return isinstance(value, ResumableLoader) or type(value).__module__.startswith("torchdata.stateful_dataloader")


@dataclass(frozen=True)
class _State:
    loader: ResumableLoader
    dp: tuple[int, int]
    cp: tuple[int, int]
    primary: bool

    def extra(self) -> Extra:
        return Extra(self.read, self.restore, merge=True)

    def read(self) -> Any:
        if not self.primary:
            return None
        shared = self.loader.shared_state()
        items = self.loader.items()
        holds_shared = self.dp[0] == 0 and self.cp[0] == 0
        blocks = any(isinstance(item, Block) for worker in items for item in worker)
        copied = self.cp[0] > 0 and not blocks
        head = {
            "format": _FORMAT,
            "dp": list(self.dp),
            "cp": list(self.cp),
            "workers": len(items),
            "shared": shared if holds_shared else None,
            "shared_digest": hashlib.sha256(extras.encode(shared)).hexdigest(),
            "own": getattr(self.loader, "own_state", lambda: None)(),
            "copied": copied,
        }
        told = [
            [worker, "block", vars(item)] if isinstance(item, Block) else [worker, "item", item]
            for worker, listed in enumerate(() if copied else items)
            for item in listed
        ]
        return ItemList([head, *told])

    def restore(self, by_rank: Mapping[int, Any]) -> None:
        by_place: dict[tuple[int, int], tuple[Any, Any]] = {}  # what several ranks of one place have is the same
        for _, value in sorted(by_rank.items()):
            if value is not None:
                by_place.setdefault((value[0]["dp"][0], value[0]["cp"][0]), (value[0], value[1:]))
        heads = list(by_place.values())
        if not heads:
            raise _refused("no rank has saved it; give primary=True on one rank of each place")
        old = _grid(heads)
        shared = _shared(heads)
        new = Grid(self.dp[1], len(self.loader.items()), self.cp[1])
        mine = next((head for head, _ in heads if (head["dp"], head["cp"]) == (list(self.dp), list(self.cp))), None)
        resume_own = getattr(self.loader, "resume_own", None)
        if resume_own is not None and old == new and mine is not None:
            resume_own(shared, mine["own"])
            return
        reshard = getattr(self.loader, "reshard_own", None)
        if reshard is not None and reshard(shared, _own(heads), old, new, self.dp):
            return
        self.loader.resume(shared, self._dealt(heads, old, new))

    def _dealt(self, heads: list[tuple[Any, Any]], old: Grid, new: Grid) -> list[list[Any]]:
        dp, cp = self.dp[0], self.cp[0]
        items: dict[Place, list[Any]] = {}
        blocks: dict[CpPlace, list[Block]] = {}
        for head, told in heads:
            for worker, kind, value in told:
                if kind == "block":
                    blocks.setdefault((head["dp"][0], worker, head["cp"][0]), []).append(Block(**value))
                else:
                    items.setdefault((head["dp"][0], worker), []).append(value)
        if items and blocks:
            raise _refused("some ranks have saved items, others blocks")
        try:
            if blocks:
                placed = deal_blocks(blocks, old, new)
                return [list(placed[dp, worker, cp]) for worker in range(new.workers)]
            dealt = deal(items, old, new)
        except ValueError as error:
            raise _refused(str(error)) from None
        return [dealt[dp, worker] for worker in range(new.workers)]


def _grid(heads: list[tuple[Any, Any]]) -> Grid:
    """The layout that saved; every place must have saved once."""
    first = heads[0][0]
    if first["format"] != _FORMAT:
        raise _refused(f"it has format {first['format']}, this version reads {_FORMAT}")
    grid = Grid(first["dp"][1], first["workers"], first["cp"][1])
    seen = sorted((head["dp"][0], head["cp"][0]) for head, _ in heads)
    for head, _ in heads:
        if Grid(head["dp"][1], head["workers"], head["cp"][1]) != grid:
            raise _refused("the ranks that saved it had different sizes or numbers of workers")
    wanted = [(dp, cp) for dp in range(grid.dp) for cp in range(grid.cp)]
    if seen != wanted:
        raise _refused(f"saved were the places {seen} (dp, cp) of {wanted}; say dp= and cp= for each rank")
    return grid


def _shared(heads: list[tuple[Any, Any]]) -> Any:
    if len({head["shared_digest"] for head, _ in heads}) > 1:
        raise _refused("the ranks that saved it did not agree about what is the same on all of them")
    return next(head["shared"] for head, _ in heads if (head["dp"][0], head["cp"][0]) == (0, 0))


def _own(heads: list[tuple[Any, Any]]) -> list[Any]:
    """The loaders' own states, by data-parallel rank."""
    return [head["own"] for head, _ in sorted(heads, key=lambda pair: pair[0]["dp"]) if head["cp"][0] == 0]


def _refused(why: str) -> KeepstepError:
    return KeepstepError(
        f"the data loader's state cannot be resumed: {why}.", code="FAILED_PRECONDITION", reason="LOADER_LAYOUT"
    )
