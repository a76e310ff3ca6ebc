"""How fast: each figure beside a plain copy of the same bytes by the same card, in one process and in turn."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.row import Row, at_most, ratio_at_least, row
from tests.bench.setting import drop_steps
from tests.gpu.installed import Installed
from tests.gpu.setting import GpuRank
from tests.harness.daemon import Daemon

MIB = 1 << 20
CALL_US = 1000.0
OVERLAP_PERCENT = 1.0


@dataclass(frozen=True)
class Scale:
    large_bytes: int
    repeats: int
    training_bytes: int  # what a copy within the GPU moves
    steps: int
    small_tensors: int
    saves: int  # after which nothing has grown


FULL = Scale(2048 * MIB, 7, 256 * MIB, 5, 20_000, 20)
QUICK = Scale(64 * MIB, 2, 16 * MIB, 2, 2_000, 5)


class Figures:
    """Of one trainer, whose daemon writes to `directory`."""

    def __init__(self, rank: GpuRank, directory: Path, scale: Scale, where: str) -> None:
        self._rank = rank
        self._directory = directory
        self._scale = scale
        self._where = where  # begins each figure: "GPU", "fake GPU"
        self._steps = itertools.count(1)

    def _save(self) -> dict[str, float]:
        return self._rank.save(self._directory, self._steps)

    def copies(self, name: str, what: str, count: int) -> tuple[list[Row], float, float]:
        """Rows of saves and loads of what is then held, and the medians of both in GB/s. The first save is apart."""
        held = self._rank.tell("hold", what, count)["bytes"]
        self._rank.tell("register")
        first = held / self._save()["snapshot_seconds"] / 1e9
        outs, ins, saves, loads, calls = [], [], [], [], []
        self._rank.tell("load")
        for _ in range(self._scale.repeats):
            outs.append(held / self._rank.tell("plain", 1, held)["seconds"] / 1e9)
            save = self._save()
            saves.append(held / save["snapshot_seconds"] / 1e9)
            calls.append(save["call_seconds"] * 1e6)
            ins.append(held / self._rank.tell("plain", 0, held)["seconds"] / 1e9)
            self._rank.tell("load")  # what the pool has not kept is read from storage here, and not below
            loads.append(held / self._rank.tell("load")["seconds"] / 1e9)
        out, into = statistics.median(outs), statistics.median(ins)
        rows = [
            row(f"{name}: longest save call", calls, "µs", target=at_most(CALL_US, "µs"),
                value=max(calls)),
            row(f"{name}: GPU to host, save", saves, "GB/s", against=("plain pinned copy", out),
                target=ratio_at_least(0.95) if what == "large" else None),
            row(f"{name}: GPU to host, first save", [first], "GB/s", against=("plain pinned copy", out)),
            row(f"{name}: host to GPU, load", loads, "GB/s", against=("plain pinned copy", into),
                target=ratio_at_least(0.9) if what == "large" else None),
        ]
        return rows, statistics.median(saves), statistics.median(loads)

    def bandwidth(self) -> Iterator[Row]:
        size = self._scale.large_bytes
        rows, large, large_load = self.copies(f"{self._where}, one of {size // MIB} MiB", "large", size)
        yield from rows
        name = f"{self._where}, {self._scale.small_tensors:,} of 8-16 KiB"
        rows, small, small_load = self.copies(name, "small", self._scale.small_tensors)
        yield from rows
        yield row(f"{name}: save", [small], "GB/s", against=("one large tensor's save", large),
                  target=ratio_at_least(0.5))
        yield row(f"{name}: load", [small_load], "GB/s", against=("one large tensor's load", large_load))

    def overlap(self) -> Iterator[Row]:
        """A step that takes some three snapshots, with a save begun at its begin and without, in turn."""
        self._rank.tell("hold", "large", self._scale.large_bytes)
        self._rank.tell("register")
        snapshot = [self._save()["snapshot_seconds"] for _ in range(2)][-1]
        self._rank.tell("training", self._scale.training_bytes, 1)
        one = min(self._rank.tell("step", 0)["seconds"] for _ in range(3))
        self._rank.tell("training", self._scale.training_bytes, max(1, round(3 * snapshot / one)))
        alone, beside = [], []
        for _ in range(self._scale.steps):
            alone.append(self._rank.tell("step", 0)["seconds"])
            drop_steps(self._directory)
            beside.append(self._rank.tell("step", next(self._steps))["seconds"])
            self._rank.tell("settle")
        plain = statistics.median(alone)
        yield row(f"{self._where}: extra time of a step beside a save", [100 * (s / plain - 1) for s in beside],
                  "%", target=at_most(OVERLAP_PERCENT, "%"))
        yield row(f"{self._where}: that step, without a save", [1e3 * s for s in alone], "ms")

    def memory(self, daemon_pid: int) -> Iterator[Row]:
        """What the GPU has less of, whoever else uses it, once a daemon that had no worker has saved."""
        self._rank.tell("hold", "large", self._scale.training_bytes)
        assert workers(daemon_pid) == 0, "the daemon has a worker already: what it takes cannot be seen"
        before = self._rank.tell("free")["bytes"]
        self._rank.tell("register")
        self._save()
        free = self._rank.tell("free")["bytes"]
        for _ in range(self._scale.saves):
            self._rank.tell("register")
            self._save()
        more = free - self._rank.tell("free")["bytes"]
        yield row(f"{self._where}: contexts of the daemon", [workers(daemon_pid)], "", target=at_most(1, ""))
        yield row(f"{self._where}: memory of the GPU that they take", [(before - free) / MIB], "MiB")
        yield row(f"{self._where}: what {self._scale.saves} more saves add", [more / MIB], "MiB",
                  target=at_most(0, "MiB"))


def workers(daemon_pid: int) -> int:
    """Device workers that live: each has one context."""
    children = Path(f"/proc/{daemon_pid}/task")
    pids = {pid for task in children.iterdir() for pid in (task / "children").read_text().split()}
    return sum((Path("/proc") / pid / "comm").read_text().strip() == "keepstep-device" for pid in pids)


def figures(daemon: Daemon, installed: Installed, variables: dict[str, str], directory: Path, *, scale: Scale,
            where: str) -> Iterator[Row]:
    """Of a daemon that has not saved yet; jobs lie beneath `directory`. `where` begins each figure's name."""
    with GpuRank(directory, daemon.address, variables, installed.client) as rank:
        own = Figures(rank, directory, scale, where)
        yield from own.memory(daemon.pid)
        yield from own.bandwidth()
        yield from own.overlap()
