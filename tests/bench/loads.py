"""Cold, warm and resharded loads of what two ranks saved by rows."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from tests.bench import limits
from tests.bench.row import Row, ratio_at_least, ratio_at_most, row
from tests.bench.setting import Bench, most, numpy_ranks, total
from tests.harness.daemon import Daemon

OTHERS = ((1, "rows"), (3, "rows"), (2, "columns"), (4, "flat"))


def cold_load(bench: Bench, directory: Path, world: int, layout: str, size_bytes: int, transfer: str
              ) -> tuple[float, float]:
    """Seconds of a load with page cache and pool empty, and bytes read over unique bytes."""
    with Daemon(bench.home) as daemon, numpy_ranks(daemon, directory, world, layout, size_bytes=size_bytes,
                                                   transfer=transfer) as ranks:
        limits.drop_caches()
        answers = ranks.tell("load")
    return most(answers, "seconds"), total(answers, "read_bytes") / size_bytes


def loads(bench: Bench) -> list[Row]:
    size, out = bench.size_bytes, []
    directory = bench.home / "loads"
    with Daemon(bench.home) as daemon, numpy_ranks(daemon, directory, 2, "rows", size_bytes=size) as ranks:
        ranks.tell("save", 1)
    limits.disk_write(bench.home, size)  # leaves the file that fio reads
    both = ("memcpy + XXH3, all cores", limits.memory_copy(size, os.cpu_count() or 1, digest=True) / 1e6)
    for transfer in bench.transfers:
        layouts = [(2, "rows"), *(OTHERS if transfer == "pull" or not bench.quick else ())]
        seconds: dict[tuple[int, str], list[float]] = {layout: [] for layout in layouts}
        waste: dict[tuple[int, str], float] = {}
        reads = []
        for _ in range(bench.repeats):  # in turn, since the disk is never twice the same
            reads.append(limits.disk_read(bench.home, size))
            for world, layout in layouts:
                took, waste[world, layout] = cold_load(bench, directory, world, layout, size, transfer)
                seconds[world, layout].append(took)
        rates = {layout: [size / one / 1e6 for one in runs] for layout, runs in seconds.items()}
        out.append(row(f"cold load, same layout, by {transfer}", rates[2, "rows"], "MB/s",
                       against=("best fio read", statistics.median(reads) / 1e6), target=ratio_at_least(0.9)))
        with Daemon(bench.home) as daemon, numpy_ranks(daemon, directory, 2, "rows", size_bytes=size,
                                                       transfer=transfer) as ranks:
            ranks.tell("load")
            warm = [size / most(ranks.tell("load"), "seconds") / 1e6 for _ in range(bench.repeats)]
        out.append(row(f"warm load, same layout, by {transfer}", warm, "MB/s", against=both,
                       target=ratio_at_least(0.7)))
        for world, layout in layouts[1:]:
            out.append(row(f"cold load, 2 by rows → {world} by {layout}, by {transfer}", seconds[world, layout], "s",
                           against=("same layout", statistics.median(seconds[2, "rows"])), target=ratio_at_most(1.1)))
            out.append(row(f"  bytes read ÷ unique bytes, → {world} by {layout}", [waste[world, layout]], "",
                           against=("least possible", 1.0), target=ratio_at_most(1.02)))
    (bench.home / limits.DATA).unlink()
    return out
