"""Runs the processes of a job, each with its own interpreter, and collects the JSON lines that they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from tests.harness.daemon import REPOSITORY

Event = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How one process ended, and what it had said by then."""

    status: int
    events: list[Event]
    errors: str

    def named(self, event: str) -> list[Event]:
        return [told for told in self.events if told["event"] == event]


def run_world(module: str, arguments: list[list[str]], timeout_seconds: float) -> list[Ended]:
    """One process of `module` for each list of arguments, all at once; returns when all have ended.

    Whoever is left after the time limit is killed, and its status says so.
    """
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'client/python'}", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *each],
            cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for each in arguments
    ]  # fmt: skip
    results: dict[int, Ended] = {}

    def collect(index: int, process: subprocess.Popen[str]) -> None:
        try:
            output, errors = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors += f"\nkilled after {timeout_seconds:.0f} s"
        events = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
        results[index] = Ended(process.returncode, events, errors)

    threads = [threading.Thread(target=collect, args=each) for each in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(len(processes))]
