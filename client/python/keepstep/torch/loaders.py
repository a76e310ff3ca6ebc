"""torchdata's StatefulDataLoader as a ResumableLoader.

In the layout that saved it, its own state comes back, exactly. In another one:

    a map-style dataset with StatefulDistributedSampler: each rank skips its share of what all have consumed;
    an iterable dataset whose `state_dict` is keepstep.dataloader.items_state(…): the items are dealt out anew;
    anything else is refused: nobody could say what has been seen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from keepstep._deal import Grid
from keepstep.dataloader import _ITEMS, _refused

_SAME = ("seed", "shuffle", "drop_last", "length")


def adapted(loader: Any, dp: tuple[int, int] | None) -> tuple[TorchLoader, tuple[int, int] | None]:
    """The loader with the protocol's methods, and its place, where its sampler knows it. TypeError: no such loader."""
    if not hasattr(loader, "state_dict") or not hasattr(loader, "load_state_dict"):
        raise TypeError(
            f"a {type(loader).__name__} has no state; use torchdata's StatefulDataLoader, or give it the methods of "
            "keepstep.dataloader.ResumableLoader"
        )
    sampler = _distributed_sampler(loader)
    if dp is None and sampler is not None:
        dp = (sampler.rank, sampler.num_replicas)
    return TorchLoader(loader, sampler), dp


def _distributed_sampler(loader: Any) -> Any:
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        sampler = getattr(holder, "sampler", None)
        if hasattr(sampler, "num_replicas") and hasattr(sampler, "load_state_dict"):
            return sampler
    return None


class TorchLoader:
    """See the module; `own` states are the loader's own."""

    def __init__(self, loader: Any, sampler: Any) -> None:
        self._loader, self._sampler = loader, sampler
        self._workers = max(1, getattr(loader, "num_workers", 0))
        self._own: Any = None  # of the save under way: asked once

    def shared_state(self) -> Any:
        self._own = self._loader.state_dict()
        sampler = self._sampler
        if sampler is None:
            states = _items_states(self._own)
            return {"shared": states[0]["shared"]} if states else {}
        told = {name: getattr(sampler, name, None) for name in ("epoch", *_SAME)}
        return {**told, "length": len(sampler.dataset)}

    def items(self) -> Sequence[Sequence[Any]]:
        states = [] if self._own is None else _items_states(self._own)
        return [state[_ITEMS] for state in states] or [[] for _ in range(self._workers)]

    def own_state(self) -> Any:
        own, self._own = self._own, None
        return own

    def resume_own(self, shared: Any, own: Any) -> None:
        self._set_epoch(shared)
        self._loader.load_state_dict(own)

    def reshard_own(self, shared: Any, owns: Sequence[Any], old: Grid, new: Grid, dp: tuple[int, int]) -> bool:
        """Whether the position of every rank of the old layout was enough."""
        sampler = self._sampler
        if sampler is None or "seed" not in shared:
            return False
        here = {**{name: getattr(sampler, name, None) for name in _SAME}, "length": len(sampler.dataset)}
        different = [name for name in _SAME if here[name] != shared[name]]
        if different:
            raise _refused(
                f"its sampler has another {' and '.join(different)} than the one that saved it, so its order is another"
            )
        seen = [_main(own)["_sampler_iter_state"]["sampler_state"]["yielded"] for own in owns]
        if len(set(seen)) > 1:
            raise _refused(f"the ranks that saved it had seen different numbers of samples: {seen}")
        rank, size = dp
        skip = max(0, -(-(sum(seen) - rank) // size))
        self._set_epoch(shared)
        state = copy.deepcopy(self._loader.state_dict())
        main = _main(state)
        batches = -(-skip // max(1, getattr(self._loader, "batch_size", None) or 1))
        main["_sampler_iter_state"] = {"samples_yielded": skip, "sampler_state": {"yielded": skip}}
        main["_sampler_iter_yielded"] = batches
        if "_num_yielded" in state:
            state["_num_yielded"] = batches
        else:
            state["_snapshot"]["_snapshot_step"] = batches
        self._loader.load_state_dict(state)
        return True

    def resume(self, shared: Any, items: Sequence[Sequence[Any]]) -> None:
        if "shared" not in shared:
            raise _refused(
                "the loader has no distributed sampler, and its dataset no items; return "
                "keepstep.dataloader.items_state(…) from the dataset's state_dict()"
            )
        state = copy.deepcopy(self._loader.state_dict())
        states = _items_states(state)
        if len(states) != len(items):
            raise _refused("the dataset's state_dict() has no items here; is it the dataset that was saved?")
        for target, given in zip(states, items, strict=True):
            target[_ITEMS], target["shared"] = list(given), shared["shared"]
        self._loader.load_state_dict(state)

    def _set_epoch(self, shared: Any) -> None:
        if self._sampler is not None and shared.get("epoch") is not None:
            self._sampler.set_epoch(shared["epoch"])


def _main(state: Any) -> Any:
    """The part of a loader's state that holds its sampler's, with and without workers."""
    if state.get("_steps_since_snapshot"):
        raise _refused("it was saved between two snapshots; use snapshot_every_n_steps=1")
    return state["_snapshot"]["_main_snapshot"] if "_snapshot" in state else state


def _items_states(state: Any) -> list[Any]:
    """The datasets' states of each worker, if they hold items; the very objects inside `state`."""
    _main(state)
    if "_snapshot" in state:
        workers = state["_snapshot"]["_worker_snapshots"]
        holders = [workers[f"worker_{number}"] for number in range(len(workers))]
    else:
        holders = [state]
    found = []
    for holder in holders:
        inner = (holder.get("fetcher_state") or {}).get("dataset_iter_state")
        found += [told for told in (holder.get("dataset_state"), inner) if isinstance(told, dict) and _ITEMS in told]
    return found
