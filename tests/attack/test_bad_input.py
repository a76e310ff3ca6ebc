"""Every kind of wrong request: its code, its reason, a sentence, nothing changed on disk, and the daemon goes on.

The requests are in bad_requests.py. One daemon serves them all: what one of them broke, the next would show.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.attack.api import LIMIT_SECONDS, Api, commit_one, listing, read, serves, write
from tests.attack.bad_requests import (
    DATA,
    INVALID,
    NOT_FOUND,
    TABLE,
    Call,
    World,
    begin,
    checkpoints,
    named,
    shard,
)
from tests.attack.raw_session import COMMITTED, SNAPSHOTTED, RawSession
from tests.harness.daemon import REPOSITORY, Daemon

REASONS = (REPOSITORY / "docs/errors.md").read_text()


@pytest.fixture(scope="module")
def world(generated: Path) -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="ks-"))
    daemon = Daemon(home, "--gpu", "off").start()
    sessions: list[RawSession] = []

    def session(name: str | None, **fields: Any) -> RawSession:
        directory = None if name is None else daemon.root / name
        if directory is not None:
            directory.mkdir(exist_ok=True)
        sessions.append(RawSession(daemon, directory))
        if fields:
            sessions[-1].open(**fields)
        return sessions[-1]

    try:
        with Api(daemon.address) as api:
            commit_one(api, "job", 1, "t", DATA)
            commit_one(api, "job", 2, "t", DATA)
            keep = api.messages.PinRequest(name={"job": "job", "step": 1}, id="keep")
            api.checkpoints.Pin(keep, timeout=LIMIT_SECONDS)
            request = {"job": "job", "shards": [shard()]}
            attempt, aborted = (
                api.checkpoints.Begin(api.messages.BeginRequest(step=step, **request), timeout=LIMIT_SECONDS).attempt
                for step in (3, 4)
            )
            write(api, attempt, "t", DATA[:10])
            api.checkpoints.Abort(api.messages.AbortRequest(attempt=aborted), timeout=LIMIT_SECONDS)
            member = session("trained", rank=0)
            member.register("t", np.frombuffer(DATA, np.uint8).copy())
            assert member.save_and_seal(1, 10).state == COMMITTED
            reader = session("trained", mode=1, world_size=2)
            reader.register("t", np.zeros(100, np.uint8))
            yield World(daemon, api, attempt, aborted, session("fresh"), session(None), member,
                        session("empty", rank=0), reader)  # fmt: skip
            for each in sessions:
                each.close()
    finally:
        daemon.kill()
        shutil.rmtree(home, ignore_errors=True)


def refused(world: World, call: Call, code: str, reason: str) -> None:
    """The call fails just so, leaves the disk as it was, and the daemon serves; what is there still reads."""
    before = listing(world.daemon.root)
    error = world.api.error(lambda: call(world))
    assert error is not None, "it was not refused"
    assert (error.code, error.reason) == (code, reason), error
    assert re.search(r"\w+ \w+", error.message), f"no sentence: {error.message!r}"
    assert f"`{reason}`" in REASONS, reason
    assert listing(world.daemon.root) == before
    serves(world.api, world.daemon)
    assert read(world.api, "job", 1, "t") == DATA


@pytest.mark.parametrize("name", TABLE)
def test_refused(world: World, name: str) -> None:
    refused(world, *TABLE[name])


JOB_NAMES = ["..", ".", "a/b", "a\0b", "a\nb", "\x7f", "\u0085", "n" * 256, "/etc", "/etc/passwd", "../job", "job/../x"]


@pytest.mark.parametrize("name", JOB_NAMES)
def test_job_name(world: World, name: str) -> None:
    """No name reaches outside the roots, and none spoils what it is shown in."""
    refused(world, begin(job=name), INVALID, "JOB_NAME")
    refused(world, checkpoints("Get", "GetRequest", name=named(1, name)), NOT_FOUND, "UNKNOWN_JOB")


def test_a_step_that_is_committed_is_refused_in_its_answer(world: World) -> None:
    """The one refusal that a save's answer carries, so that it is the same on every rank; the gate opens."""
    member = world.member
    before = listing(world.daemon.root)
    status = member.save(2, 10)
    assert status.state == 8 and (status.failure.code, status.failure.reason) == (6, "STEP_EXISTS")
    member.wait(2, SNAPSHOTTED)  # asked after the answer, so told after the release
    assert member.released() >= 2
    assert listing(world.daemon.root) == before
    assert member.save_and_seal(3, 11).state == COMMITTED


