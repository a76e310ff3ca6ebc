"""What every family of figures is given: where, how large, how often, and processes to measure with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.daemon import REPOSITORY, Daemon

C_RANK = REPOSITORY / "bazel-bin/tests/bench/c_rank"


@dataclass
class Bench:
    home: Path
    quick: bool
    transfers: tuple[str, ...]  # pull, window

    @property
    def size_bytes(self) -> int:
        """Of the model that saves and loads are measured with."""
        return (256 << 20) if self.quick else (2 << 30)

    @property
    def repeats(self) -> int:
        return 3 if self.quick else 7


class Ranks:
    """Ranks of one job, told what to do in step; each answers a line with a line of JSON."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}"}
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
                             env=environment)
            for command in commands
        ]

    def tell(self, *words: object) -> list[dict[str, Any]]:
        line = " ".join(map(str, words)) + "\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        answers = []
        for process in self.processes:
            assert process.stdout is not None
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"a rank ended during '{line.strip()}'")
            answers.append(json.loads(answer))
        return answers

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.wait()
            process.stdout.close()


@contextmanager
def numpy_ranks(daemon: Daemon, directory: Path, world: int, layout: str, *, size_bytes: int,
                transfer: str = "auto") -> Iterator[Ranks]:
    """Ranks through the Python package; registered, with the answer to that in `registered`."""
    ranks = Ranks([
        [sys.executable, "-m", "tests.bench.rank", str(directory), "--address", daemon.address, "--rank", str(rank),
         "--world", str(world), "--bytes", str(size_bytes), "--transfer", transfer]
        for rank in range(world)
    ])
    try:
        ranks.tell("register", layout)
        yield ranks
    finally:
        ranks.close()


@contextmanager
def c_ranks(daemon: Daemon, directory: Path, world: int, *, tensors: int, size_bytes: int) -> Iterator[Ranks]:
    """Ranks through the C ABI, together `size_bytes`; registered."""
    ranks = Ranks([
        [str(C_RANK), str(directory), daemon.address, str(rank), str(world), str(tensors // world),
         str(size_bytes // world)]
        for rank in range(world)
    ])
    try:
        ranks.tell("register")
        yield ranks
    finally:
        ranks.close()


def most(answers: list[dict[str, Any]], key: str) -> float:
    return max(float(answer[key]) for answer in answers)


def total(answers: list[dict[str, Any]], key: str) -> float:
    return sum(float(answer[key]) for answer in answers)


def drop_steps(directory: Path) -> None:
    """Gives the space of every step back, so that many saves fit the disk. For a job that nobody will load."""
    for entry in directory.iterdir():
        if entry.name.isdigit():
            shutil.rmtree(entry)
