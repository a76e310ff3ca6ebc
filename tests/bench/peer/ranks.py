"""The ranks of one library as processes, what they and their children hold in memory, and what they read."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.peer.api import Entry
from tests.bench.peer.environment import PYTHON
from tests.bench.peer.workload import Workload
from tests.bench.sampling import sampled
from tests.harness.daemon import REPOSITORY

_ANSWER_SECONDS = 240
_PERIOD_SECONDS = 0.05


class PeerFailed(RuntimeError):
    """A library could not do what was asked; the message is its own."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PeerRanks:
    """Told what to do in step. Each leads a session of its own, so that its children end with it."""

    def __init__(self, entry: Entry, shape: Workload, world: int, *, quick: bool, address: str = "") -> None:
        self.entry, self.world = entry, world
        rendezvous = f"127.0.0.1:{_free_port()}"
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}",
                       "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by kill)
        self.processes = [
            subprocess.Popen([str(PYTHON), "-m", "tests.bench.peer.rank", entry.name, shape.name, "--rank", str(rank),
                              "--world", str(world), "--rendezvous", rendezvous, "--address", address,
                              *(["--quick"] if quick else [])],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
                             cwd=REPOSITORY, env=environment, start_new_session=True)
            for rank in range(world)
        ]
        try:
            self.tensors = sum(int(answer["tensors"]) for answer in self._answers("start"))
        except PeerFailed:
            self.kill()
            raise

    def tell(self, *words: object) -> list[dict[str, Any]]:
        line = " ".join(map(str, words)) + "\n"
        try:
            for process in self.processes:
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(f"a rank ended before '{words[0]}': {self._tail()}") from None
        return self._answers(str(words[0]))

    def most(self, key: str, *words: object) -> float:
        return max(float(answer[key]) for answer in self.tell(*words))

    def total(self, key: str, *words: object) -> int:
        return sum(int(answer[key]) for answer in self.tell(*words))

    def _answers(self, what: str) -> list[dict[str, Any]]:
        """The first rank that fails is enough: the others may wait for it for ever."""
        found: dict[int, dict[str, Any]] = {}
        deadline = time.monotonic() + _ANSWER_SECONDS
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(self.processes):
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, (rank, process.stdout))
            while len(found) < self.world:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise PeerFailed(f"no answer to '{what}' within {_ANSWER_SECONDS} s: {self._tail()}")
                for key, _ in ready:
                    rank, stream = key.data
                    text = stream.readline()
                    answer = json.loads(text) if text else {"error": f"ended during '{what}': {self._tail()}"}
                    if "error" in answer:
                        raise PeerFailed(answer["error"])
                    found[rank] = answer
                    selector.unregister(stream)
        return [found[rank] for rank in range(self.world)]

    def _tail(self) -> str:
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "without a word"

    def pids(self) -> list[int]:
        """Of the ranks and of all that they started."""
        sessions = {process.pid for process in self.processes}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) in sessions:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def kill(self) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
        self._errors.close()

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                break
        self.kill()

    def __enter__(self) -> PeerRanks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pss_bytes(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue  # it has ended
    return total


@contextmanager
def peak_pss(ranks: PeerRanks, more: list[int]) -> Iterator[list[int]]:
    """The largest sum seen while it lasts, as the one element of the list."""
    peak = [0]

    def look() -> None:
        peak[0] = max(peak[0], pss_bytes([*ranks.pids(), *more]))

    with sampled(_PERIOD_SECONDS, look):
        yield peak


def warm_programs(pids: list[int]) -> None:
    """Brings programs and libraries back into an emptied page cache: whoever loads has just been started."""
    files = set()
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            path = line.partition("/")[2]
            if " r-xp " in line and path:
                files.add(f"/{path}")
    for path in files:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                continue


def read_bytes(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["read_bytes"])
