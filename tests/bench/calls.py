"""What a save and a gate cost the trainer: the call itself, through the C ABI and through NumPy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.bench.row import Row, at_most, percentile, row
from tests.bench.setting import Bench, Ranks, c_ranks, drop_steps, most, numpy_ranks
from tests.harness.daemon import Daemon

P50_US, P99_US, GATE_US = 300.0, 2000.0, 1.0
_WARM_UP = 2  # the first save plans and faults the pool in


def _calls(ranks: Ranks, directory_steps: Callable[[], None], count: int) -> list[float]:
    """Microseconds of `count` calls, each the slowest rank's; a save is over before the next begins."""
    calls = []
    for step in range(count + _WARM_UP):
        answers = ranks.tell("save", step)
        directory_steps()
        if step >= _WARM_UP:
            calls.append(most(answers, "call_seconds") * 1e6)
    return calls


def _rows(name: str, calls: list[float]) -> list[Row]:
    return [
        row(f"save call, {name}: p50", calls, "µs", target=at_most(P50_US, "µs")),
        row(f"save call, {name}: p99 of {len(calls)}", calls, "µs", target=at_most(P99_US, "µs"),
            value=percentile(calls, 0.99)),
    ]


def calls(bench: Bench) -> list[Row]:
    gib, mib = 1 << 30, 1 << 20
    base = 64 * mib if bench.quick else gib
    cases: list[tuple[str, str, int, int, int, int]] = [  # name, library, ranks, tensors, bytes, calls
        (f"C ABI, {base // mib} MiB", "c", 1, 64, base, 30 if bench.quick else 100),
        (f"C ABI, {base // mib} MiB, 2 ranks", "c", 2, 64, base, 30 if bench.quick else 100),
        (f"NumPy, {base // mib} MiB", "numpy", 1, 64, base, 30 if bench.quick else 100),
        (f"C ABI, {16 * base // mib} MiB", "c", 1, 64, 16 * base, 10 if bench.quick else 12),
        ("C ABI, 100,000 tensors, 400 MiB", "c", 1, 100_000, 400 * mib, 10 if bench.quick else 50),
        ("NumPy, 100,000 tensors, 400 MiB", "numpy", 1, 100_000, 400 * mib, 10 if bench.quick else 50),
    ]
    out: list[Row] = []
    for index, (name, library, world, tensors, size_bytes, count) in enumerate(cases):
        directory = bench.home / f"calls{index}"
        directory.mkdir()
        with Daemon(bench.home) as daemon:
            started: AbstractContextManager[Ranks]
            if library == "c":
                started = c_ranks(daemon, directory, world, tensors=tensors, size_bytes=size_bytes)
            else:
                layout = "rows" if tensors == 64 else "tiny"
                started = numpy_ranks(daemon, directory, world, layout, size_bytes=size_bytes)
            with started as ranks:
                out += _rows(name, _calls(ranks, lambda at=directory: drop_steps(at), count))  # type: ignore[misc]
                if index in (0, 2):
                    runs = [most(ranks.tell("gate", 100_000), "seconds") * 1e6 for _ in range(7)]
                    out.append(row(f"before_update, nothing in flight, {name.split(',')[0]}", runs, "µs",
                                   target=at_most(GATE_US, "µs")))
    return out
