"""First figures of one node: saves, cold, warm and resharded loads, each against its limit in the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import limits
from tests.harness.daemon import REPOSITORY, Daemon


@dataclass
class Row:
    """One figure: the median of `runs`, and the limit of the same run that it is held against."""

    figure: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    runs: list[float]
    target: str = "-"
    met: bool | None = None


@dataclass
class Bench:
    home: Path
    size_bytes: int
    repeats: int
    transfer: str


class Ranks:
    """Benchmark ranks of one job, told what to do in step."""

    def __init__(self, bench: Bench, daemon: Daemon, directory: Path, world: int, layout: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.rank", str(directory), "--address", daemon.address, "--rank",
                 str(rank), "--world", str(world), "--bytes", str(bench.size_bytes), "--transfer", bench.transfer],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment)
            for rank in range(world)
        ]
        self.registered = self.tell("register", layout)

    def tell(self, *words: object) -> list[dict[str, Any]]:
        line = " ".join(map(str, words)) + "\n"
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"a rank ended during '{line.strip()}'")
            answers.append(json.loads(answer))
        return answers

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


@contextmanager
def ranks(bench: Bench, daemon: Daemon, directory: Path, world: int, layout: str) -> Iterator[Ranks]:
    group = Ranks(bench, daemon, directory, world, layout)
    try:
        yield group
    finally:
        group.close()


def most(answers: list[dict[str, Any]], key: str) -> float:
    return max(float(answer[key]) for answer in answers)


def total(answers: list[dict[str, Any]], key: str) -> float:
    return sum(float(answer[key]) for answer in answers)


def row(figure: str, runs: list[float], unit: str, reference: str, reference_value: float) -> Row:
    value = statistics.median(runs)
    return Row(figure, value, unit, reference, reference_value, value / reference_value if reference_value else 0, runs)


def saves(bench: Bench) -> list[Row]:
    """Saves of one matrix-shaped model by two ranks; the first apart, since it plans and faults the pool in."""
    write = limits.disk_write(bench.home, bench.size_bytes)
    (bench.home / "fio.data").unlink(missing_ok=True)
    with Daemon(bench.home) as daemon, ranks(bench, daemon, bench.home / "saves", 2, "rows") as group:
        every = [group.tell("save", step) for step in range(1, bench.repeats + 2)]
        gate = group.tell("gate", 20000)
    first, later = every[0], every[1:]
    call = [most(save, "call_seconds") * 1e6 for save in later]
    copy = limits.memory_copy(bench.size_bytes, os.cpu_count() or 1, digest=False)
    return [
        row("save call, max of 2 ranks", call, "µs", "-", 0),
        row("before_update, nothing in flight", [most(gate, "seconds") * 1e6], "µs", "-", 0),
        row("snapshot", [bench.size_bytes / most(save, "snapshot_seconds") / 1e6 for save in later], "MB/s",
            "memcpy, all cores", copy / 1e6),
        row("durable save", [bench.size_bytes / most(save, "commit_seconds") / 1e6 for save in later], "MB/s",
            "fio direct write", write / 1e6),
        row("first durable save", [bench.size_bytes / most(first, "commit_seconds") / 1e6], "MB/s",
            "fio direct write", write / 1e6),
    ]


def _read_limit(bench: Bench) -> float:
    limits.disk_write(bench.home, bench.size_bytes)  # leaves the file that is read
    return limits.disk_read(bench.home, bench.size_bytes)


def loads(bench: Bench) -> list[Row]:
    """Cold, warm and resharded loads of what two ranks saved by rows."""
    read = _read_limit(bench)
    threads = os.cpu_count() or 1
    copied = limits.memory_copy(bench.size_bytes, threads, digest=True)
    directory = bench.home / "loads"
    out: list[Row] = []

    def cold(world: int, layout: str) -> tuple[list[float], float]:
        """Rates of loads with page cache and pool empty, and bytes read over unique bytes."""
        rates, waste = [], 0.0
        for _ in range(bench.repeats):
            with Daemon(bench.home) as daemon, ranks(bench, daemon, directory, world, layout) as group:
                limits.drop_caches()
                answers = group.tell("load")
            rates.append(bench.size_bytes / most(answers, "seconds") / 1e6)
            waste = total(answers, "read_bytes") / bench.size_bytes
        return rates, waste

    with Daemon(bench.home) as daemon, ranks(bench, daemon, directory, 2, "rows") as group:
        group.tell("save", 1)
    same, _ = cold(2, "rows")
    out.append(row("cold load, same layout", same, "MB/s", "best fio read", read / 1e6))
    with Daemon(bench.home) as daemon, ranks(bench, daemon, directory, 2, "rows") as group:
        group.tell("load")
        warm = [bench.size_bytes / most(group.tell("load"), "seconds") / 1e6 for _ in range(bench.repeats)]
    out.append(row("warm load, same layout", warm, "MB/s", "memcpy + XXH3, all cores", copied / 1e6))
    for world, layout in ((1, "rows"), (3, "rows"), (2, "columns"), (4, "flat")):
        rates, waste = cold(world, layout)
        out.append(row(f"cold load, 2 by rows → {world} by {layout}", rates, "MB/s", "same layout",
                       statistics.median(same)))
        out.append(row(f"  bytes read ÷ unique, → {world} by {layout}", [waste], "", "-", 0))
    return out


FIGURES: dict[str, Callable[[Bench], list[Row]]] = {"saves": saves, "loads": loads}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 MiB and 3 repetitions instead of 2 GiB and 7")
    parser.add_argument("--only", choices=sorted(FIGURES), help="one family of figures")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--transfer", choices=["pull", "window", "auto"], default="auto")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ks-", dir=arguments.directory) as home:
        bench = Bench(Path(home), (256 << 20) if arguments.quick else (2 << 30), 3 if arguments.quick else 7,
                      arguments.transfer)
        for name, measure in FIGURES.items():
            if arguments.only in (None, name):
                rows += measure(bench)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
          f"{bench.size_bytes >> 20} MiB, transfer {bench.transfer}")
    print(f"{'figure':44} {'value':>10} {'unit':5} {'min':>9} {'max':>9}  {'reference':26} {'':>10} {'ratio':>6}")
    for line in rows:
        print(f"{line.figure:44} {line.value:10.2f} {line.unit:5} {min(line.runs):9.2f} {max(line.runs):9.2f}  "
              f"{line.reference:26} {line.reference_value:10.1f} {line.ratio:6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in rows], indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
