"""Mistakes and differences between ranks: what each gets told, and that nothing wrong is committed."""

from __future__ import annotations

import keepstep
import pytest

from tests.harness.daemon import Daemon
from tests.torch.world import World

CASES = "tests.torch.rank_cases"


@pytest.mark.parametrize(("size", "layout"), [(2, "plain"), (4, "tp")])
def test_pipeline_stages_with_equal_local_names_are_refused_by_name(
    world: World, shared_daemon: Daemon, size: int, layout: str
) -> None:
    """They look like replicas and are none; silently one of them would be lost."""
    directory = str(shared_daemon.root / f"stages-{layout}")
    for first, second in world.use(size)("same_local_names", module=CASES, directory=directory, layout=layout):
        reason, told = first
        assert reason == "UNDECLARED_REPLICA" and "weight" in told and "ranks 0 and " in told
        assert second[0] == "COMMITTED"
    assert set(keepstep.open(directory).names()) >= {"stage0.weight", "stage1.weight"}


def test_statistics_may_differ_between_replicas_and_weights_may_not(world: World, shared_daemon: Daemon) -> None:
    directory = str(shared_daemon.root / "statistics")
    said = world.use(2)("statistics_differ", module=CASES, directory=directory)
    means = [mean for _, _, mean, _ in said]
    assert means[0] != means[1]
    for first, second, _, stored in said:
        assert first[0] == "COMMITTED" and stored == means[0]
        assert second[0] == "REPLICA_MISMATCH" and "0.weight" in second[1]


def test_a_save_on_rank_zero_alone_says_so(world: World, shared_daemon: Daemon) -> None:
    directory = str(shared_daemon.root / "alone")
    zero, one = world.use(2)("only_rank_zero", module=CASES, directory=directory)
    assert zero[0] == one[0] == "None"
    assert zero[1] in ("ACCEPTED", "SNAPSHOTTED", "PERSISTED")
    for reason, told in zero[2]:
        assert reason == "TRAINER_DIED" and "Rank 1" in told and "not rank 0 alone" in told, told
    assert keepstep.open(directory).step == 1


def test_a_local_tensor_that_fsdp2_replaced_is_what_is_saved(world: World, shared_daemon: Daemon) -> None:
    directory = str(shared_daemon.root / "replaced")
    assert {tuple(said) for said in world.use(2)("replaced_local", module=CASES, directory=directory)} == {
        ("COMMITTED", "")}
    assert (keepstep.open(directory).tensor("up.weight").numpy() == 7).all()


def test_another_world_size_midway_ends_the_old_world_not_the_new(world: World, shared_daemon: Daemon) -> None:
    directory = str(shared_daemon.root / "midway")
    assert world.use(2)("open_and_save", module=CASES, directory=directory) == ["COMMITTED"] * 2
    assert world("take_over", module=CASES, only=1, directory=directory) == ["COMMITTED"]
    for reason, told in world("go_on", module=CASES, directory=directory):
        assert reason == "STALE_EPOCH" and "taken it over" in told, told


def test_a_forked_worker_is_told_and_its_trainer_goes_on(world: World, shared_daemon: Daemon) -> None:
    [told] = world.use(1)("in_a_fork", module=CASES, directory=str(shared_daemon.root / "fork"))
    assert told.startswith("FORKED: ")


def test_a_failure_on_one_rank_raises_at_the_same_save_on_every_rank(world: World, shared_daemon: Daemon) -> None:
    zero, one = world.use(2)("verdicts", module=CASES, directory=str(shared_daemon.root / "verdicts"))
    assert zero == one and len(zero) == 1 and zero[0][0] > 2 and zero[0][1] == "STEPS_DIFFER"


def test_sigterm_on_one_rank_saves_on_all_ranks_at_one_step(world: World, shared_daemon: Daemon) -> None:
    zero, one = world.use(2)("preempted", module=CASES, directory=str(shared_daemon.root / "preempted"))
    assert zero[:2] == one[:2] and zero[1] == "COMMITTED" and zero[0] > 5
    assert (zero[2], one[2]) == (False, True)
