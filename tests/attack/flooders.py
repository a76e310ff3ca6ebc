"""Clients that flood: many sessions in each of a few processes, every session a job of its own with its own memory.

Each saves as often as it can, without waiting for what it has asked before; half of them rather skip than wait.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tests.attack.api import FILES
from tests.attack.raw_session import COMMITTED, SNAPSHOTTED, RawSession
from tests.harness.daemon import REPOSITORY, Daemon

SESSIONS_OF_A_PROCESS = 25
WAIT, SKIP = 0, 1  # enum BusyPolicy
LIMIT_SECONDS = 300.0


class Flood:
    """`clients` sessions beneath `directory`. Use as a context; leaving it ends the processes that are left."""

    def __init__(self, daemon: Daemon, directory: Path, generated: Path, clients: int, size: int, saves: int) -> None:
        self._processes = []
        for begin in range(0, clients, SESSIONS_OF_A_PROCESS):
            end = min(begin + SESSIONS_OF_A_PROCESS, clients)
            words = [str(word) for word in (daemon.home, directory, begin, end, size, saves)]
            self._processes.append(subprocess.Popen(
                [sys.executable, "-m", "tests.attack.flooders", *words], cwd=REPOSITORY, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": f"{generated}:{REPOSITORY}"},
            ))  # fmt: skip

    def registered(self) -> None:
        """Returns when every session has handed over its memory."""
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "registered\n", f"a flooder: {line!r}"

    def begin(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def over(self) -> bool:
        return all(process.poll() is not None for process in self._processes)

    def answers(self) -> dict[str, list[str]]:
        """What each client was told of each of its saves."""
        told: dict[str, list[str]] = {}
        for process in self._processes:
            assert process.stdout is not None
            told.update(json.loads(process.stdout.read()))
            assert process.wait() == 0
        return told

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def content(client: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(client).integers(0, 256, size, np.uint8)


def outcome(status: Any) -> str:
    """A state; for one that is not COMMITTED, with its reason."""
    states = status.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
    return f"{states[status.state].name} {status.failure.reason}".strip()


def flood(session: RawSession, client: int, saves: int) -> list[str]:
    """The answers, in the order of the saves."""
    told: dict[int, str] = {}
    accepted = []
    for number in range(1, saves + 1):
        try:
            status = session.save(number, number, on_busy=SKIP if client % 2 else WAIT)
            if status.state < COMMITTED:
                status = session.wait(number, SNAPSHOTTED, LIMIT_SECONDS)
            if status.state < COMMITTED:
                session.seal(number)
                accepted.append(number)
            else:
                told[number] = outcome(status)
        except grpc.RpcError as error:
            told[number] = "{0.code} {0.reason}".format(session.api.error_of(error))
    for number in accepted:
        try:
            status = session.wait(number, COMMITTED, LIMIT_SECONDS)
            told[number] = outcome(status)
        except grpc.RpcError as error:
            told[number] = "{0.code} {0.reason}".format(session.api.error_of(error))
    return [told[number] for number in sorted(told)]


def tally(told: dict[str, list[str]]) -> Counter[str]:
    return Counter(answer for answers in told.values() for answer in answers)


def main(arguments: Sequence[str]) -> None:
    daemon, directory = Daemon(Path(arguments[0])), Path(arguments[1])
    begin, end, size, saves = map(int, arguments[2:])
    sessions = {}
    for client in range(begin, end):
        job = directory / f"flood{client}"
        job.mkdir(parents=True)
        sessions[client] = RawSession(daemon, job)
        sessions[client].open()
        sessions[client].register("t", content(client, size))
    print("registered", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(len(sessions)) as pool:
        told = list(pool.map(lambda client: flood(sessions[client], client, saves), sessions))
    for session in sessions.values():
        session.goodbye()
        session.close()
    print(json.dumps({str(client): answers for client, answers in zip(sessions, told, strict=True)}), flush=True)


if __name__ == "__main__":
    for name in FILES:
        importlib.import_module(f"proto.{name}_pb2")
    main(sys.argv[1:])