@pytest.mark.parametrize("token", ["0" * 32, "", "x", "0" * 4096])
def test_a_guessed_token_opens_nothing(world: World, token: str) -> None:
    with Api(world.daemon.address, [("keepstep-token", token)]) as guess:
        m = guess.messages
        for call in (
            lambda: guess.sessions.Open(m.OpenRequest(rank=0, world_size=1, nonce=b"n" * 16), timeout=LIMIT_SECONDS),
            lambda: guess.sessions.Save(m.SaveRequest(number=1), timeout=LIMIT_SECONDS),
            lambda: guess.checkpoints.List(m.ListRequest(), timeout=LIMIT_SECONDS),
            lambda: guess.node.Status(m.StatusRequest(), timeout=LIMIT_SECONDS),
        ):
            refused(world, lambda w, call=call: call(), "UNAUTHENTICATED", "NO_SESSION")


def test_bytes_that_are_no_message_are_refused(world: World) -> None:
    """Garbage, cut messages and text that is not UTF-8, to every method that the daemon has."""
    before = listing(world.daemon.root)
    raw = (lambda data: data, lambda data: data)
    bodies = [b"\xff" * 64, b"\x0a\x05cut", b"\x0a\xff\xff\xff\xff\x0f"]  # of no message at all
    channel = world.member.api.channel
    token = [("keepstep-token", world.member.token)]
    for service in ("sessions", "checkpoints", "node"):
        module = __import__(f"proto.{service}_pb2", fromlist=["DESCRIPTOR"])
        for of_service in module.DESCRIPTOR.services_by_name.values():
            for method in of_service.methods:
                if not method.input_type.fields:
                    continue  # what it does not know it ignores
                path = f"/{of_service.full_name}/{method.name}"
                kind = "stream_unary" if method.client_streaming else "unary_unary"
                kind = "unary_stream" if method.server_streaming else kind
                call = getattr(channel, kind)(path, *raw)
                for body in bodies:
                    if method.client_streaming:  # gRPC ends such a stream as if the client had: nothing was received
                        assert call(iter([body]), timeout=LIMIT_SECONDS, metadata=token) == b"", path
                        continue
                    error = world.api.error(
                        lambda call=call, body=body: call(body, timeout=LIMIT_SECONDS, metadata=token)
                    )
                    assert error is not None and error.code != "DEADLINE_EXCEEDED", (path, body, error)
    listing_by_no_name = channel.unary_unary("/keepstep.v1.Checkpoints/List", *raw)
    assert world.api.error(lambda: listing_by_no_name(b"\x0a\x02\xff\xfe", timeout=LIMIT_SECONDS)) is not None
    assert listing(world.daemon.root) == before
    serves(world.api, world.daemon)


def test_a_message_beyond_the_limit_is_refused(world: World) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(world.daemon.address.replace("unix://", "unix:"), options=options) as channel:
        call = channel.unary_unary("/keepstep.v1.Checkpoints/Begin", lambda data: data, lambda data: data)
        error = world.api.error(lambda: call(bytes((64 << 20) + 1), timeout=LIMIT_SECONDS))
    assert error is not None and error.code == "RESOURCE_EXHAUSTED", error
    serves(world.api, world.daemon)
