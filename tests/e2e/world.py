"""Several trainers at once: started, watched line by line, killed."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness.daemon import REPOSITORY, Daemon

Event = tuple[int, list[str]]


class World:
    """`size` trainer processes of one job. Use as a context: what still runs at the end is killed."""

    def __init__(self, daemon: Daemon, directory: Path, size: int, steps: int, *, transfer: str = "",
                 ask: bool = False) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}",
                       "KEEPSTEP_TRANSFER": transfer}
        self.log = daemon.home / "trainers.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._pending: list[bytes] = [b""] * size
        self._selector = selectors.DefaultSelector()
        with self.log.open("ab") as log:
            for rank in range(size):
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.e2e.trainer", str(directory), "--address", daemon.address,
                     "--rank", str(rank), "--world", str(size), "--steps", str(steps),
                     *(["--ask"] if ask else [])],
                    stdout=subprocess.PIPE, stderr=log, cwd=REPOSITORY, env=environment)
                self.processes.append(process)
                assert process.stdout is not None
                self._selector.register(process.stdout, selectors.EVENT_READ, rank)

    def events(self, timeout_seconds: float) -> list[Event]:
        """What was said until now, after waiting at most so long for the first word; [] at the end of all."""
        events: list[Event] = []
        for key, _ in self._selector.select(timeout_seconds):
            rank: int = key.data
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
                continue
            *lines, self._pending[rank] = (self._pending[rank] + data).split(b"\n")
            events += [(rank, line.decode().split()) for line in lines]
        return events

    def until(self, condition: Callable[[Event], bool], timeout_seconds: float = 60.0) -> list[Event]:
        """Events up to and with the first batch that meets the condition. Raises TimeoutError, with the logs' end."""
        deadline = time.monotonic() + timeout_seconds
        seen: list[Event] = []
        while time.monotonic() < deadline and self._selector.get_map():
            batch = self.events(max(0.0, deadline - time.monotonic()))
            seen += batch
            if any(condition(event) for event in batch):
                return seen
        raise TimeoutError(f"trainers said {seen[-20:]}\n{self.log.read_text(errors='replace')[-3000:]}")

    def finish(self, timeout_seconds: float = 120.0) -> list[Event]:
        """Everything said until every trainer has ended by itself."""
        deadline = time.monotonic() + timeout_seconds
        seen: list[Event] = []
        while self._selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"trainers said {seen[-20:]}\n{self.log.read_text(errors='replace')[-3000:]}")
            seen += self.events(left)
        for process in self.processes:
            process.wait()
        return seen

    def kill(self, *ranks: int) -> None:
        """SIGKILL for these ranks, or for all."""
        for rank in ranks or range(len(self.processes)):
            self.processes[rank].kill()
            self.processes[rank].wait()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self.processes:
            if process.stdout is not None:
                process.stdout.close()
        self._selector.close()


def committed(events: list[Event]) -> list[int]:
    """Steps that some rank was told are committed."""
    return [int(words[1]) for _, words in events if words[0] == "COMMITTED"]


def restored(events: list[Event]) -> set[tuple[int, str]]:
    """What the ranks restored: (step, right) pairs; one element when all agree."""
    return {(int(words[1]), words[2]) for _, words in events if words[0] == "RESTORED"}
