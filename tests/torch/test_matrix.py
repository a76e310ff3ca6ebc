"""Every layout's checkpoint into every layout, bit for bit, and training that goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import keepstep
import pytest

from tests.harness.daemon import Daemon
from tests.torch.worker import digest
from tests.torch.world import World, merged

SOURCES = (
    "ddp", "zero1", "fsdp1", "fsdp1flat", "fsdp1hybrid", "fsdp2", "tp", "fsdp2tp", "hsdp", "cp", "ddptp", "pptp",
)  # fmt: skip
TARGETS = [
    (4, "ddp"), (4, "zero1"), (4, "fsdp1"), (4, "fsdp1flat"), (4, "fsdp1whole"), (4, "fsdp1hybrid"), (4, "fsdp2"),
    (4, "tp"), (4, "fsdp2tp"), (4, "hsdp"), (4, "cp"), (4, "pptp"), (3, "fsdp2"), (3, "fsdp1flat"), (3, "tp"),
    (2, "ddp"), (2, "tp"), (2, "fsdp2"), (1, "single"),
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(world: World, shared_daemon: Daemon) -> dict[str, tuple[Path, dict[str, str]]]:
    """A trained and saved job of each layout on four ranks: its directory, and what torch's own code gathered of it."""
    result = {}
    world.use(4)
    for seed, layout in enumerate(SOURCES):
        directory = shared_daemon.root / f"matrix-{layout}"
        world("build", name="source", layout=layout, seed=seed)
        world("train", name="source", first=1, last=3)
        said = merged(world("digests", name="source"))
        world("save", name="source", directory=str(directory), step=3)
        result[layout] = directory, said
    world("drop")
    return result


@pytest.mark.parametrize("layout", SOURCES)
def test_a_checkpoint_holds_the_state_by_the_names_of_the_bare_model(
    saved: dict[str, tuple[Path, dict[str, str]]], layout: str
) -> None:
    directory, said = saved[layout]
    reader = keepstep.open(directory)
    assert set(reader.names()) == {name for name in said if not name.startswith("group.")}
    import torch

    for name in reader.names():
        assert digest(torch.from_numpy(reader.tensor(name).numpy())) == said[name], name


@pytest.mark.parametrize(("size", "target"), TARGETS)
def test_every_layout_loads_every_other_bit_for_bit(
    world: World, saved: dict[str, tuple[Path, dict[str, str]]], size: int, target: str
) -> None:
    world.use(size)
    world("build", name="target", layout=target, seed=99)
    for source, (directory, said) in saved.items():
        world("scramble", name="target")
        reports = world("load", name="target", directory=str(directory))
        assert {report["step"] for report in reports} == {3}
        found = merged(world("digests", name="target"))
        if target == "fsdp1flat":  # has one group where the others have two
            found = {name: value for name, value in found.items() if not name.startswith("group.")}
        different = {name for name in found if found[name] != said.get(name, found[name])}
        assert not different, f"{source} → {target} on {size}: {sorted(different)}"
        missing = {name for name in said.keys() - found.keys() if not name.startswith("group.")}
        assert not missing, f"{source} → {target} on {size} lacks {sorted(missing)}"
    world("drop")


@pytest.mark.parametrize("layout", ["ddp", "zero1", "fsdp1", "fsdp1flat", "fsdp2", "tp", "fsdp2tp", "hsdp", "pptp"])
def test_a_resumed_run_has_the_losses_of_the_run_that_went_on(
    world: World, shared_daemon: Daemon, layout: str
) -> None:
    """step = completed updates: nothing is repeated or skipped, and dropout goes on with the generators' numbers."""
    directory = str(shared_daemon.root / f"curve-{layout}")
    world.use(4)
    world("build", name="first", layout=layout)
    losses = world("train_saving", name="first", directory=directory, last=6, at=3)
    world("build", name="second", layout=layout, seed=5)
    assert {report["step"] for report in world("load", name="second", directory=directory)} == {3}
    resumed = world("train", name="second", first=4, last=6)
    assert resumed == [by_rank[3:] for by_rank in losses]
    world("drop")


def test_in_another_layout_the_losses_agree_within_its_arithmetic(world: World, shared_daemon: Daemon) -> None:
    directory = str(shared_daemon.root / "curve-other")
    world.use(4)
    world("build", name="first", layout="tp", dropout=0.0)
    losses = world("train_saving", name="first", directory=directory, last=6, at=3)
    world.use(1)
    world("build", name="second", layout="single", seed=5, dropout=0.0)
    world("load", name="second", directory=directory)
    [resumed] = world("train", name="second", first=4, last=6)
    wanted = [float.fromhex(loss) for loss in losses[0][3:]]
    assert [float.fromhex(loss) for loss in resumed] == pytest.approx(wanted, rel=1e-5)
