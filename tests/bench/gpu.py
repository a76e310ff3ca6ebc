"""GPU memory on the fake driver: at a set bandwidth B, what the way from the GPU to staging memory and back adds to it.

The fake copies as fast as it is told, up to what this machine's memory can; copies of one process in one direction take
turns. So these figures are of Keepstep's pipeline alone, and none of a GPU: tests/gpu/run.sh takes those.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.row import Row, at_most, percentile, ratio_at_least, row
from tests.bench.setting import Bench, drop_steps
from tests.fake_cuda.counters import Counters
from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.gpu.setting import GpuRank
from tests.harness.daemon import KEEPSTEPD, REPOSITORY, Daemon

COPY_US = 2.0  # a copy's own cost, as on a GPU
BANDWIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
QUICK_BANDWIDTHS = (0.5, 1.0)
SMALL_TENSORS = 20_000
GIB, MIB = 1 << 30, 1 << 20
SAVES_THAT_ADD_NOTHING = 20


@contextmanager
def _rank(bench: Bench, gbps: float, counters: Path) -> Iterator[tuple[GpuRank, Path, Daemon]]:
    """A trainer with a daemon of its own, on a GPU that copies `gbps` GB/s either way."""
    variables = environment(counters=counters, d2h_gbps=gbps, h2d_gbps=gbps, copy_us=COPY_US)
    directory = bench.home / "root/gpu"
    with Daemon(bench.home, "--gpu", "on", environment=variables, program=KEEPSTEPD) as daemon:
        with GpuRank(directory, daemon.address, variables, client=REPOSITORY / "client/python") as rank:
            yield rank, directory, daemon


def _copied(rank: GpuRank, directory: Path, size_bytes: int, repeats: int
            ) -> tuple[list[float], list[float], list[float]]:
    """Bytes a second of saves' snapshots and of loads, and microseconds of the calls; the first of each is left out."""
    rank.tell("register")
    saves, loads = [], []
    for step in range(1, repeats + 2):
        drop_steps(directory)
        saves.append(rank.tell("save", step))
    for _ in range(repeats + 1):
        loads.append(rank.tell("load"))
    return ([size_bytes / save["snapshot_seconds"] for save in saves[1:]],
            [size_bytes / load["seconds"] for load in loads[1:]],
            [save["call_seconds"] * 1e6 for save in saves[1:]])


def _at(bench: Bench, gbps: float, size_bytes: int) -> list[Row]:
    reference = (f"set to {gbps:g} GB/s", gbps)
    name = f"fake GPU, one of {size_bytes // MIB} MiB"
    with _rank(bench, gbps, bench.home / f"counters-{gbps:g}") as (rank, directory, _):
        rank.tell("hold", "large", size_bytes)
        saves, loads, calls = _copied(rank, directory, size_bytes, bench.repeats)
        small_bytes = rank.tell("hold", "small", SMALL_TENSORS)["bytes"]
        small, small_loads, small_calls = _copied(rank, directory, small_bytes, bench.repeats)
    large = statistics.median(saves) / 1e9
    return [
        row(f"{name}: snapshot", [one / 1e9 for one in saves], "GB/s", against=reference, target=ratio_at_least(0.98)),
        row(f"{name}: warm load", [one / 1e9 for one in loads], "GB/s", against=reference, target=ratio_at_least(0.9)),
        row("  save call, NumPy-like arrays", calls, "µs", target=at_most(1000, "µs"), value=percentile(calls, 1)),
        row("fake GPU, 20,000 of 8-16 KiB: snapshot", [one / 1e9 for one in small], "GB/s",
            against=("the large snapshot", large), target=ratio_at_least(0.5)),
        row("  warm load", [one / 1e9 for one in small_loads], "GB/s",
            against=("the large load", statistics.median(loads) / 1e9)),
        row("  save call, 20,000 arrays", small_calls, "µs", target=at_most(1000, "µs"), value=percentile(small_calls, 1)),
    ]


def _held(bench: Bench) -> list[Row]:
    """What the daemon's side holds of the driver after one save, and after many more with a registration each."""
    counters = Counters(bench.home / "counters-held")
    with _rank(bench, 0.0, counters.path) as (rank, directory, daemon):
        rank.tell("hold", "large", 64 * MIB)
        seen: list[dict[str, int]] = []
        for step in range(1, SAVES_THAT_ADD_NOTHING + 2):
            drop_steps(directory)
            rank.tell("register")
            rank.tell("save", step)
            worker = [process for process in counters.processes() if process.alive and process.pid != rank.pid]
            assert len(worker) == 1, f"{len(worker)} processes beside the trainer use the driver"
            seen.append(counters.held(worker[0].pid))
    grown = sum(abs(seen[-1].get(name, 0) - seen[1].get(name, 0)) for name in {*seen[1], *seen[-1]} - {"registered_bytes"})
    return [
        row("daemon: contexts on the fake GPU", [seen[-1].get("contexts", 0)], "", target=at_most(1, "")),
        row("daemon: memory of its own on the fake GPU", [seen[-1].get("allocated_bytes", 0)], "byte",
            target=at_most(0, "byte")),
        row(f"daemon: what {SAVES_THAT_ADD_NOTHING} saves add: mappings, handles, streams, events", [grown], "",
            target=at_most(0, "")),
        row("daemon: pinned", [seen[-1].get("registered_bytes", 0) / MIB], "MiB"),
    ]


def gpu(bench: Bench) -> list[Row]:
    if not LIBRARY.exists():
        raise SystemExit(MISSING)
    out: list[Row] = []
    for gbps in QUICK_BANDWIDTHS if bench.quick else BANDWIDTHS:
        out += _at(bench, gbps, 128 * MIB if bench.quick else GIB)
    return out + _held(bench)
