"""A trainer process to measure with (rank.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.setting import drop_steps

SOURCES = Path(__file__).resolve().parents[2]


def child_environment(variables: dict[str, str], client: Path) -> dict[str, str]:
    """Of a child that finds the keepstep package beneath `client`, and these tests."""
    return {**os.environ, **variables, "PYTHONPATH": f"{client}:{SOURCES}", "PYTHONDONTWRITEBYTECODE": "1"}


class GpuRank:
    """Ends with its `with`; told what to do line by line."""

    def __init__(self, directory: Path, address: str, variables: dict[str, str], client: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.rank", str(directory), address], cwd=SOURCES, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(variables, client))

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, *words: object) -> dict[str, Any]:
        """Its answer. RuntimeError: it ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(" ".join(map(str, words)) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the trainer ended in '{words[0]}', with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def save(self, directory: Path, steps: Iterator[int]) -> dict[str, Any]:
        """Its times, under the next of `steps`, with no other step left beneath `directory`."""
        drop_steps(directory)
        return self.tell("save", next(steps))

    def close(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.close()
        self._process.wait()
        stdout.close()

    def __enter__(self) -> GpuRank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
