"""The command line that sweeps share: how long, which points, from which ledger, where."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=0, help="stop after so many")
    made.add_argument("--hours", type=float, default=0.0, help="stop after so long")
    made.add_argument("--points", default="all", help="all, a scenario, or one point's name")
    made.add_argument("--ledger", type=Path, help="goes on where it ends")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--home", type=Path, help="where daemon and jobs live; kept (default: made and removed)")
    return made


def run_at_home(run: Callable[[argparse.Namespace, Path], int], arguments: argparse.Namespace) -> int:
    """`run` with the home that `arguments` name, or with one of its own that is gone afterwards."""
    if arguments.home is not None:
        arguments.home.mkdir(exist_ok=True)
        return run(arguments, arguments.home)
    home = Path(tempfile.mkdtemp(prefix="ksc-"))
    try:
        return run(arguments, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
