"""Updates that do not wait, daemons that stop, lost answers, trainers that die: no save holds two steps' bytes.

A step's state is every element equal to the step, so that one foreign byte shows. Zero torn commits in N tries bounds
the rate at 3/N. `KEEPSTEP_TORN=10000` runs as many ungated updates.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest

from tests.attack.api import LIMIT_SECONDS, Api
from tests.attack.proxy import Proxy
from tests.attack.raw_session import FAILED, SNAPSHOTTED, RawSession
from tests.harness.daemon import Daemon

UPDATES = int(os.environ.get("KEEPSTEP_TORN", "120"))
TENSORS, ELEMENTS = 3, 1 << 20  # 12 MiB of float32
Tensors = list[np.ndarray[Any, Any]]
# Of a request that fits no frame, so that it goes by RPC, whose answer a proxy can hold; little enough to be sent
# while the proxy holds HTTP/2's window updates too.
LONG_BYTES = 25 << 10


class Trainer:
    """A gated Checkpointer over a state whose every element is the step."""

    def __init__(self, daemon: Daemon, directory: Path, address: str = "", note_bytes: int = 0, **options: Any) -> None:
        self.directory = directory
        self.tensors = [np.zeros(ELEMENTS, np.float32) for _ in range(TENSORS)]
        defaults = {"rank": 0, "world_size": 1, "rng": False, "gated": True, "max_failures": 10**9}
        self.checkpointer = keepstep.Checkpointer(
            directory, daemon=address or daemon.address, **{**defaults, **options}
        )
        note = "-" * note_bytes
        self.checkpointer.register(model={f"t{i}": tensor for i, tensor in enumerate(self.tensors)}, note=lambda: note)

    def gate(self, timeout: float = LIMIT_SECONDS) -> None:
        """Returns when the gate is open; SaveTimeout if it stays shut."""
        self.checkpointer._client.before_update(0, timeout)

    def step(self, step: int) -> keepstep.SaveHandle:
        """One honest step: waits, updates, saves."""
        self.gate()
        for tensor in self.tensors:
            tensor.fill(step)
        return self.checkpointer.save(step)

    def check(self, step: int) -> None:
        """The committed step holds its own bytes and no others."""
        stored = keepstep.open(self.directory, step=step)
        for i in range(TENSORS):
            values = stored.tensor(f"t{i}")[:]
            assert np.all(values == step), f"step {step} was committed with the bytes of {set(values.tolist())}"

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpointer.close(LIMIT_SECONDS)


# ---- updates that do not pass the gate


def forwards(tensors: Tensors, value: float, rng: random.Random) -> None:
    for tensor in tensors:
        tensor.fill(value)


def backwards(tensors: Tensors, value: float, rng: random.Random) -> None:
    for tensor in reversed(tensors):
        for begin in reversed(range(0, ELEMENTS, 1 << 16)):
            tensor[begin : begin + (1 << 16)] = value


def scattered(tensors: Tensors, value: float, rng: random.Random) -> None:
    pieces = [(tensor, begin) for tensor in tensors for begin in range(0, ELEMENTS, 1 << 16)]
    rng.shuffle(pieces)
    for tensor, begin in pieces:
        tensor[begin : begin + (1 << 16)] = value


def four_threads(tensors: Tensors, value: float, rng: random.Random) -> None:
    quarter = ELEMENTS // 4
    workers = [
        threading.Thread(target=forwards, args=([t[i * quarter : (i + 1) * quarter] for t in tensors], value, rng))
        for i in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def test_whole_updates_that_ignore_the_gate_never_reach_a_commit(daemon: Daemon, home: Path) -> None:
    """An optimizer without the hook, and threads that change tensors when they like, while the daemon copies."""
    rng = random.Random(11)
    outcomes: Counter[str] = Counter()
    with Trainer(daemon, home / "job") as trainer:
        trainer.step(1).result(LIMIT_SECONDS)
        for step in range(2, 2 + UPDATES):
            handle = trainer.step(step)
            time.sleep(rng.random() * 0.004)  # anywhere in the copy, or just after it
            rng.choice([forwards, backwards, scattered, four_threads])(trainer.tensors, -step, rng)
            failure = handle.exception(LIMIT_SECONDS)
            if failure is None:
                trainer.check(step)
                outcomes["committed with its own bytes"] += 1
            else:
                assert (failure.code, failure.reason) == ("ABORTED", "UPDATED_DURING_SAVE"), failure
                assert "before_update" in str(failure)
                outcomes["caught"] += 1
    print(f"\nungated whole updates: 0 of {UPDATES} torn saves committed ({dict(outcomes)}); rate ≤ {3 / UPDATES:.2g}")
    assert outcomes["caught"] > 0, "no update fell into a copy: this proves nothing"


# ---- a daemon that stops and wakes up


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this test wait for a heartbeat and for answers no longer than the test wants to."""
    monkeypatch.setenv("KEEPSTEP_LIMITS", "heartbeat_ms=1300,watchdog_period_ms=50,save_ms=300,rpc_ms=200")


