"""Warm restart on the fake driver: a world is killed, started again, and goes on at the step at which it was whole.

Every rank that is not told to go on must load: what is committed is step 1, and the memory was ahead of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keepstep
import pytest

from tests.device.gpus import Gpus, Trainer, until
from tests.device.owned import POOL, await_pieces, pieces_held
from tests.device.tensors import MIB
from tests.fake_cuda.environment import LIBRARY, MISSING

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

PIECES = 3  # of each rank
Told = dict[str, Any]


@contextmanager
def world(gpus: Gpus, size: int, **script: Any) -> Iterator[tuple[list[Trainer], list[Told]]]:
    """All ranks, and what each of them tells. A tuple in `script` has a value for each rank."""
    with ExitStack() as stack:
        ranks = []
        for rank in range(size):
            own = {name: value[rank] if isinstance(value, tuple) else value for name, value in script.items()}
            ranks.append(stack.enter_context(gpus.trainer(
                json.dumps({"rank": rank, "world": size, **own}), "-", program="warm_trainer")))  # fmt: skip
        yield ranks, [rank.heard() for rank in ranks]


def killed(gpus: Gpus, size: int, **script: Any) -> list[Told]:
    """A world that runs by its script, and is killed."""
    with world(gpus, size, **script) as (ranks, told):
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            gpus.await_unmapped(rank, seconds=5.0)
    return told


def loaded(told: list[Told], *names: str) -> list[list[Any]]:
    return [[each[name] for name in names] for each in told]


@pytest.mark.parametrize(("size", "transfer"), [(1, "pull"), (1, "window"), (2, "pull")])
def test_a_killed_world_goes_on_without_reading_a_byte(home: Path, size: int, transfer: str) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        first = killed(gpus, size, transfer=transfer, steps=[1, 2, 3], saves=[1])
        assert loaded(first, "step", "rescue") == size * [[None, ""]], first
        assert pieces_held(gpus) == size * PIECES, "kept"
        # … and again, from what went on.
        for begin, end in ((3, 5), (5, 6)):
            told = killed(gpus, size, transfer=transfer, steps=list(range(begin + 1, end + 1)))
            assert loaded(told, "step", "warm", "why", "read", "differing", "seen") == size * [
                [begin, True, "", 0, [], begin]], told  # fmt: skip
            assert loaded(told, "delivered") == size * [[28]], "the tensor in host memory"
        with world(gpus, size, transfer=transfer) as (ranks, told):
            assert loaded(told, "step", "warm", "differing") == size * [[6, True, []]], told
            assert pieces_held(gpus) == size * PIECES
            for rank in ranks:
                rank.close()
            await_pieces(gpus, 0)


def test_nothing_need_ever_have_been_saved(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 1, steps=[1, 2])
        assert loaded(killed(gpus, 1), "step", "warm", "differing", "seen") == [[2, True, [], 2]]


# It stands behind a stream that the process's end has stopped, and has not begun.
def test_an_update_that_was_queued_is_no_part_of_it(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 1, steps=[1, 2], last="queued")
        assert loaded(killed(gpus, 1), "step", "warm", "differing") == [[2, True, []]]


# The rescue is waited for: then the step that the world goes on at, or loads, is one that is committed.
@pytest.mark.parametrize("sizes", [[6 * MIB, 3 * MIB, 5000], [6 * MIB, 9 * MIB, 5000]], ids=["same", "other"])
def test_with_crash_flush_the_step_is_saved_too(home: Path, sizes: list[int]) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 2, rescue=True, steps=[1, 2, 3])
        warm = sizes[1] == 3 * MIB
        with world(gpus, 2, rescue=True, sizes=sizes) as (_, told):
            assert loaded(told, "step", "warm", "differing", "seen") == 2 * [[3, warm, [], 3]], told
            assert keepstep.open(home / "root/job").step == 3


OTHERWISE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # What the killed world did besides, what the next one does otherwise, and what the ranks are told.
    "a half-run update": ({"last": ("", "half")}, {}, "rank 1: "),
    "an update that was not noted": ({"last": ("", "unnoted")}, {}, "rank 1: "),
    "ranks at two steps": ({"steps": ([1, 2, 3], [1, 2])}, {}, "rank 1 was at step 2, rank 0 at 3"),
    "an allocation of another size": ({}, {"sizes": ([6 * MIB, 3 * MIB, 5000], [6 * MIB, 5 * MIB, 5000])},
                                      "rank 1 has 'columns.1' in memory that was not kept"),
    "allocations in another order": ({}, {"sizes": ([6 * MIB, 3 * MIB, 5000], [8 * MIB, 6 * MIB, 4 * MIB])},
                                     "in memory that was not kept"),
    "a tensor less": ({}, {"names": ("w m columns b count", "w columns b count")}, "any more"),
    "a rank that loads a step": ({}, {"load": ("latest", 1)}, "rank 1 loads"),
    "a rank that does not ask": ({}, {"warm": (True, False)}, "rank 1 loads"),
    "a rank that was not to be kept": ({"warm": (True, False)}, {}, "rank 1 did not leave its memory"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERWISE)
def test_if_anything_is_otherwise_all_ranks_load(home: Path, what: str) -> None:
    before, after, why = OTHERWISE[what]
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 2, **{"steps": [1, 2, 3], "saves": [1], **before})
        with world(gpus, 2, **after) as (ranks, told):
            assert loaded(told, "step", "warm", "differing", "seen") == 2 * [[1, False, [], 1]], told
            assert why in told[0]["why"], told
            await_pieces(gpus, 2 * PIECES)  # what was kept and not handed on is gone
            for rank in ranks:
                rank.close()
        await_pieces(gpus, 0)


def test_the_hold_ends(home: Path) -> None:
    with Gpus(home, "on", arguments=(*POOL, "--gpu-pool-hold", "300ms")) as gpus:
        killed(gpus, 1, steps=[1, 2], saves=[1])
        await_pieces(gpus, 0)
        assert loaded(killed(gpus, 1), "step", "warm", "why", "differing") == [
            [1, False, "no memory was kept for this job", []]]  # fmt: skip


def test_a_clean_close_keeps_nothing(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        with world(gpus, 1, steps=[1, 2], saves=[1]) as (ranks, _):
            ranks[0].close()
            await_pieces(gpus, 0)
        assert loaded(killed(gpus, 1), "step", "warm", "differing") == [[1, False, []]]


def test_a_program_that_did_not_ask_leaves_and_gets_nothing(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 1, warm=False, steps=[1, 2], saves=[1])
        await_pieces(gpus, 0)
        killed(gpus, 1, steps=[2, 3])
        with world(gpus, 1, warm=False, first="write") as (ranks, told):
            assert loaded(told, "wrote", "step", "warm", "why", "differing") == [["", 1, False, "", []]]
            await_pieces(gpus, PIECES)
            ranks[0].close()


# The first wrong write is an error at its place; what the process was given goes with it, so the next start works.
def test_kept_memory_cannot_be_written_before_the_load(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 1, steps=[1, 2, 3], saves=[1])
        (told,) = killed(gpus, 1, first="write")
        assert "CUDA_ERROR_ILLEGAL_ADDRESS" in told["wrote"], told
        (told,) = killed(gpus, 1, first="write")
        assert (told["wrote"], told["step"], told["warm"], told["differing"]) == ("", 1, False, [])


def test_kept_memory_makes_nobody_elses_allocation_fail(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 1, steps=[1, 2, 3], saves=[1])
        with gpus.trainer("allocates", f"0:{60 * MIB}", program="owned_trainer", job="other") as other:
            assert other.heard() == [""]
            assert pieces_held(gpus) == 1
            other.kill()
        await_pieces(gpus, 0)
        assert loaded(killed(gpus, 1), "step", "warm", "differing") == [[1, False, []]]


def pool_found(gpus: Gpus) -> str:
    """What `keepstep doctor` finds of the GPU pool, the same as text and as JSON; empty: it does not look."""
    text = gpus.daemon.command("doctor")
    result = gpus.daemon.command("doctor", "--json")
    assert (text.returncode, result.returncode) == (0, 0), text.stdout
    found = [check for check in json.loads(result.stdout)["checks"] if check["name"] == "GPU pool"]
    assert [check["result"] for check in found] == ["OK"] * len(found)
    shown = [line for line in text.stdout.splitlines() if "GPU pool" in line]
    assert [line.split("GPU pool", 1)[1].strip() for line in shown] == [check["found"] for check in found]
    return str(found[0]["found"]) if found else ""


def test_doctor_tells_what_is_owned_and_what_is_kept(home: Path) -> None:
    gpu = "GPU-faceface-face-face-0000-000000000000"
    with Gpus(home, "on", arguments=(*POOL, "--gpu-pool-hold", "90s")) as gpus:
        limits = "at most 64.0 MiB of each GPU; what trainers leave that die is kept for at most 90 s; "
        assert pool_found(gpus) == limits + "none is owned now"
        with world(gpus, 1, steps=[1]) as (ranks, _):
            assert pool_found(gpus) == f"{limits}{gpu}: 12.0 MiB owned, 0 B of it kept"
            ranks[0].kill()
            gpus.await_unmapped(ranks[0])
            until(lambda: "12.0 MiB of it kept" in pool_found(gpus), "nothing is kept")
        assert pool_found(gpus) == f"{limits}{gpu}: 12.0 MiB owned, 12.0 MiB of it kept"


@pytest.mark.parametrize(("use", "found"), [("off", ""),
                                            ("on", "none (gpu_pool.bytes): no trainer restarts without a load")])
def test_doctor_of_a_daemon_that_owns_none(home: Path, use: str, found: str) -> None:
    with Gpus(home, use) as gpus:
        assert pool_found(gpus) == found


def test_a_daemon_that_died_too_has_kept_nothing(home: Path) -> None:
    with Gpus(home, "on", arguments=POOL) as gpus:
        killed(gpus, 1, steps=[1, 2, 3], saves=[1])
        gpus.daemon.kill()
        gpus.daemon.start()
        assert loaded(killed(gpus, 1), "step", "warm", "differing") == [[1, False, []]]
