"""The catalog at a layout of a million shards (storage/catalog_bench.cc)."""

from __future__ import annotations

import json
import subprocess

from tests.bench.row import Row, at_least, at_most, row
from tests.bench.setting import Bench
from tests.harness.daemon import REPOSITORY

CATALOG_BENCH = REPOSITORY / "bazel-bin/storage/catalog_bench"


def catalog(bench: Bench) -> list[Row]:
    shards = 100_000 if bench.quick else 1_000_000
    runs = []
    for index in range(1 if bench.quick else 3):
        command = [str(CATALOG_BENCH), "--directory", str(bench.home / f"catalog{index}"), "--shards", str(shards)]
        runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    name = f"catalog, {shards:,} shards"
    return [
        row(f"{name}: point query, p99", [run["query_p99_us"] / 1000 for run in runs], "ms", target=at_most(1, "ms")),
        row(f"{name}: point query, p50", [run["query_p50_us"] / 1000 for run in runs], "ms"),
        row(f"{name}: reindex", [run["shards"] / run["reindex_seconds"] for run in runs], "/s",
            target=at_least(200_000, "/s")),
        row(f"{name}: rows that a further save adds", [run["rows_added"] for run in runs], "", target=at_most(99, "")),
        row(f"{name}: a further save", [run["further_seconds"] for run in runs], "s"),
        row(f"{name}: open", [run["open_seconds"] for run in runs], "s"),
    ]
