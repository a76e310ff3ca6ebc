"""Some ranks of PyTorch over gloo, which run function after function of tests/torch/worker.py together."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

from tests.harness.daemon import REPOSITORY, Daemon
from tests.torch.nursery_client import Nursery


class RankError(AssertionError):
    """A rank raised. `.errors`: by rank, the class and message of each that did."""

    def __init__(self, function: str, errors: dict[int, tuple[str, str]], traces: str) -> None:
        super().__init__(f"{function}: {errors}\n{traces}")
        self.errors = errors


def environment(daemon: Daemon) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}", "OMP_NUM_THREADS": "1",
            "KEEPSTEP_ADDR": daemon.address, "GLOO_SOCKET_IFNAME": "lo"}


class World:
    """Runs functions on every rank at once, each in a process of its own. `use` makes a world of another size."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self._home = home
        self.log = home / "ranks.log"
        self._nursery = Nursery(self.log, environment(daemon))
        self._ranks: list[socket.socket] = []
        self._pids: list[int] = []
        self._worlds = 0

    @property
    def size(self) -> int:
        return len(self._ranks)

    def use(self, size: int) -> World:
        """From now on there are `size` ranks; those of a world of another size are gone, with what they built."""
        if size != self.size:
            self._end()
            self._worlds += 1
            path, store = (str(self._home / f"{name}{self._worlds}") for name in ("world", "store"))
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(size)
                listener.settimeout(60)
                self._pids = [
                    self._nursery.fork("tests.torch.worker", "serve", path=path, rank=rank, size=size, store=store)
                    for rank in range(size)]
                by_rank = {}
                for _ in range(size):
                    connection, _ = listener.accept()
                    by_rank[int(connection.recv(16))] = connection
            self._ranks = [by_rank[rank] for rank in range(size)]
        return self

    def __call__(
        self, function: str, *, module: str = "", timeout_seconds: float = 120.0, only: int | None = None,
        **arguments: Any,
    ) -> list[Any]:
        """What each rank returned, or the one of `only`.

        Raises:
            RankError: one of them raised.
            TimeoutError: names those that did not answer.
        """
        command = json.dumps({"module": module, "function": function, "arguments": arguments}).encode() + b"\n"
        asked = range(self.size) if only is None else [only]
        said = {rank: b"" for rank in asked}
        waiting = selectors.DefaultSelector()
        for rank in asked:
            self._ranks[rank].sendall(command)
            waiting.register(self._ranks[rank], selectors.EVENT_READ, rank)
        deadline = time.monotonic() + timeout_seconds
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                late = [key.data for key in waiting.get_map().values()]
                raise TimeoutError(f"{function}: ranks {late} have not answered\n{self.tail()}")
            for key, _ in ready:
                data = self._ranks[key.data].recv(1 << 20)
                if not data:
                    raise AssertionError(f"{function}: rank {key.data} ended\n{self.tail()}")
                said[key.data] += data
                if said[key.data].endswith(b"\n"):
                    waiting.unregister(key.fileobj)
        answers = {rank: json.loads(line) for rank, line in said.items()}
        errors = {rank: (told["error"], told["message"]) for rank, told in answers.items() if "error" in told}
        if errors:
            raise RankError(function, errors, "\n".join(told.get("trace", "") for told in answers.values()))
        return [told["ok"] for told in answers.values()]

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        self._end()
        self._nursery.close()

    def _end(self) -> None:
        for connection in self._ranks:
            connection.close()
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._ranks, self._pids = [], []


def merged(by_rank: list[dict[str, str]]) -> dict[str, str]:
    """What all ranks say of each name, which must be one thing."""
    result: dict[str, str] = {}
    for rank, said in enumerate(by_rank):
        for name, value in said.items():
            assert result.setdefault(name, value) == value, f"rank {rank} has another {name}"
    return result
