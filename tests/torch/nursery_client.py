"""The process that forks ranks (nursery.py), as a test sees it. Imports no PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.daemon import REPOSITORY


class Nursery:
    """Use `close` at the end; children that still run are the caller's to kill."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.torch.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, cwd=REPOSITORY, env=environment)

    def fork(self, module: str, function: str, **arguments: Any) -> int:
        """Starts `function` in a process of its own; returns its id."""
        assert self._process.stdin is not None and self._process.stdout is not None
        command = {"module": module, "function": function, "arguments": arguments}
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