def test_a_daemon_that_wakes_up_after_the_watchdog_commits_nothing_torn(
    daemon: Daemon, home: Path, impatient: None
) -> None:
    rng = random.Random(12)
    outcomes: Counter[str] = Counter()
    with Trainer(daemon, home / "job") as trainer:
        trainer.step(1).result(LIMIT_SECONDS)
        for step in (2, 3, 4):
            handle = trainer.step(step)
            time.sleep(rng.random() * 0.003)
            daemon.stop_running()
            try:
                trainer.gate(LIMIT_SECONDS)  # the watchdog's doing: the daemon cannot
                for tensor in trainer.tensors:
                    tensor.fill(-step)
            finally:
                daemon.go_on()
            failure = handle.exception(LIMIT_SECONDS)
            if failure is None:  # it had been sealed before the daemon stopped
                trainer.check(step)
                outcomes["committed"] += 1
            else:
                outcomes[failure.reason] += 1
                assert failure.reason in ("DAEMON_STUCK", "POISONED"), failure
        trainer.step(5).result(LIMIT_SECONDS)
        trainer.check(5)
    print(f"\nstopped daemons: 0 of 3 torn ({dict(outcomes)})")


# ---- a save whose answer is lost


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="ks-") as home, Proxy(daemon, Path(home)) as proxy:
        yield proxy


def test_an_answer_that_is_late_opens_no_gate_before_the_copy(
    daemon: Daemon, home: Path, proxy: Proxy, impatient: None, api: Api
) -> None:
    """The RPC timed out, the daemon took the save: the gate goes by the page, which speaks when the copy is done."""
    with Trainer(daemon, daemon.root / "job", proxy.address, LONG_BYTES) as trainer:
        for step in (1, 2, 3, 4):
            for tensor in trainer.tensors:
                tensor.fill(step)
            proxy.hold()
            handle = trainer.checkpointer.save(step)  # its answer does not come
            until(lambda step=step: taken(api, step), "the daemon has taken the save")
            trainer.gate()
            for tensor in trainer.tensors:
                tensor.fill(-step)
            proxy.release()
            handle.result(LIMIT_SECONDS)
            trainer.check(step)


def test_an_answer_that_never_comes_fails_the_save_and_opens_the_gate(
    daemon: Daemon, home: Path, proxy: Proxy, impatient: None, api: Api
) -> None:
    """The connection breaks with the answer on it: the session resumes, and the save is settled one way for all."""
    with Trainer(daemon, daemon.root / "job", proxy.address, LONG_BYTES) as trainer:
        trainer.step(1).result(LIMIT_SECONDS)
        for step in (2, 3, 4):
            trainer.gate()
            for tensor in trainer.tensors:
                tensor.fill(step)
            proxy.hold()
            handle = trainer.checkpointer.save(step)
            until(lambda step=step: taken(api, step), "the daemon has taken the save")
            proxy.cut()
            trainer.gate()
            for tensor in trainer.tensors:
                tensor.fill(-step)
            if handle.exception(LIMIT_SECONDS) is None:
                trainer.check(step)
        trainer.step(9).result(LIMIT_SECONDS)
        trainer.check(9)


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again until it is so; every try is a call, so nothing spins."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what


def taken(api: Api, step: int) -> bool:
    """In flight, or committed already: the seal needs no answer, only the page."""
    status = api.node.Status(api.messages.StatusRequest(), timeout=LIMIT_SECONDS)
    return any(step in (job.last_step, *(save.step for save in job.in_flight)) for job in status.jobs)


# ---- a trainer that dies between the copy and its seal


