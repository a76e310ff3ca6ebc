"""A daemon and trainers on the fake driver, for these tests: started, listened to, stopped, killed, and counted."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fake_cuda.counters import Counters, Process
from tests.fake_cuda.environment import environment
from tests.harness.daemon import REPOSITORY, Daemon

SECONDS = 20.0  # for what takes milliseconds
LONG_SECONDS = 60.0  # for what has a limit of its own, and must not hang the suite without one


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """What `condition()` gives once that is true; it is asked again and again."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return found


class Trainer:
    """A child that runs one scenario and prints JSON, a line each time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._unread = b""

    def heard(self) -> Any:
        """The next that it prints."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            assert select.select([fd], [], [], LONG_SECONDS)[0], "the trainer says nothing"
            more = os.read(fd, 1 << 16)
            assert more, "the trainer ended"
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Ends its session; its memory stays."""
        self.go_on()
        assert self.heard() == "closed"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGSTOP; returns when every thread has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def wake(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def finish(self) -> None:
        self.go_on()
        assert self._process.wait(SECONDS) == 0


@contextmanager
def child(
    program: str, *arguments: str, variables: Mapping[str, str], wrapper: Sequence[str] = ()
) -> Iterator[Trainer]:
    """`tests/device/PROGRAM.py` as a trainer, with `variables` of its own; it is killed at the end."""
    path = os.pathsep.join([str(REPOSITORY / "client/python"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([*wrapper, sys.executable, "-m", f"tests.device.{program}", *arguments], cwd=REPOSITORY,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, **variables, "PYTHONPATH": path})
    try:
        yield Trainer(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()


class Gpus:
    """A daemon, and what its processes and trainers are told of the driver.

    Args:
        home: Where everything is.
        use: The daemon's `--gpu`.
        off: What the driver cannot do.
        arguments: Further flags of the daemon.
        faults: Calls that fail in the daemon's workers.
        wrapper: A command that runs the daemon.
        driver: Further settings of the driver (tests/fake_cuda/environment.py).
    """

    def __init__(self, home: Path, use: str, off: Sequence[str] = (), *, arguments: Sequence[str] = (),
                 faults: Sequence[str] = (), wrapper: Sequence[str] = (), **driver: Any) -> None:
        self.home = home
        self.counters = Counters(home / "cuda-counters")
        settings = {"counters": self.counters.path, "off": off, "devices": 2, **driver}
        self.variables = environment(**settings)
        self.daemon = Daemon(home, "--gpu", use, *arguments, environment=environment(**settings, faults=faults),
                             wrapper=wrapper)

    def __enter__(self) -> Gpus:
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.kill()

    @contextmanager
    def trainer(self, scenario: str, layout: str, *further: str, program: str = "trainer", job: str = "job",
                wrapper: Sequence[str] = (), **limits_ms: int) -> Iterator[Trainer]:
        """`tests/device/PROGRAM.py` with a scenario, a layout and a job; `limits_ms` are of client/limits.h."""
        limits = ",".join(f"{name}={value}" for name, value in limits_ms.items())
        with child(program, scenario, layout, self.daemon.address, str(self.home / "root" / job), *further,
                   variables={**self.variables, "KEEPSTEP_LIMITS": limits}, wrapper=wrapper) as trainer:
            yield trainer

    def others(self, trainer: Trainer) -> list[Process]:
        """Living processes that use the driver, but for the trainer."""
        return [process for process in self.counters.processes() if process.alive and process.pid != trainer.pid]

    def mapped(self, trainer: Trainer) -> dict[str, int]:
        """What others hold of the trainer's memory."""
        found = {"imports": 0, "vmm_mappings": 0, "vmm_handles": 0}
        for process in self.others(trainer):
            for name in found:
                found[name] += process.counts[name]
        return found

    def await_unmapped(self, trainer: Trainer, seconds: float = SECONDS) -> None:
        until(lambda: not any(self.mapped(trainer).values()), "nothing of the trainer's is mapped", seconds)

    def worker(self, trainer: Trainer) -> int:
        """The pid of the device worker that has the trainer's memory mapped."""
        (found,) = [process.pid for process in self.others(trainer)
                    if process.counts["imports"] or process.counts["vmm_mappings"]]
        return found

    def in_flight(self, job: str = "job") -> list[dict[str, Any]]:
        """The job's saves that are under way, as `keepstep status` has them."""
        result = self.daemon.command("status", "--json")
        assert result.returncode == 0, result.stderr
        jobs = json.loads(result.stdout)["jobs"]
        return [flight for each in jobs if each["job"] == job for flight in each["in_flight"]]
