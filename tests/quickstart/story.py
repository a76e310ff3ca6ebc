"""What the quickstart prints: a story, two tables, where things lie and what to try next."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.daemon import KEEPSTEP, REPOSITORY, Daemon


@dataclass(frozen=True)
class SaveRow:
    """One committed save: of each time the slowest rank's."""

    step: int
    call: float
    snapshot: float
    durable: float
    committed: float
    bytes: int
    identical: bool

    @staticmethod
    def of(step: int, stats: Sequence[dict[str, Any]], total_bytes: int, identical: bool) -> SaveRow:
        def slowest(key: str) -> float:
            return max(float(one[key]) for one in stats)

        return SaveRow(
            step, slowest("call_seconds"), slowest("snapshot_seconds"), slowest("persist_seconds"),
            slowest("commit_seconds"), total_bytes, identical,
        )  # fmt: skip


@dataclass(frozen=True)
class RestoreRow:
    title: str
    step: int
    seconds: float
    bytes: int
    read_bytes: int  # from storage: the rest came from the daemon's pool, which still held it
    identical: bool


def say(text: str) -> None:
    print(textwrap.fill(" ".join(text.split()), 100), flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; all but the first to the right."""
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))]  # noqa: B905
        print("  " + "  ".join(cells).rstrip(), flush=True)
    print(flush=True)


def save_table(rows: Sequence[SaveRow]) -> None:
    table(
        ["save of step", "call", "snapshot", "durable", "committed", "MB", "MB/s", "identical"],
        [
            [
                str(row.step), _ms(row.call), _ms(row.snapshot), _ms(row.durable), _ms(row.committed),
                _mb(row.bytes), _rate(row.bytes, row.committed), _yes(row.identical),
            ]
            for row in rows
        ],
    )  # fmt: skip


def restore_table(rows: Sequence[RestoreRow]) -> None:
    table(
        ["restored into", "step", "time", "MB", "MB/s", "MB from disk", "identical"],
        [
            [row.title, str(row.step), _ms(row.seconds), _mb(row.bytes), _rate(row.bytes, row.seconds),
             _mb(row.read_bytes), _yes(row.identical)]
            for row in rows
        ],
    )  # fmt: skip


def closing(directory: Path, exported: Path, daemon: Daemon, kept: bool) -> None:
    command = KEEPSTEP.relative_to(REPOSITORY)
    print(f"The job lies in       {directory}\nThe export lies in    {exported}\nThe daemon's log is   {daemon.log}\n")
    print("Try next:")
    if kept:
        print(f"  export KEEPSTEP_ADDR={daemon.address}          # the daemon is running; kill {daemon.pid} ends it")
        print(f"  {command} status")
        print(f"  {command} ls {directory.name}")
        print(f"  {command} tensors {directory.name}/latest")
        print(f"  {command} verify {directory.name}/latest")
    else:
        print("  deploy/quickstart.sh --keep                  # the same, and leaves the daemon running")
    print(
        '  PYTHONPATH=client/python .venv/bin/python -c "import keepstep; '
        f"print(keepstep.open('{directory}').tensor('pooler.dense.weight')[0:2, 0:4])\""
    )


def complain(text: str) -> None:
    print(f"quickstart: {text}", file=sys.stderr, flush=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _rate(size: int, seconds: float) -> str:
    return f"{size / 1e6 / seconds:.0f}" if seconds > 0 else "-"


def _yes(identical: bool) -> str:
    return "yes" if identical else "NO"