def test_a_trainer_that_dies_before_its_seal_commits_nothing(daemon: Daemon, home: Path, api: Api) -> None:
    """Its daemon has every byte, but nobody has vouched for them: the step never appears, and its space comes back."""
    directory = home / "job"
    directory.mkdir()
    tries = 20
    for step in range(1, tries + 1):
        with RawSession(daemon, directory) as session:
            session.open()
            values = np.full(1 << 20, step, np.uint8)
            session.register("t", values)
            session.save(1, step)
            session.wait(1, SNAPSHOTTED)
            values[:] = 0  # the gate is open
            session.goodbye()  # what the daemon sees when the process has ended
    until(lambda: not any(directory.glob("[0-9]*/*/*.safetensors")), "the space comes back")
    with pytest.raises(keepstep.CheckpointNotFound):
        keepstep.open(directory)
    print(f"\ntrainers that died unsealed: 0 of {tries} committed")


# ---- no gate stays shut for a save that is over


def opens(trainer: Trainer, handle: keepstep.SaveHandle, state: str) -> None:
    """The save is over as `state`, and its gate is open, now and for the next save."""
    handle.exception(LIMIT_SECONDS)
    assert handle.state == state
    trainer.gate(LIMIT_SECONDS)
    trainer.checkpointer.before_update()


@pytest.mark.parametrize("policy", ["skip", "supersede", "wait"])
def test_skipped_and_superseded_saves_open_their_gates(daemon: Daemon, home: Path, policy: Any) -> None:
    with Trainer(daemon, home / "job", on_busy=policy) as trainer:
        handles = [trainer.checkpointer.save(step) for step in range(1, 7)]  # back to back: some give way
        for handle in handles:
            handle.exception(LIMIT_SECONDS)
            trainer.gate(LIMIT_SECONDS)
        states = {handle.state for handle in handles}
        assert states <= {"COMMITTED", "SKIPPED", "SUPERSEDED"} and (policy != "wait" or states == {"COMMITTED"})
        opens(trainer, trainer.step(7), "COMMITTED")


def test_a_refused_save_opens_its_gate(daemon: Daemon, home: Path) -> None:
    with Trainer(daemon, home / "job") as trainer:
        opens(trainer, trainer.step(1), "COMMITTED")
        refused = trainer.checkpointer.save(1)  # the step exists
        opens(trainer, refused, "FAILED")
        assert refused.exception(0).code == "ALREADY_EXISTS"  # type: ignore[union-attr]
        trainer.checkpointer.register(model={"half": keepstep.piece(np.ones(4), (8,), np.s_[0:4])})
        opens(trainer, trainer.checkpointer.save(2), "FAILED")  # a hole


def test_a_cancelled_save_and_one_without_its_peer_open_their_gates(daemon: Daemon, home: Path, api: Api) -> None:
    """The other rank never seals: first the save is cancelled, then that rank dies."""
    directory = home / "job"
    directory.mkdir()
    with RawSession(daemon, directory) as peer:
        opened = threading.Thread(target=lambda: peer.open(rank=1, world_size=2))
        opened.start()
        with Trainer(daemon, directory, world_size=2) as trainer:
            opened.join()
            peer.register("other", np.zeros(10, np.uint8))
            answers = [peer.api.sessions.Save.future(save(peer, 1, 1))]
            first = trainer.step(1)
            first.staged(LIMIT_SECONDS)
            trainer.gate(LIMIT_SECONDS)
            cancel = api.messages.CancelRequest(job=str(directory), step=1)
            assert peer.api.checkpoints.Cancel(cancel, timeout=LIMIT_SECONDS).cancelled == 1
            opens(trainer, first, "CANCELLED")
            answers.append(peer.api.sessions.Save.future(save(peer, 2, 2)))
            second = trainer.step(2)
            second.staged(LIMIT_SECONDS)
            peer.goodbye()
            opens(trainer, second, "FAILED")
            assert second.exception(0).reason == "TRAINER_DIED"  # type: ignore[union-attr]
            for answer in answers:
                assert answer.result().status.state != FAILED


def save(session: RawSession, number: int, step: int) -> Any:
    return session.api.messages.SaveRequest(number=number, step=step, generation=1)


def test_a_daemon_that_dies_opens_every_gate(daemon: Daemon, home: Path) -> None:
    with Trainer(daemon, home / "job") as trainer:
        opens(trainer, trainer.step(1), "COMMITTED")
        handle = trainer.step(2)
        daemon.kill()
        trainer.gate(LIMIT_SECONDS)
        daemon.start()
        if handle.exception(LIMIT_SECONDS) is None:
            trainer.check(2)
        opens(trainer, trainer.step(3), "COMMITTED")
        trainer.check(3)
