"""GPU memory on the fake driver: at a set bandwidth B, what the way from the GPU to staging memory and back adds to it.

The fake copies as fast as it is told, up to what this machine's memory can; copies of one process in one direction take
turns. So these figures are of Keepstep's pipeline alone, and none of a GPU: tests/gpu/run.sh takes those.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.row import Row, at_most, ratio_at_least, row
from tests.bench.setting import Bench
from tests.fake_cuda.counters import Counters
from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.gpu.setting import GpuRank
from tests.harness.daemon import REPOSITORY, Daemon

CALL_US = 1000.0
COPY_US = 2.0  # a copy's own cost, as on a GPU
BANDWIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
QUICK_BANDWIDTHS = (0.5, 1.0)
SMALL_TENSORS = 20_000
GIB, MIB = 1 << 30, 1 << 20
SAVES_THAT_ADD_NOTHING = 20


@contextmanager
def _rank(bench: Bench, gbps: float, counters: Path) -> Iterator[tuple[GpuRank, Path]]:
    """A trainer with a daemon of its own, on a GPU that copies `gbps` GB/s either way."""
    variables = environment(counters=counters, d2h_gbps=gbps, h2d_gbps=gbps, copy_us=COPY_US)
    directory = bench.home / f"root/gpu-{gbps:g}"
    with (
        Daemon(bench.home, "--gpu", "on", environment=variables) as daemon,
        GpuRank(directory, daemon.address, variables, client=REPOSITORY / "client/python") as rank,
    ):
        directory.mkdir(parents=True, exist_ok=True)
        yield rank, directory


@dataclass
class Copied:
    """GB/s of each, and microseconds of the calls; the first of each is left out."""

    saves: list[float]
    loads: list[float]
    calls: list[float]
    out: float = 0.0  # plain copies of as many bytes by one process, in turn with these: the median
    into: float = 0.0


def _copied(rank: GpuRank, directory: Path, size_bytes: int, steps: Iterator[int], repeats: int) -> Copied:
    rank.tell("register")
    saves, loads, out, into = [], [], [], []
    for _ in range(repeats + 1):
        out.append(rank.tell("plain", 1, size_bytes)["seconds"])
        saves.append(rank.save(directory, steps))
    for _ in range(repeats + 1):
        into.append(rank.tell("plain", 0, size_bytes)["seconds"])
        loads.append(rank.tell("load"))
    gigabytes = size_bytes / 1e9
    return Copied([gigabytes / save["snapshot_seconds"] for save in saves[1:]],
                  [gigabytes / load["seconds"] for load in loads[1:]],
                  [save["call_seconds"] * 1e6 for save in saves[1:]],
                  gigabytes / statistics.median(out[1:]), gigabytes / statistics.median(into[1:]))


def _at(bench: Bench, gbps: float, size_bytes: int) -> list[Row]:
    reference = (f"set to {gbps:g} GB/s", gbps)
    name = f"fake GPU, one of {size_bytes // MIB} MiB"
    steps = itertools.count(1)
    with _rank(bench, gbps, bench.home / f"counters-{gbps:g}") as (rank, directory):
        rank.tell("hold", "large", size_bytes // 4)
        quarter = _copied(rank, directory, size_bytes // 4, steps, bench.repeats)
        rank.tell("hold", "large", size_bytes)
        large = _copied(rank, directory, size_bytes, steps, bench.repeats)
        small_bytes = rank.tell("hold", "small", SMALL_TENSORS)["bytes"]
        small = _copied(rank, directory, small_bytes, steps, bench.repeats)
    # What three quarters of it take: the rest is what every save takes, however small.
    quick_ms, whole_ms = (size / statistics.median(one.saves) / 1e6
                          for size, one in ((size_bytes // 4, quarter), (size_bytes, large)))
    beyond = (size_bytes - size_bytes // 4) / 1e6 / (whole_ms - quick_ms)
    return [
        row(f"{name}: snapshot", large.saves, "GB/s", against=reference, target=ratio_at_least(0.98)),
        row("  of it beyond the first quarter", [beyond], "GB/s", against=reference, target=ratio_at_least(0.98)),
        row("  what the call and the first byte take", [whole_ms - size_bytes / 1e6 / beyond], "ms"),
        row("  held against a plain copy", large.saves, "GB/s", against=("in one process", large.out)),
        row(f"{name}: warm load", large.loads, "GB/s", against=reference, target=ratio_at_least(0.9)),
        row("  held against a plain copy", large.loads, "GB/s", against=("in one process", large.into)),
        row("  save call: median", large.calls, "µs", target=at_most(CALL_US, "µs")),
        row("  save call: longest", large.calls, "µs", target=at_most(CALL_US, "µs"), value=max(large.calls)),
        row("fake GPU, 20,000 of 8-16 KiB: snapshot", small.saves, "GB/s",
            against=("the large snapshot", statistics.median(large.saves)), target=ratio_at_least(0.5)),
        row("fake GPU, 20,000 of 8-16 KiB: warm load", small.loads, "GB/s",
            against=("the large load", statistics.median(large.loads))),
        row("  save call: median", small.calls, "µs", target=at_most(CALL_US, "µs")),
        row("  save call: longest", small.calls, "µs", target=at_most(CALL_US, "µs"), value=max(small.calls)),
    ]


def _held(bench: Bench) -> list[Row]:
    """What the daemon's side holds of the driver after one save, and after many more with a registration each."""
    counters = Counters(bench.home / "counters-held")
    with _rank(bench, 0.0, counters.path) as (rank, directory):
        rank.tell("hold", "large", 64 * MIB)
        seen: list[dict[str, int]] = []
        steps = itertools.count(1)
        for _ in range(SAVES_THAT_ADD_NOTHING + 1):
            rank.tell("register")
            rank.save(directory, steps)
            worker = [process for process in counters.processes() if process.alive and process.pid != rank.pid]
            assert len(worker) == 1, f"{len(worker)} processes beside the trainer use the driver"
            seen.append(counters.held(worker[0].pid))
    first, last = seen[1], seen[-1]
    grown = sum(abs(last.get(name, 0) - first.get(name, 0)) for name in {*first, *last} - {"registered_bytes"})
    return [
        row("daemon: contexts on the fake GPU", [last.get("contexts", 0)], "", target=at_most(1, "")),
        row("daemon: memory of its own on the fake GPU", [last.get("allocated_bytes", 0)], "byte",
            target=at_most(0, "byte")),
        row(f"daemon: what {SAVES_THAT_ADD_NOTHING} saves add: mappings, handles, streams, events", [grown], "",
            target=at_most(0, "")),
        row("daemon: pinned", [last.get("registered_bytes", 0) / MIB], "MiB"),
    ]


def gpu(bench: Bench) -> list[Row]:
    if not LIBRARY.exists():
        raise SystemExit(MISSING)
    out: list[Row] = []
    for gbps in QUICK_BANDWIDTHS if bench.quick else BANDWIDTHS:
        out += _at(bench, gbps, 128 * MIB if bench.quick else GIB)
    return out + _held(bench)
