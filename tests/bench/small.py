"""Many small tensors: where work for each tensor, not bytes, decides."""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.bench import limits
from tests.bench.loads import cold_load
from tests.bench.row import Row, at_most, ratio_at_most, row
from tests.bench.setting import Bench, Ranks, drop_steps, most, numpy_ranks
from tests.harness.daemon import Daemon

SMALL_BYTES = 20_000 * 18 * 1024  # what the layout "small" holds: 4 to 32 KiB each
TINY_BYTES = 100_000 * 4096


def _durable(ranks: Ranks, directory: Path, repeats: int) -> list[float]:
    seconds = []
    for step in range(1, repeats + 2):  # the first one plans
        drop_steps(directory)
        seconds.append(most(ranks.tell("save", step), "commit_seconds"))
    return seconds[1:]


def small(bench: Bench) -> list[Row]:
    out: list[Row] = []
    directory = bench.home / "small"
    directory.mkdir()
    best = limits.best_write(bench.home, SMALL_BYTES)
    with Daemon(bench.home) as daemon, numpy_ranks(daemon, directory, 1, "small", size_bytes=SMALL_BYTES) as ranks:
        writes = [SMALL_BYTES / limits.new_file_write(bench.home, SMALL_BYTES, best) for _ in range(bench.repeats)]
        overwrites = [SMALL_BYTES / limits.disk_write(bench.home, SMALL_BYTES, best) for _ in range(bench.repeats)]
        seconds = _durable(ranks, directory, bench.repeats)
        for how, took in (("a new file", writes), ("over a file", overwrites)):
            out.append(row(f"20,000 tensors of 4-32 KiB: durable, held against {how}", seconds, "s",
                           against=("fio write of as much", statistics.median(took)), target=ratio_at_most(1.3)))
    reads, loads = [], []
    for _ in range(bench.repeats):
        reads.append(SMALL_BYTES / limits.disk_read(bench.home, SMALL_BYTES))
        loads.append(cold_load(bench, directory, 1, "small", SMALL_BYTES, "auto")[0])
    (bench.home / limits.DATA).unlink()
    out.append(row("20,000 tensors of 4-32 KiB: cold load", loads, "s",
                   against=("fio read of as much", statistics.median(reads)), target=ratio_at_most(1.3)))
    tiny = bench.home / "tiny"
    tiny.mkdir()
    with Daemon(bench.home) as daemon, numpy_ranks(daemon, tiny, 1, "tiny", size_bytes=TINY_BYTES) as ranks:
        again = [most(ranks.tell("register", "tiny"), "seconds") for _ in range(bench.repeats)]
        out.append(row("100,000 tensors of 4 KiB: register, NumPy", again, "s", target=at_most(2, "s")))
        out.append(row("100,000 tensors of 4 KiB: durable", _durable(ranks, tiny, bench.repeats), "s",
                       target=at_most(2, "s")))
    return out
