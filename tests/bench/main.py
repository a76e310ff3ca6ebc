"""Figures of one node, each against what the same machine allows in the same run. Timings never fail anything."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.bench.calls import calls
from tests.bench.catalog import catalog
from tests.bench.loads import loads
from tests.bench.memory import memory
from tests.bench.row import Row, table
from tests.bench.saves import saves
from tests.bench.setting import Bench
from tests.bench.small import small
from tests.harness.daemon import REPOSITORY

FAMILIES: dict[str, Callable[[Bench], list[Row]]] = {
    "calls": calls,
    "saves": saves,
    "loads": loads,
    "small": small,
    "memory": memory,
    "catalog": catalog,
}


def machine() -> str:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True,
                            check=False).stdout.strip()
    model = next((line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (f"{os.cpu_count()} × {model}, {memory_gib:.0f} GiB (pool limit {memory_gib / 4:.1f} GiB), "
            f"Linux {platform.release()}, commit {commit or 'unknown'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: minutes become seconds")
    parser.add_argument("--only", choices=sorted(FAMILIES), action="append", help="one family of figures (repeatable)")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--transfer", choices=["pull", "window", "both"], default="both")
    arguments = parser.parse_args()
    transfers = ("pull", "window") if arguments.transfer == "both" else (arguments.transfer,)
    rows: list[Row] = []
    for name, measure in FAMILIES.items():
        if arguments.only is not None and name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory(prefix="ks-", dir=arguments.directory) as home:
            rows += measure(Bench(Path(home), arguments.quick, transfers))
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(line) for line in rows], indent=2, ensure_ascii=False))
    print(machine())
    print(table(rows))


if __name__ == "__main__":
    main()
