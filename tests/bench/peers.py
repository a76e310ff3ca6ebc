#!/usr/bin/env -S python3
"""Keepstep beside other checkpoint libraries, in turn, on the same work and disk. Timings never fail anything.

Same torch, one thread a rank, float32 and bfloat16 on the CPU; files are flushed by the library, or else by the harness
within the time to durable. Keepstep checks a digest of every block that it loads; peers that check less are not slowed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == "__main__" and not __package__:  # as a program: again, as the module that it is
    os.chdir(_REPOSITORY)
    os.execv(".venv/bin/python", [".venv/bin/python", "-m", "tests.bench.peers", *sys.argv[1:]])

import argparse  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
from dataclasses import asdict  # noqa: E402

from tests.bench.machine import machine  # noqa: E402
from tests.bench.peer import environment  # noqa: E402
from tests.bench.peer.api import PEERS  # noqa: E402
from tests.bench.peer.figures import by_peer, rows  # noqa: E402
from tests.bench.peer.measure import Measured, measure  # noqa: E402
from tests.bench.peer.workload import workload  # noqa: E402
from tests.bench.row import table  # noqa: E402

WORKLOADS = ("gpt", "small", "large")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/bench/peers.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: minutes instead of an hour")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="one of them (repeatable)")
    parser.add_argument("--peer", choices=[entry.name for entry in PEERS], action="append", help="one (repeatable)")
    parser.add_argument("--repeats", type=int, help="of each figure (default 7, quick: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and run there")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="on the disk to measure")
    arguments = parser.parse_args()
    missing = environment.prepare()
    used = environment.versions()
    header = f"{machine()}; {', '.join(f'{name} {version}' for name, version in used.items())}"
    print(header)
    chosen = [entry for entry in PEERS if arguments.peer is None or entry.name in arguments.peer]
    repeats = arguments.repeats or (2 if arguments.quick else 7)
    done: list[Measured] = []
    for name in arguments.workload or WORKLOADS:
        shape = workload(name, arguments.quick)
        with tempfile.TemporaryDirectory(prefix="ks-peers-", dir=arguments.directory) as home:
            done.append(measure(Path(home), shape, chosen, quick=arguments.quick, repeats=repeats,
                                say=lambda text: print(f"peers: {text}", file=sys.stderr, flush=True)))
        print("\n" + by_peer(done[-1]) + "\n\n" + table(rows(done[-1])), flush=True)
    for package, why in missing.items():
        print(f"not installed: {package}: {why}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({
            "machine": header, "not_installed": missing,
            "workloads": [{"name": one.shape.name, "state_bytes": one.shape.state_bytes, "tensors": one.tensors,
                           "peers": one.peers, "keepstep": one.beside, "reference": one.reference,
                           "failed": one.failed, "rows": [asdict(row) for row in rows(one)]} for one in done],
        }, indent=1))


if __name__ == "__main__":
    main()
