"""Up to four ranks of PyTorch over gloo, started once and used by many cases: importing torch takes seconds."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.harness.daemon import REPOSITORY, Daemon

RANKS = 4


class RankError(AssertionError):
    """A rank raised. `.errors`: by rank, the class and message of each that did."""

    def __init__(self, function: str, errors: dict[int, tuple[str, str]], traces: str) -> None:
        super().__init__(f"{function}: {errors}\n{traces}")
        self.errors = errors


class World:
    """Runs functions of tests/torch/worker.py on ranks 0 … size − 1 at once. `use` chooses the size."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self._home = home
        self.size = 0
        self._store = ""
        self._stores = 0
        self.log = home / "ranks.log"
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}",
                       "KEEPSTEP_ADDR": daemon.address, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with self.log.open("ab") as log:
            self.processes = [
                subprocess.Popen([sys.executable, "-m", "tests.torch.worker", str(rank)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=log, cwd=REPOSITORY, env=environment)
                for rank in range(RANKS)]

    def use(self, size: int) -> World:
        """From now on the first `size` ranks are the world; what other sizes have built is gone."""
        if size != self.size:
            self.size, self._stores = size, self._stores + 1
            self._store = str(self._home / f"store{self._stores}")
        return self

    def __call__(
        self, function: str, *, module: str = "", timeout_seconds: float = 120.0, **arguments: Any
    ) -> list[Any]:
        """What each rank returned. RankError: one of them raised; TimeoutError names those that did not answer."""
        command = json.dumps({"store": self._store, "size": self.size, "module": module, "function": function,
                              "arguments": arguments}) + "\n"
        waiting = selectors.DefaultSelector()
        for rank in range(self.size):
            process = self.processes[rank]
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(command.encode())
            process.stdin.flush()
            waiting.register(process.stdout, selectors.EVENT_READ, rank)
        lines = [b""] * self.size
        deadline = time.monotonic() + timeout_seconds
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                late = [key.data for key in waiting.get_map().values()]
                raise TimeoutError(f"{function}: ranks {late} have not answered\n{self.tail()}")
            for key, _ in ready:
                data = os.read(key.fd, 1 << 20)
                if not data:
                    raise AssertionError(f"{function}: rank {key.data} ended\n{self.tail()}")
                lines[key.data] += data
                if lines[key.data].endswith(b"\n"):
                    waiting.unregister(key.fileobj)
        answers = [json.loads(line) for line in lines]
        errors = {rank: (said["error"], said["message"]) for rank, said in enumerate(answers) if "error" in said}
        if errors:
            raise RankError(function, errors, "\n".join(answer.get("trace", "") for answer in answers))
        return [answer["ok"] for answer in answers]

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def merged(by_rank: list[dict[str, str]]) -> dict[str, str]:
    """What all ranks say of each name, which must be one thing."""
    result: dict[str, str] = {}
    for rank, said in enumerate(by_rank):
        for name, value in said.items():
            assert result.setdefault(name, value) == value, f"rank {rank} has another {name}"
    return result
