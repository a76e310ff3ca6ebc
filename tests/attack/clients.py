"""Clients that die: one process that has imported everything, and forks a client for every death.

A fork costs milliseconds where an interpreter costs half a second. The process is a fresh one (`python -m`), and forks
before gRPC has any thread in it, so that the children may use gRPC.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.attack import raw_session as raw
from tests.attack.api import FILES, Api, tensor
from tests.harness.daemon import REPOSITORY, Daemon

# In the order of the protocol; each is the last thing that the client does.
STAGES = (
    "connected", "half a hello", "welcomed", "opening", "opened", "half registered", "registered", "saving", "accepted",
    "snapshotted", "sealed", "loading", "begun", "writing", "committing", "reading",
)  # fmt: skip
STATE_BYTES = 4 << 20


class Zygote:
    """Use as a context. `die` returns when the client is dead."""

    def __init__(self, generated: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{generated}:{REPOSITORY}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.clients"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY,
        )  # fmt: skip

    def die(self, daemon: Daemon, directory: Path, stage: str, step: int) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{daemon.home}\t{directory}\t{stage}\t{step}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer == "killed\n", f"a client at {stage!r}: {answer!r}"

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """In the process of its own: forks a client for each line of stdin, and says on stdout how it ended."""
    for line in sys.stdin:
        home, directory, stage, step = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            try:
                _live(Daemon(Path(home)), Path(directory), stage, int(step))
            except BaseException:
                traceback.print_exc()
            os._exit(1)  # it should be dead
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "failed", flush=True)


def _live(daemon: Daemon, directory: Path, stage: str, step: int) -> None:
    """Everything up to and with `stage`."""
    def over(now: str) -> None:
        if now == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    link = raw.connect(daemon)
    over("connected")
    if stage == "half a hello":
        link.send(raw.hello(0, b"n" * 16)[:100])
        over("half a hello")
    link.close()
    if stage in ("begun", "writing", "committing", "reading"):
        _write(Api(daemon.address), over, step)
    session = raw.RawSession(daemon, directory, want=raw.WINDOW if step % 3 == 0 and stage == "opened" else raw.PULL)
    over("welcomed")
    m = session.api.messages
    if stage == "opening":
        stream = session.api.sessions.Open(m.OpenRequest(rank=0, world_size=1, nonce=session.nonce))
        over("opening")
        del stream
    session.open()
    over("opened")
    values = np.full(STATE_BYTES, step % 251, np.uint8)
    request = session.registration("t", values)
    request.more = stage == "half registered"
    session.api.sessions.Register(request, timeout=30)
    over("half registered")
    over("registered")
    save = m.SaveRequest(number=1, step=step, generation=1)
    session.set_verdict(1, raw.OPEN)
    if stage == "saving":
        call = session.api.sessions.Save.future(save)
        over("saving")
        del call
    session.api.sessions.Save(save, timeout=30)
    over("accepted")
    session.wait(1, raw.SNAPSHOTTED)
    over("snapshotted")
    session.seal(1)
    over("sealed")
    session.wait(1, raw.COMMITTED)
    events: Iterator[Any] = session.api.sessions.Load(m.LoadRequest(step=step, strict=True, generation=1))
    over("loading")
    list(events)


def _write(api: Api, over: Callable[[str], None], step: int) -> None:
    m, c = api.messages, api.checkpoints
    shard = tensor(api, "t", "U8", [STATE_BYTES])
    job = "written"
    attempt = c.Begin(m.BeginRequest(job=job, step=step, shards=[shard]), timeout=30).attempt
    over("begun")

    def chunks() -> Iterator[Any]:
        for begin in range(0, STATE_BYTES, 1 << 20):
            yield m.WriteChunk(attempt=attempt, fqn="t", offset_bytes=begin, data=bytes(1 << 20))
            if begin > 0:
                over("writing")

    c.Write(chunks(), timeout=30)
    commit = c.Commit.future(m.CommitRequest(attempt=attempt))
    over("committing")
    commit.result()
    stream = c.Read(m.ReadRequest(name={"job": job, "step": step}, fqn="t"))
    next(stream)
    over("reading")


if __name__ == "__main__":
    for name in FILES:  # before the forks: an import costs more than a client
        importlib.import_module(f"proto.{name}_pb2")
    serve()
