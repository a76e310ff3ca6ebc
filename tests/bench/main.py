"""Figures of one node, each against what the same machine allows in the same run. Timings never fail anything."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.bench.calls import calls
from tests.bench.catalog import catalog
from tests.bench.gpu import gpu
from tests.bench.loads import loads
from tests.bench.machine import machine
from tests.bench.memory import memory
from tests.bench.row import Row, table
from tests.bench.saves import saves
from tests.bench.setting import Bench
from tests.bench.small import small

FAMILIES: dict[str, Callable[[Bench], list[Row]]] = {
    "calls": calls,
    "saves": saves,
    "loads": loads,
    "small": small,
    "memory": memory,
    "catalog": catalog,
    "gpu": gpu,
}
DEFAULT = tuple(name for name in FAMILIES if name != "gpu")  # its fake driver needs CUDA's headers


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
        if name not in (arguments.only or DEFAULT):
            continue
        with tempfile.TemporaryDirectory(prefix="ks-", dir=arguments.directory) as home:
            rows += measure(Bench(Path(home), arguments.quick, transfers))
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(line) for line in rows], indent=2, ensure_ascii=False))
    print(machine())
    print(table(rows))


if __name__ == "__main__":
    main()
