"""Memory of daemon and trainers while they save and load, as the kernel shares it out (PSS)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.row import Row, at_most, ratio_at_most, row
from tests.bench.sampling import sampled
from tests.bench.setting import Bench, drop_steps, numpy_ranks
from tests.harness.daemon import Daemon

_PERIOD_SECONDS = 0.02
MIB = 1 << 20


@dataclass
class Peak:
    """Largest values seen, in bytes."""

    daemon: int = 0
    daemon_beyond_pool: int = 0
    trainers: int = 0


def _pss(pid: int) -> tuple[int, int]:
    """All of it, and the part that was asked for in huge pages: of the daemon that is its pool alone."""
    whole = huge = pss = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Pss:"):
            pss = int(line.split()[1]) * 1024
            whole += pss
        elif line.startswith("VmFlags:") and "hg" in line.split():
            huge += pss
    return whole, huge


@contextmanager
def watched(daemon: int, trainers: list[int]) -> Iterator[Peak]:
    peak = Peak()

    def look() -> None:
        whole, pool = _pss(daemon)
        peak.daemon = max(peak.daemon, whole)
        peak.daemon_beyond_pool = max(peak.daemon_beyond_pool, whole - pool)
        peak.trainers = max(peak.trainers, sum(_pss(trainer)[0] for trainer in trainers))

    with sampled(_PERIOD_SECONDS, look):
        yield peak


def memory(bench: Bench) -> list[Row]:
    out: list[Row] = []
    pool = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4 / MIB
    cases = [(transfer, "rows", 2, bench.size_bytes, f"{bench.size_bytes // MIB} MiB by {transfer}")
             for transfer in bench.transfers]
    cases.append(("auto", "tiny", 1, 100_000 * 4096, "100,000 tensors"))
    for index, (transfer, layout, world, size_bytes, name) in enumerate(cases):
        directory = bench.home / f"memory{index}"
        directory.mkdir()
        with Daemon(bench.home) as daemon, numpy_ranks(daemon, directory, world, layout, size_bytes=size_bytes,
                                                       transfer=transfer) as ranks:
            pids = [process.pid for process in ranks.processes]
            before = sum(_pss(pid)[0] for pid in pids)
            with watched(daemon.pid, pids) as peak:
                for step in range(1, bench.repeats + 1):
                    drop_steps(directory)
                    ranks.tell("save", step)
                ranks.tell("load")
        out += [
            row(f"daemon, beyond its pool, {name}", [peak.daemon_beyond_pool / MIB], "MiB", target=at_most(150, "MiB")),
            row(f"daemon, all, {name}", [peak.daemon / MIB], "MiB", against=("pool limit", pool)),
            row(f"trainers, peak, {name}", [peak.trainers / MIB], "MiB",
                against=("before the first save", before / MIB), target=ratio_at_most(1.1)),
        ]
    return out
