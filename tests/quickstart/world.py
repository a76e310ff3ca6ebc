"""Runs the processes of a job, each with its own interpreter, and collects the JSON lines that they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
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


def run_world(
    module: str, arguments: list[list[str]], timeout_seconds: float, *, hold: str | None = None
) -> list[Ended]:
    """One process of `module` for each list of arguments, all at once; returns when all have ended.

    With `hold`, each process stays (it reads its standard input) until all have printed that event: as in a real job,
    no rank leaves the world before the last one has arrived. Whoever is left after the time limit is killed.
    """
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'client/python'}", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *each],
            cwd=REPOSITORY, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for each in arguments
    ]  # fmt: skip
    arrived = threading.Barrier(len(processes), action=lambda: _release(processes))
    members = [_Member(process, arrived, hold) for process in processes]
    deadline = time.monotonic() + timeout_seconds
    return [member.ended(deadline - time.monotonic()) for member in members]


def _release(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()


class _Member:
    """Reads what one process prints, on two threads, so that no pipe fills up."""

    def __init__(self, process: subprocess.Popen[str], arrived: threading.Barrier, hold: str | None) -> None:
        self._process, self._arrived, self._hold = process, arrived, hold
        self._events: list[Event] = []
        self._errors = ""
        self._threads = [threading.Thread(target=self._read_events), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def ended(self, timeout_seconds: float) -> Ended:
        """Waits for the process; kills it after the time limit."""
        late = ""
        try:
            self._process.wait(max(0.0, timeout_seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            late = "\nkilled: it was not done in time"
        for thread in self._threads:
            thread.join()
        return Ended(self._process.wait(), self._events, self._errors + late)

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        here = self._hold is None
        if here:
            self._arrived.wait()
        for line in self._process.stdout:
            if not line.startswith("{") or not line.endswith("}\n"):
                continue
            self._events.append(json.loads(line))
            if not here and self._events[-1]["event"] == self._hold:
                self._arrived.wait()
                here = True
        if not here:  # it ended without the event: the others need not wait for it
            self._arrived.wait()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()
