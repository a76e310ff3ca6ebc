"""torchtitan's containers and train loop with its own checkpoint manager, and with Keepstep's in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.torch_dcp.ranks import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2, "tests.frameworks.titan_cases") as world:
        yield world


@pytest.mark.parametrize("mode", ["disabled", "async", "async_with_pinned_mem"])
def test_a_job_goes_on_from_any_of_its_checkpoints(ranks: Ranks, daemon: Daemon, home: Path, mode: str) -> None:
    for saved, found, losses, whole in ranks.run("train_and_resume", str(home / "ours"), daemon.address, mode):
        assert saved == ["step-6", "step-8"]
        assert found["newest"] == (True, 8, 32, whole[8:])
        assert found["six"] == (True, 6, 24, whole[6:])
        assert losses == whole[:8]


def test_what_is_loaded_is_what_torchtitan_loads(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    theirs = ranks.run("what_is_loaded", str(home / "theirs"), "", str(home / "theirs"))
    ours = ranks.run("what_is_loaded", str(home / "ours"), daemon.address, str(home / "theirs"))
    assert ours == theirs
    assert ours[0] == {"excluded": (True, 4, 0), "ours": (True, 0, True), "theirs": (True, 0, True), "empty": False}
