"""Saves of one matrix-shaped model by two ranks, each beside a write of the same bytes by fio."""

from __future__ import annotations

import os
import statistics

from tests.bench import limits
from tests.bench.row import Row, ratio_at_least, row
from tests.bench.setting import Bench, drop_steps, most, numpy_ranks
from tests.harness.daemon import Daemon


def saves(bench: Bench) -> list[Row]:
    out: list[Row] = []
    copy = limits.memory_copy(bench.size_bytes, os.cpu_count() or 1, digest=False)
    best = limits.best_write(bench.home, bench.size_bytes)
    for transfer in bench.transfers:
        directory = bench.home / f"saves-{transfer}"
        directory.mkdir()
        every, writes, overwrites = [], [], []
        with Daemon(bench.home) as daemon, numpy_ranks(daemon, directory, 2, "rows", size_bytes=bench.size_bytes,
                                                       transfer=transfer) as ranks:
            for step in range(1, bench.repeats + 2):  # in turn, since the disk is never twice the same
                writes.append(limits.new_file_write(bench.home, bench.size_bytes, best))
                overwrites.append(limits.disk_write(bench.home, bench.size_bytes, best))
                every.append(ranks.tell("save", step))
                drop_steps(directory)
        first, later = every[0], every[1:]
        write = ("fio direct write, new file", statistics.median(writes[1:]) / 1e6)
        overwrite = ("fio direct write, over a file", statistics.median(overwrites[1:]) / 1e6)
        durable = [bench.size_bytes / most(save, "commit_seconds") / 1e6 for save in later]
        out += [
            row(f"snapshot, by {transfer}", [bench.size_bytes / most(save, "snapshot_seconds") / 1e6 for save in later],
                "MB/s", against=("memcpy, all cores", copy / 1e6)),
            row(f"durable save, by {transfer}", durable, "MB/s", against=write, target=ratio_at_least(0.9)),
            row(f"durable save, by {transfer}, held against writing over", durable, "MB/s", against=overwrite,
                target=ratio_at_least(0.9)),
            row(f"first durable save, by {transfer}", [bench.size_bytes / most(first, "commit_seconds") / 1e6], "MB/s",
                against=("fio direct write, new file", writes[0] / 1e6)),
        ]
    return out
