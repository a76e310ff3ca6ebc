"""A world of forked ranks: PyTorch is imported once, by the parent, which runs none of it and opens no Checkpointer."""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.training import rank as program
from tests.training.rank import Task

Event = dict[str, Any]


class Ranks:
    """The ranks of one run. Not thread-safe. A context manager: whoever is left at its end is killed."""

    def __init__(self, task: Task, log: Path) -> None:
        self.task = task
        self.events: list[list[Event]] = [[] for _ in range(task.world_size)]
        self._log = log
        self._pids: dict[int, int] = {}  # rank → pid, while it runs
        self.statuses: dict[int, int] = {}  # rank → exit status, or minus the signal
        self._pipes: dict[int, int] = {}
        for rank in range(task.world_size):
            self._fork(rank)

    def _fork(self, rank: int) -> None:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write_end)
            self._pids[rank], self._pipes[rank] = pid, read_end
            return
        status = 1
        try:
            for pipe in [*self._pipes.values(), read_end]:
                os.close(pipe)
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            program.run(self.task, rank, os.fdopen(write_end, "w"))
            status = 0
        except BaseException as error:  # a fork must never return into its parent's program
            os.write(2, f"rank {rank}: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)

    def run(
        self, seen: Callable[[int, Event], object] = lambda rank, event: None, timeout_seconds: float = 240
    ) -> bool:
        """Until all have ended; when one is killed or fails the others are killed, as a launcher does.

        Calls `seen` for each event. Whether all ended well; TimeoutError when they are late.
        """
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            for rank, pipe in self._pipes.items():
                selector.register(pipe, selectors.EVENT_READ, rank)
            said = {rank: b"" for rank in self._pipes}
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    self.kill()
                    raise TimeoutError(f"ranks were not done in time:\n{self.tail()}")
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fd)
                        if self._reap(key.data) != 0:
                            self.kill()
                        continue
                    *lines, said[key.data] = (said[key.data] + data).split(b"\n")
                    for line in lines:
                        self.events[key.data].append(json.loads(line))
                        seen(key.data, self.events[key.data][-1])
        return all(status == 0 for status in self.statuses.values())

    def kill(self, *ranks: int) -> None:
        """SIGKILL for these, or for all, if they still run."""
        for rank, pid in self._pids.items():
            if not ranks or rank in ranks:
                os.kill(pid, signal.SIGKILL)

    def _reap(self, rank: int) -> int:
        os.close(self._pipes.pop(rank))
        _, status = os.waitpid(self._pids.pop(rank), 0)
        self.statuses[rank] = os.waitstatus_to_exitcode(status)
        return self.statuses[rank]

    def named(self, event: str, rank: int = 0) -> list[Event]:
        return [told for told in self.events[rank] if told["event"] == event]

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) if self._log.exists() else ""

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for rank in list(self._pids):
            self._reap(rank)
