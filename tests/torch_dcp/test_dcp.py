"""dcp.save, dcp.async_save and dcp.load over Keepstep, in a world of four, beside DCP's own file-system storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp
from keepstep.torch.dcp import KeepstepStorageReader
from keepstep.torch.dcp.export_directory import export_directory
from keepstep.torch.dcp.import_directory import import_directory

from tests.harness.daemon import Daemon
from tests.torch_dcp.ranks import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(4) as world:
        yield world


def both(ranks: Ranks, daemon: Daemon, home: Path, case: str, *arguments: Any) -> tuple[list[Any], list[Any]]:
    """The case with Keepstep, and with DCP's file system storage."""
    ours = ranks.run(case, ("keepstep", daemon.address), str(home / "keepstep"), *arguments)
    return ours, ranks.run(case, ("file", ""), str(home / "file"), *arguments)


@pytest.mark.parametrize(
    ("layout", "into"),
    [
        ("2x2", ["rows", "columns", "replicated"]),
        ("columns", ["2x2", "hybrid"]),
        ("hybrid", ["twice", "rows"]),
        ("twice", ["columns", "2x2"]),
        ("replicated", ["rows"]),
    ],
)
def test_every_layout_loads_into_others(ranks: Ranks, daemon: Daemon, home: Path, layout: str, into: list[str]) -> None:
    ours, theirs = both(ranks, daemon, home, "reshard", layout, into, 3)
    for rank, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one["wrong"] == {name: [] for name in into}, f"rank {rank}"
        assert one["read_back"] and one["placed"]
        assert one["metadata"] == other["metadata"]
        assert other["wrong"] == one["wrong"]


def test_two_ranks_save_and_four_load(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    ours, theirs = both(ranks, daemon, home, "pair_to_four")
    assert ours == theirs == [[]] * 4


@pytest.mark.parametrize(("rank", "where"), [(1, "plan"), (2, "finish"), (0, "data"), (3, "data")])
def test_a_rank_that_fails_is_told_to_all_and_leaves_nothing(
    ranks: Ranks, daemon: Daemon, home: Path, rank: int, where: str
) -> None:
    ours, theirs = both(ranks, daemon, home, "one_rank_fails", rank, where)
    assert ours == theirs
    (raised, nothing, bad), *_ = ours
    assert list(raised) == [rank] and "ValueError" in raised[rank]
    assert nothing and not bad


def test_without_collectives_every_rank_has_its_own(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    for seed in (1, 2):  # the second overwrites the first
        ours, theirs = both(ranks, daemon, home, "without_collectives", seed)
        assert ours == theirs == [([], True)] * 4


@pytest.mark.parametrize("case", ["cached_plans", "lowest_rank", "no_dist", "keys", "load_errors"])
def test_as_the_file_system_storage_does(ranks: Ranks, daemon: Daemon, home: Path, case: str) -> None:
    ours, theirs = both(ranks, daemon, home, case)
    assert ours == theirs
    assert any(ours)


def test_async_save_stages_and_uploads(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    for number in range(2):
        answers = ranks.run("asynchronous", ("keepstep", daemon.address), str(home / f"job{number}"))
        assert answers == [([], 5, "Metadata")] * 4


def test_a_failed_upload_ends_the_staging(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    for staged, uploaded in ranks.run("asynchronous_fails", ("keepstep", daemon.address), str(home / "job")):
        assert staged is None
        assert uploaded == {1: "ValueError: no data"}


def test_return_at_snapshotted_lets_every_rank_change_its_tensors(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    assert ranks.run("snapshotted", ("keepstep", daemon.address), str(home / "job")) == [[]] * 4


def test_a_sharded_dcp_directory_is_imported_and_exported(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    theirs, ours, out = str(home / "theirs"), str(home / "ours"), str(home / "out")
    ranks.run("save_layout", ("file", ""), theirs, "2x2", 9)
    count, size = import_directory(theirs, ours, step=3, daemon=daemon.address)
    assert ranks.run("load_layout", ("keepstep", daemon.address), ours, "columns", 9) == [([], True)] * 4
    assert export_directory(ours, out, chunk_bytes=50) == size
    assert ranks.run("load_layout", ("file", ""), out, "hybrid", 9) == [([], True)] * 4
    read = [dcp.FileSystemReader(theirs), KeepstepStorageReader(ours), dcp.FileSystemReader(out)]
    one, other, third = [reader.read_metadata() for reader in read]
    assert other.state_dict_metadata == one.state_dict_metadata
    assert other.planner_data == one.planner_data == third.planner_data
    assert count == sum(hasattr(told, "size") for told in one.state_dict_metadata.values())
