"""A daemon with failpoints, two ranks that outlive it, and one job after another: what a sweep's rounds are made of."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keepstep

from tests.crash.control import KEEPSTEPD_FAILPOINTS, Control
from tests.harness.daemon import REPOSITORY, Daemon, DaemonFailed

WORLD = 2
POOL_BYTES = 64 << 20
LIMIT_SECONDS = 60.0
ROSTER_SECONDS = 10  # that a rank waits for one that has gone another way; the driver then opens both anew
SETTLE_SECONDS = 30.0
ROUNDS_OF_A_JOB = 12
Answer = dict[str, Any]


class Stuck(RuntimeError):
    """Something did not answer within its limit: a finding in itself."""


class Process:
    """A child that answers lines of JSON with lines of JSON."""

    def __init__(self, *command: str, log: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'client/python'}:{REPOSITORY}"}
        with log.open("ab") as errors:
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                           cwd=REPOSITORY, env=environment)
        assert self._child.stdout is not None
        self.out = self._child.stdout.fileno()
        self._pending = b""

    def send(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()

    def receive(self) -> str | None:
        """A whole line, once there is one; call when `out` is readable. Raises Stuck when the process has ended."""
        data = os.read(self.out, 1 << 16)
        if not data:
            raise Stuck(f"{self._child.args!r} ended with {self._child.wait()}")
        self._pending += data
        line, found, rest = self._pending.partition(b"\n")
        if not found:
            return None
        self._pending = rest
        return line.decode()

    def ask(self, line: str) -> str:
        self.send(line)
        while (answer := self.receive()) is None:
            pass
        return answer

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()


class Arena:
    """Use as a context. `kills` counts the daemon's deaths; `fired` names the points of the round."""

    def __init__(self, home: Path, names: list[str]) -> None:
        self.home = home
        self.control = Control(home / "failpoints", names)
        self.daemon = Daemon(home, "--io-engine", "threads", "--pool-bytes", str(POOL_BYTES),
                             "--limits-roster", f"{ROSTER_SECONDS}s",
                             environment={"KEEPSTEP_FAILPOINT_CONTROL": str(self.control.path)},
                             program=KEEPSTEPD_FAILPOINTS)
        self.kills = 0
        self.fired: list[str] = []
        self.nested: list[Callable[[Control], None]] = []  # arm what is to happen at the next starts, soonest first
        self.alarm: tuple[float, Callable[[], None]] | None = None  # what to do when, while ranks are waited for
        self.told: list[Answer] = []  # of this round
        self.refused = 0  # starts that ended by themselves, with an error, because a call was made to fail
        self._jobs = self._rounds = self._serial = self._step = 0
        self.committed: list[int] = []
        self.totals = {"checkpoints": 0, "bytes": 0, "told_committed": 0, "told_failed": 0, "loads": 0}
        self._verdict = dict(self.totals)  # the newest of this job
        self._pidfd = -1
        self._start()
        self.actors = [Process(sys.executable, "-m", "tests.crash.actor", str(rank), self.daemon.address,
                               log=home / "actors.log") for rank in range(WORLD)]
        self.checker = Process(sys.executable, "-S", str(Path(__file__).with_name("checker.py")), "-",
                               log=home / "checker.log")

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.actors, self.checker):
            process.end()
        self.daemon.kill()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self.control.close()

    # ---- the daemon

    def _start(self) -> None:
        """Starts it, as often as it takes: armed points may kill it while it starts."""
        while True:
            if self.nested:
                self.nested.pop(0)(self.control)
            try:
                self.daemon.start()
            except DaemonFailed:
                if self.control.fails():
                    self.refused += 1
                    self.control.disarm()
                    self.control.take_fired()
                elif not self._note_death():
                    raise
                continue
            if self._pidfd >= 0:
                os.close(self._pidfd)
            self._pidfd = os.pidfd_open(self.daemon.pid)
            return

    def _note_death(self) -> bool:
        """Whether it was us who killed it."""
        point = self.control.take_fired()
        if point is not None:
            self.fired.append(point)
        self.kills += point is not None
        return point is not None

    def _revive(self) -> None:
        if not self._note_death():
            raise Stuck(f"keepstepd ended by itself\n{self.daemon.tail()}")
        self.daemon.kill()  # it is ending; this waits for it
        self._start()

    def kill(self) -> None:
        """SIGKILL, and the next start."""
        self.kills += 1
        self.fired.append("SIGKILL")
        self.control.disarm()
        self.daemon.kill()
        self._start()

    def set_alarm(self, seconds: float, what: Callable[[], None]) -> None:
        self.alarm = (time.monotonic() + seconds, what)

    def ring(self) -> None:
        """Does what the alarm is for, if it has not been done."""
        if self.alarm is not None:
            _, what = self.alarm
            self.alarm = None
            what()

    # ---- the ranks

    def tell(self, *requests: tuple[int, Answer]) -> list[Answer]:
        """Sends each rank its request and waits for all answers, with the daemon revived as often as it dies."""
        for rank, request in requests:
            self.actors[rank].send(json.dumps(request))
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + LIMIT_SECONDS
        with selectors.DefaultSelector() as selector:
            for rank, _ in requests:
                selector.register(self.actors[rank].out, selectors.EVENT_READ, rank)
            while len(answers) < len(requests):
                now = time.monotonic()
                if now > deadline:
                    raise Stuck(f"{requests} got {answers}\n{self.daemon.tail()}\n{self.log_tail()}")
                if self.alarm is not None and now >= self.alarm[0]:
                    self.ring()
                limit = deadline if self.alarm is None else min(deadline, self.alarm[0])
                pidfd = selector.register(self._pidfd, selectors.EVENT_READ, -1).fd
                ready = selector.select(max(0.0, limit - now))
                selector.unregister(pidfd)
                for key, _ in ready:
                    if key.data == -1:
                        self._revive()
                    elif (line := self.actors[key.data].receive()) is not None:
                        answers[key.data] = json.loads(line)
        self.told += answers.values()
        return [answers[rank] for rank, _ in requests]

    def log_tail(self) -> str:
        return (self.home / "actors.log").read_text(errors="replace")[-2000:]

    def open(self) -> None:
        """A new session of both ranks, with whatever it inherits; again while a call that fails refuses them."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            request = {"do": "open", "job": str(self.job), "ledger": str(self.ledger)}
            answers = self.tell(*((rank, dict(request)) for rank in range(WORLD)))
            if not any("error" in answer for answer in answers):
                return
            time.sleep(0.01)
        raise Stuck(f"the ranks cannot open: {answers}")

    def new_job(self) -> None:
        self._count()
        self._jobs += 1
        self._rounds = self._step = 0
        self.committed = []
        self.job = self.daemon.root / f"job{self._jobs}"
        self.ledger = self.home / "ledger" / f"job{self._jobs}"
        self.ledger.mkdir(parents=True)
        self.open()

    def write_down(self, event: str, step: int) -> None:
        with (self.ledger / "driver.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "time": time.monotonic(), "step": step}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    # ---- what a round does

    def save(self) -> bool:
        """Both ranks save the next step; whether it was committed."""
        self._step += 1
        self._serial += 1
        request = {"do": "save", "step": self._step, "serial": self._serial, "until": "over"}
        answers = self.tell(*((rank, dict(request)) for rank in range(WORLD)))
        self._reopen_if_ended(answers)
        if not any(answer.get("state") == "COMMITTED" for answer in answers):
            return False
        self.committed.append(self._step)
        return True

    def abort(self) -> None:
        """A save that fails with its bytes on storage: rank 0's share is copied when rank 1 names another step."""
        self._step += 2
        self._serial += 1
        request = {"do": "save", "step": self._step - 1, "serial": self._serial, "until": "staged"}
        first = self.tell((0, request))
        answers = self.tell((1, {**request, "step": self._step, "until": "over"}))
        if first[0].get("state") == "STAGED":
            answers += self.tell((0, {"do": "told"}))
        self._reopen_if_ended(first + answers)

    def delete(self) -> None:
        """The oldest checkpoint, which nobody would resume from."""
        step = self.committed.pop(0)
        self.write_down("deleting", step)
        if self.daemon.command("rm", "--yes", f"{self.job}/{step}").returncode == 0:
            self.write_down("deleted", step)

    def epoch(self) -> None:
        """A new world takes the job over, restores, and saves."""
        self.open()
        self.save()

    def _reopen_if_ended(self, answers: list[Answer]) -> None:
        if any("error" in answer or answer.get("reason") in ("STALE_EPOCH", "CLOSED") for answer in answers):
            self.open()

    def tend(self) -> None:
        """Notices a death of which no rank told."""
        if not self.daemon.alive() or (self.control.has_fired() and not self.control.fails()):
            self._revive()

    def quiet_passes(self) -> dict[str, int]:
        """The points passed until now, read after a while."""
        time.sleep(0.1)
        return self.control.passes()

    # ---- judging

    def settle(self) -> list[str]:
        """Waits until nothing but checkpoints takes space, or until it should have; what the checker finds."""
        self.control.disarm()
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            self.tend()
            visible = self._visible()
            if visible is None and time.monotonic() < deadline:
                continue
            verdict = json.loads(self.checker.ask(f"{self.job} {self.ledger} {visible}"))
            self._verdict = {name: verdict[name] for name in self.totals}
            findings: list[str] = verdict["findings"]
            if findings or not verdict["space"]:
                return findings
            if time.monotonic() > deadline:
                return list(verdict["space"])

    def _count(self) -> None:
        for name in self.totals:
            self.totals[name] += self._verdict[name]
            self._verdict[name] = 0

    def _visible(self) -> Path | None:
        """What readers show; None while the daemon does not answer."""
        path = self.ledger / "visible.json"
        listed = self.daemon.command("ls", "--json", str(self.job))
        if listed.returncode != 0:
            return None
        shown = [checkpoint["decision"]["attempt"] for job in json.loads(listed.stdout)["jobs"]
                 for checkpoint in job.get("checkpoints", [])]
        read = [info.attempt for info in keepstep.reader.list_checkpoints(self.job)]
        path.write_text(json.dumps({"keepstep ls": shown, "the reader": read}))
        return path

    def round_over(self, *, clean: bool) -> None:
        """The next round goes on with this job, until it has grown long or something was found in it."""
        self._rounds += 1
        if self._rounds >= ROUNDS_OF_A_JOB or not clean:
            self.new_job()

    def finish(self) -> None:
        self._count()
