"""What the ranks of a world do; see ranks.py. `storage` is ("keepstep" | "file", the daemon's address)."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from keepstep.torch.dcp import KeepstepAsyncStager, KeepstepStorageReader, KeepstepStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

from tests.torch_dcp.content import mesh_of, same, sharded, whole, wrong

Storage = tuple[str, str]
warnings.filterwarnings("ignore")
logging.getLogger("torch").setLevel(logging.ERROR)  # what a failing case tells is its outcome


def writer(storage: Storage, path: str, **options: Any) -> Any:
    if storage[0] == "keepstep":
        return KeepstepStorageWriter(path, daemon=storage[1], **options)
    return dcp.FileSystemWriter(path, **options)


def reader(storage: Storage, path: str) -> Any:
    return KeepstepStorageReader(path, daemon=storage[1]) if storage[0] == "keepstep" else dcp.FileSystemReader(path)


def outcome(call: Any) -> Any:
    """What a call returned, or which ranks failed and how: comparable between storages and ranks."""
    try:
        return call()
    except CheckpointException as error:
        return {rank: f"{type(cause).__name__}: {cause}" for rank, (cause, _) in error.failures.items()}
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def extras_of(rank: int) -> dict[str, Any]:
    """State that is no tensor, and plain tensors that every rank has."""
    return {
        "step": 7,
        "nested": {"list": [1, {"deep": torch.arange(3)}], "none": None, "text": "ä"},
        "plain": whole("uneven", 5),
        "large": b"x" * 3_000_000,
        f"of_rank_{rank}": rank,
    }


def reshard(storage: Storage, path: str, layout: str, into: list[str], seed: int) -> dict[str, Any]:
    """Saves in one layout, loads in others; what was wrong, by layout, and the metadata that both storages share."""
    meshes = {name: mesh_of(name) for name in dict.fromkeys([layout, *into])}
    state = {"model": sharded(layout, seed, meshes[layout]), **extras_of(dist.get_rank())}
    metadata = dcp.save(state, storage_writer=writer(storage, path))
    found: dict[str, Any] = {"wrong": {}}
    for name in into:
        loaded = {"model": sharded(name, None, meshes[name]), **extras_of(dist.get_rank())}
        loaded.update(step=0, plain=torch.zeros(7, 5).bfloat16(), large=b"")
        loaded["nested"] = {"list": [0, {"deep": torch.zeros(3, dtype=torch.int64)}], "none": 1, "text": ""}
        dcp.load(loaded, storage_reader=reader(storage, path))
        bad = wrong(name, seed, loaded["model"], meshes[name])
        bad += [] if same(loaded["plain"], whole("uneven", 5)) else ["plain"]
        kept = extras_of(dist.get_rank())
        bad += [key for key in ("step", "large") if loaded[key] != kept[key]]
        deep = loaded["nested"]["list"][1]["deep"]
        good = (loaded["nested"]["none"], loaded["nested"]["text"], deep.tolist()) == (None, "ä", [0, 1, 2])
        found["wrong"][name] = bad + ([] if good else ["nested"])
    read = reader(storage, path).read_metadata()
    found["read_back"] = (read.state_dict_metadata, read.planner_data, read.version) == (
        metadata.state_dict_metadata, metadata.planner_data, metadata.version,
    )  # fmt: skip
    found["placed"] = read.storage_data == metadata.storage_data
    found["metadata"] = (read.state_dict_metadata, read.planner_data)
    return found


def save_layout(storage: Storage, path: str, layout: str, seed: int) -> None:
    """One sharded state, and what `extras_of` has, for somebody else to load."""
    state = {"model": sharded(layout, seed, mesh_of(layout)), **extras_of(dist.get_rank())}
    dcp.save(state, storage_writer=writer(storage, path))


def load_layout(storage: Storage, path: str, layout: str, seed: int) -> Any:
    """What is wrong with it in another layout, and its values that are no tensors."""
    mesh = mesh_of(layout)
    rank = dist.get_rank()
    loaded = {"model": sharded(layout, None, mesh), "step": 0, "large": b"", f"of_rank_{rank}": -1}
    dcp.load(loaded, storage_reader=reader(storage, path))
    kept = extras_of(rank)
    return wrong(layout, seed, loaded["model"], mesh), all(loaded[key] == kept[key] for key in loaded if key != "model")


def pair_to_four(storage: Storage, path: str) -> list[str]:
    """Two ranks of the world save, in a process group of their own; all four load."""
    mesh, four = mesh_of("pair"), mesh_of("2x2")
    group = dist.new_group([0, 1])
    if dist.get_rank() < 2:
        state = {"model": sharded("pair", 11, mesh)}
        dcp.save(state, storage_writer=writer(storage, path), process_group=group)
    dist.barrier()
    loaded = {"model": sharded("2x2", None, four)}
    dcp.load(loaded, storage_reader=reader(storage, path))
    return wrong("2x2", 11, loaded["model"], four)


class BadPlanner(DefaultSavePlanner):
    """Fails on one rank: in planning, or when data are asked for."""

    def __init__(self, rank: int, where: str) -> None:
        super().__init__()
        self.fails, self.where = dist.get_rank() == rank, where

    def create_local_plan(self) -> Any:
        if self.fails and self.where == "plan":
            raise ValueError("no plan")
        return super().create_local_plan()

    def finish_plan(self, new_plan: Any) -> Any:
        if self.fails and self.where == "finish":
            raise ValueError("not finished")
        return super().finish_plan(new_plan)

    def resolve_data(self, write_item: Any) -> Any:
        if self.fails and self.where == "data":
            raise ValueError("no data")
        return super().resolve_data(write_item)


def one_rank_fails(storage: Storage, path: str, rank: int, where: str) -> Any:
    """A failing save, then a good one in the same place; what the first raised, and whether the second is right."""
    mesh = mesh_of("rows")
    state = {"model": sharded("rows", 1, mesh)}
    target = writer(storage, path)
    raised = outcome(lambda: dcp.save(state, storage_writer=target, planner=BadPlanner(rank, where)))
    nothing = not any(os.path.exists(os.path.join(path, name)) for name in (".metadata",)) and not committed(path)
    dcp.save(state, storage_writer=target)
    loaded = {"model": sharded("rows", None, mesh)}
    dcp.load(loaded, storage_reader=reader(storage, path))
    return raised, nothing, wrong("rows", 1, loaded["model"], mesh)


def committed(path: str) -> list[str]:
    return [str(found) for found in Path(path).glob("*/*/DECISION")]


def own_state(rank: int, seed: int) -> dict[str, Any]:
    """Differs from rank to rank under the same names, as without collectives it may."""
    return {"own": torch.full((3, 2), float(rank * 100 + seed)), "counter": rank * 10 + seed}


def without_collectives(storage: Storage, path: str, seed: int) -> Any:
    rank = dist.get_rank()
    mesh = mesh_of("rows")
    state = {"model": sharded("rows", seed, mesh), **own_state(rank, seed)}
    dcp.save(state, storage_writer=writer(storage, path), use_collectives=False)
    dist.barrier()
    loaded = {"model": sharded("rows", None, mesh), "own": torch.zeros(3, 2), "counter": -1}
    dcp.load(loaded, storage_reader=reader(storage, path))
    own = own_state(rank, seed)
    right = torch.equal(loaded["own"], own["own"]) and loaded["counter"] == own["counter"]
    return wrong("rows", seed, loaded["model"], mesh), right


def cached_plans(storage: Storage, path: str) -> list[Any]:
    """Three saves with plan caching, the last of another shape; each is loaded again."""
    mesh = mesh_of("rows")
    found = []
    for number, seed in enumerate((1, 2, 3)):
        state: dict[str, Any] = {"model": sharded("rows", seed, mesh), "count": number}
        if number == 2:
            state["more"] = torch.arange(6)
        planner = DefaultSavePlanner(enable_plan_caching=True)
        planner._cached_plans_key = f"cached {storage[0]}"
        dcp.save(state, storage_writer=writer(storage, f"{path}-{number}"), planner=planner)
        loaded = {"model": sharded("rows", None, mesh), "count": -1}
        dcp.load(loaded, storage_reader=reader(storage, f"{path}-{number}"))
        found.append((wrong("rows", seed, loaded["model"], mesh), loaded["count"]))
    return found


def lowest_rank(storage: Storage, path: str) -> Any:
    """Every rank has the same plain tensors; the planner says that the lowest one writes."""
    state = {f"t{number}": torch.arange(4) + number for number in range(4)}
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    dcp.save(state, storage_writer=writer(storage, path), planner=planner)
    written = [len(plan.items) for plan in planner.global_plan] if dist.get_rank() == 0 else None
    loaded = {name: torch.zeros(4, dtype=torch.int64) for name in state}
    dcp.load(loaded, storage_reader=reader(storage, path))
    return written, all(torch.equal(loaded[name], state[name]) for name in state)


def asynchronous(storage: Storage, path: str) -> Any:
    """With the stager: the tensors change as soon as they may, and the checkpoint has what they were."""
    mesh = mesh_of("2x2")
    model = sharded("2x2", 3, mesh)
    counts = {"seen": 5}
    state = {"model": model, "counts": counts}
    stager = KeepstepAsyncStager()
    response = dcp.async_save(state, storage_writer=writer(storage, path), async_stager=stager)
    counts["seen"] = 6  # no tensor: copied already
    response.staging_completion.result(60)
    for tensor in model.values():
        tensor.to_local().zero_()
    metadata = response.upload_completion.result(60)
    stager.synchronize_staging()
    stager.close()
    loaded = {"model": sharded("2x2", None, mesh), "counts": {"seen": 0}}
    dcp.load(loaded, storage_reader=reader(storage, path))
    return wrong("2x2", 3, loaded["model"], mesh), loaded["counts"]["seen"], type(metadata).__name__


def asynchronous_fails(storage: Storage, path: str) -> Any:
    """The upload fails; the tensors may change all the same."""
    state = {"model": sharded("rows", 3, mesh_of("rows"))}
    planner = BadPlanner(1, "data")
    response = dcp.async_save(
        state, storage_writer=writer(storage, path), async_stager=KeepstepAsyncStager(), planner=planner
    )
    staged = outcome(lambda: response.staging_completion.result(60))
    return staged, outcome(lambda: response.upload_completion.result(60))


def snapshotted(storage: Storage, path: str) -> Any:
    """Returns when all tensors may change, before the commit."""
    mesh = mesh_of("2x2")
    model = sharded("2x2", 4, mesh)
    target = writer(storage, path, return_at="snapshotted")
    dcp.save({"model": model}, storage_writer=target)
    for tensor in model.values():
        tensor.to_local().zero_()
    target.wait(60)
    loaded = {"model": sharded("2x2", None, mesh)}
    dist.barrier()
    dcp.load(loaded, storage_reader=reader(storage, path))
    return wrong("2x2", 4, loaded["model"], mesh)


def no_dist(storage: Storage, path: str) -> Any:
    """One rank of the world saves and loads by itself; also the part of a tensor that it holds."""
    mesh = mesh_of("rows")
    if dist.get_rank() != 1:
        return None
    state = {"plain": torch.arange(5), "count": 3, "part": sharded_part(mesh, filled=True)}
    dcp.save(state, storage_writer=writer(storage, path), no_dist=True)
    loaded = {"plain": torch.zeros(5, dtype=torch.int64), "count": 0, "part": sharded_part(mesh, filled=False)}
    dcp.load(loaded, storage_reader=reader(storage, path), no_dist=True)
    return loaded["plain"].tolist(), loaded["count"], loaded["part"].to_local().tolist()


def sharded_part(mesh: Any, *, filled: bool) -> Any:
    from torch.distributed.tensor import DTensor, Shard

    local = torch.arange(6.0).reshape(2, 3) + 1 if filled else torch.zeros(2, 3)
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False)


def keys(storage: Storage, path: str) -> Any:
    """A checkpoint without a state to load into: all of it, and a part of it by name."""
    dcp.save({"a": {"x": torch.arange(3), "y": 2}, "b": torch.ones(2)}, storage_writer=writer(storage, path))
    everything = _load_state_dict_from_keys(storage_reader=reader(storage, path))
    some = _load_state_dict_from_keys("a", storage_reader=reader(storage, path))
    return str(everything), str(some)


def load_errors(storage: Storage, path: str) -> dict[str, Any]:
    """What DCP says when a state does not fit the checkpoint; `PATH` stands for the directory."""
    dcp.save({"a": torch.arange(4), "b": 1}, storage_writer=writer(storage, path))

    def load(state: dict[str, Any], where: str = path, **options: Any) -> Any:
        told = outcome(lambda: dcp.load(state, storage_reader=reader(storage, where), **options))
        return {rank: text.replace(path, "PATH") for rank, text in told.items()} if isinstance(told, dict) else told

    partial = {"a": torch.zeros(4, dtype=torch.int64), "other": torch.ones(2)}
    return {
        "missing": load({"a": torch.arange(4), "c": torch.ones(1)}),
        "missing value": load({"c": 1}),
        "size": load({"a": torch.arange(5)}),
        "kind": load({"a": 3}),
        "partial": (load(partial, planner=DefaultLoadPlanner(allow_partial_load=True)), str(partial)),
        "fewer": load({"b": 5}),
    }
