"""Every kind of wrong request: its code, its reason, a sentence, nothing changed on disk, and the daemon goes on.

Requests are dicts for generated messages, so that no client library refuses them first. One daemon serves them all:
what one of them broke, the next would show.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.attack.api import LIMIT_SECONDS, Api, commit_one, listing, read, serves, write
from tests.attack.raw_session import COMMITTED, SNAPSHOTTED, RawSession
from tests.harness.daemon import REPOSITORY, Daemon

DATA = bytes(range(100))
REASONS = (REPOSITORY / "docs/errors.md").read_text()
HUGE = 1 << 62


@dataclass
class World:
    """A daemon with committed steps 1 (pinned) and 2 of "job", an attempt under way, and a session in each stage."""

    daemon: Daemon
    api: Api
    attempt: str
    aborted: str
    stranger: RawSession  # shaken hands, not opened
    lost: RawSession  # the same, without a directory
    member: RawSession  # opened, generation 1 registered, save 1 of step 10 committed
    empty: RawSession  # opened, nothing registered
    reader: RawSession  # one of two readers, without a run


Call = Callable[[World], Any]
Case = tuple[Call, str, str]


@pytest.fixture(scope="module")
def world(generated: Path) -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="ks-"))
    daemon = Daemon(home).start()
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


# ---- requests


def shard(name: str = "t", dtype: str = "U8", shape: tuple[int, ...] = (100,), *boxes: Any, **fields: Any) -> Any:
    """A Shard as a dict; without `boxes` (origin, shape) the whole tensor."""
    placed = boxes or (([0] * len(shape), shape),)
    where = {"boxes": {"boxes": [{"box": {"origin": origin, "shape": extent}} for origin, extent in placed]}}
    return {"meta": {"fqn": name, "dtype": dtype, "shape": shape}, **where, **fields}


def flat(begin: int, end: int) -> Any:
    return {"meta": {"fqn": "t", "dtype": "U8", "shape": [4]}, "flat": {"begin": begin, "end": end}}


def named(step: int = 1, job: str = "job") -> Any:
    return {"job": job, "step": step}


def checkpoints(method: str, message: str, **fields: Any) -> Call:
    return lambda w: getattr(w.api.checkpoints, method)(
        getattr(w.api.messages, message)(**fields), timeout=LIMIT_SECONDS
    )


def begin(*shards: Any, job: str = "job", step: int = 5, **fields: Any) -> Call:
    return checkpoints("Begin", "BeginRequest", job=job, step=step, shards=shards or [shard()], **fields)


def reading(fqn: str = "t", step: int = 1, **fields: Any) -> Call:
    return checkpoints("Read", "ReadRequest", name=named(step), fqn=fqn, **fields)


def query(**fields: Any) -> Call:
    return checkpoints("QueryTensors", "QueryTensorsRequest", name=named(), **fields)


def pin(id: str, **fields: Any) -> Call:
    return checkpoints("Pin", "PinRequest", name=named(), id=id, **fields)


def delete(step: int) -> Call:
    return checkpoints("Delete", "DeleteRequest", name=named(step))


def send(attempt: str | None = None, **fields: Any) -> Call:
    """One message to Write; by default to the attempt under way."""

    def call(w: World) -> Any:
        named = w.attempt if attempt is None else attempt
        chunk = w.api.messages.WriteChunk(**{"attempt": named, "fqn": "t", **fields})
        return w.api.checkpoints.Write(iter([chunk]), timeout=LIMIT_SECONDS)

    return call


def settle(method: str, which: str) -> Call:
    """Commit or Abort of an attempt of the world, or of the one that is named so."""
    return lambda w: getattr(w.api.checkpoints, method)(
        getattr(w.api.messages, f"{method}Request")(attempt=getattr(w, which, which)), timeout=LIMIT_SECONDS
    )


def of(session: str, method: str, message: str, **fields: Any) -> Call:
    """A call of Sessions with the token of one of the world's sessions."""

    def call(w: World) -> Any:
        api = getattr(w, session).api
        return getattr(api.sessions, method)(getattr(api.messages, message)(**fields), timeout=LIMIT_SECONDS)

    return call


def opening(session: str = "stranger", **fields: Any) -> Call:
    return of(session, "Open", "OpenRequest", **{"rank": 0, "world_size": 1, "nonce": b"n" * 16, **fields})


def registering(*shards: Any, **fields: Any) -> Call:
    """Generation 2 of the member: shards in buffer 1, 100 bytes at an address that nobody reads."""
    buffers = [{"id": 1, "host": {"address": 4096, "size_bytes": 100}}]
    return of("member", "Register", "RegisterRequest",
              **{"generation": 2, "buffers": buffers, "shards": shards, **fields})  # fmt: skip


def buffer(**fields: Any) -> Call:
    return registering(shard(buffer_id=1), buffers=[{"id": 1, **fields}])


def saving(session: str = "member", **fields: Any) -> Call:
    return of(session, "Save", "SaveRequest", **{"number": 2, "step": 11, "generation": 1, **fields})


def extra(**fields: Any) -> Any:
    return {"name": "rng", "items": [b"x"], **fields}


def loading(session: str = "member", **fields: Any) -> Call:
    return of(session, "Load", "LoadRequest", **{"latest": True, "strict": True, "generation": 1, **fields})


# ---- the table

INVALID, RANGE, NOT_FOUND = "INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND"
PRECONDITION, EXHAUSTED = "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"

LAYOUTS: dict[str, Case] = {
    "no name": (begin(shard("")), INVALID, "BAD_SHARD"),
    "NUL in a name": (begin(shard("a\0b")), INVALID, "BAD_SHARD"),
    "control in a name": (begin(shard("a\x1bb")), INVALID, "BAD_SHARD"),
    "long name": (begin(shard("n" * 1025)), INVALID, "BAD_SHARD"),
    "unknown dtype": (begin(shard("t", "F31")), INVALID, "BAD_SHARD"),
    "negative extent": (begin(shard("t", "U8", (-1,))), INVALID, "BAD_SHARD"),
    "product overflow": (begin(shard("t", "U8", (HUGE, HUGE))), INVALID, "BAD_SHARD"),
    "bytes overflow": (begin(shard("t", "F64", (HUGE,))), INVALID, "BAD_SHARD"),
    "65 dimensions": (begin(shard("t", "U8", (1,) * 65)), INVALID, "BAD_SHARD"),
    "box outside": (begin(shard("t", "U8", (4,), ([2], [3]))), INVALID, "BAD_SHARD"),
    "box that wraps": (begin(shard("t", "U8", (4,), ([2**63 - 1], [2**63 - 1]))), INVALID, "BAD_SHARD"),
    "negative origin": (begin(shard("t", "U8", (4,), ([-1], [4]))), INVALID, "BAD_SHARD"),
    "negative box": (begin(shard("t", "U8", (4,), ([0], [-4]))), INVALID, "BAD_SHARD"),
    "ragged box": (begin(shard("t", "U8", (4,), ([0, 0], [4]))), INVALID, "BAD_SHARD"),
    "box of another rank": (begin(shard("t", "U8", (4,), ([0, 0], [4, 1]))), INVALID, "BAD_SHARD"),
    "nowhere": (begin({"meta": {"fqn": "t", "dtype": "U8", "shape": [4]}}), INVALID, "BAD_SHARD"),
    "flat past the end": (begin(flat(0, 5)), INVALID, "BAD_SHARD"),
    "flat backwards": (begin(flat(3, 2)), INVALID, "BAD_SHARD"),
    "replica outside the world": (begin(shard(replica_ranks=[0, 1])), INVALID, "BAD_SHARD"),
    "group": (begin(shard(group=256)), INVALID, "BAD_SHARD"),
    "overlapping boxes": (begin(shard("t", "U8", (4,), ([0], [3]), ([2], [2]))), INVALID, "LAYOUT"),
    "the same tensor twice": (begin(shard(), shard()), INVALID, "DUPLICATE_TENSOR"),
    "a hole": (begin(shard("t", "U8", (4,), ([0], [3]))), PRECONDITION, "HOLES"),
    "more bytes than there are": (begin(shard("a", "U8", (HUGE,)), shard("b", "U8", (HUGE,))), INVALID, "TOO_LARGE"),
    "more bytes than the disk has": (begin(shard("t", "U8", (1 << 55,))), EXHAUSTED, "DISK_FULL"),
}

WITHOUT_A_SESSION: dict[str, Case] = {
    "begin without a job": (begin(job=""), INVALID, "NO_JOB"),
    "negative step": (begin(step=-1), INVALID, "BAD_STEP"),
    "step too large": (begin(step=10**13), INVALID, "BAD_STEP"),
    "step that exists": (begin(step=1), "ALREADY_EXISTS", "STEP_EXISTS"),
    "tags too large": (begin(tags=["x" * 20_000]), EXHAUSTED, "LABELS_TOO_LARGE"),
    "too many metrics": (begin(metrics={str(i): 0 for i in range(300)}), EXHAUSTED, "LABELS_TOO_LARGE"),
    "write to no attempt": (send(""), PRECONDITION, "ATTEMPT_OVER"),
    "write to an unknown attempt": (send("e1-a9-0123456789abcdef"), PRECONDITION, "ATTEMPT_OVER"),
    "write to an unknown tensor": (send(fqn="u", data=b"x"), INVALID, "UNKNOWN_BOX"),
    "write to an unknown box": (send(box=1, data=b"x"), INVALID, "UNKNOWN_BOX"),
    "write past the end": (send(offset_bytes=10, data=DATA), RANGE, "PAST_THE_END"),
    "write before the start": (send(offset_bytes=-1, data=b"x"), RANGE, "PAST_THE_END"),
    "write at the largest offset": (send(offset_bytes=2**63 - 1, data=b"x"), RANGE, "PAST_THE_END"),
    "the same bytes again": (send(offset_bytes=0, data=b"x"), PRECONDITION, "OUT_OF_ORDER"),
    "bytes with a gap": (send(offset_bytes=20, data=b"x"), PRECONDITION, "OUT_OF_ORDER"),
    "commit with bytes missing": (settle("Commit", "attempt"), PRECONDITION, "BYTES_MISSING"),
    "commit after abort": (settle("Commit", "aborted"), PRECONDITION, "ATTEMPT_OVER"),
    "abort of nothing": (settle("Abort", "x" * 10_000), PRECONDITION, "ATTEMPT_OVER"),
    "read of an unknown step": (reading(step=77), NOT_FOUND, "UNKNOWN_CHECKPOINT"),
    "read of an uncommitted step": (reading(step=3), NOT_FOUND, "UNKNOWN_CHECKPOINT"),
    "read of an aborted step": (reading(step=4), NOT_FOUND, "UNKNOWN_CHECKPOINT"),
    "read of an impossible step": (reading(step=-5), INVALID, "BAD_STEP"),
    "read of an unknown tensor": (reading("u"), NOT_FOUND, "MISSING_TENSORS"),
    "read past the end": (reading(box={"origin": [99], "shape": [2]}), RANGE, "PAST_THE_END"),
    "read far past the end": (reading(box={"origin": [2**62], "shape": [2**62 - 1]}), RANGE, "PAST_THE_END"),
    "read that ends beyond 64 bits": (reading(box={"origin": [2**63 - 1], "shape": [2**63 - 1]}), INVALID, "BAD_BOX"),
    "read of another shape": (reading(box={"origin": [0, 0], "shape": [1, 1]}), RANGE, "PAST_THE_END"),
    "read of a negative box": (reading(box={"origin": [0], "shape": [-1]}), INVALID, "BAD_BOX"),
    "read of a ragged box": (reading(box={"origin": [0], "shape": [1, 1]}), INVALID, "BAD_BOX"),
    "query of an absurd page": (query(page_size=10**6), INVALID, "PAGE_SIZE"),
    "query of a ragged box": (query(box={"origin": [0]}), INVALID, "BAD_BOX"),
    "query for a bad shard": (query(wanted=[shard("t", "F31")]), INVALID, "BAD_SHARD"),
    "query for a missing tensor": (query(wanted=[shard("u")]), NOT_FOUND, "MISSING_TENSORS"),
    "query for another shape": (query(wanted=[shard("t", "U8", (7,))]), PRECONDITION, "SHAPE_MISMATCH"),
    "query for another dtype": (query(wanted=[shard("t", "I8")]), PRECONDITION, "SHAPE_MISMATCH"),
    "pin without a name": (pin(""), INVALID, "PIN_ID"),
    "pin that climbs": (pin("../x"), INVALID, "PIN_ID"),
    "pin with a long name": (pin("p" * 129), INVALID, "PIN_ID"),
    "pin with a long text": (pin("p", text="x" * 5000), INVALID, "PIN_TEXT"),
    "delete of a pinned step": (delete(1), PRECONDITION, "PINNED"),
    "delete of the last good step": (delete(2), PRECONDITION, "LAST_CHECKPOINT"),
    "delete of an unknown step": (delete(9), NOT_FOUND, "UNKNOWN_CHECKPOINT"),
    "verify of an unknown step": (checkpoints("Verify", "VerifyRequest", name=named(9)),
                                  NOT_FOUND, "UNKNOWN_CHECKPOINT"),
    "list of an unknown job": (checkpoints("List", "ListRequest", job="nothing"), NOT_FOUND, "UNKNOWN_JOB"),
    "cancel in an unknown job": (checkpoints("Cancel", "CancelRequest", job="nothing", step=1),
                                 NOT_FOUND, "UNKNOWN_JOB"),
}  # fmt: skip

OPENING: dict[str, Case] = {
    "an empty world": (opening(world_size=0), INVALID, "WORLD_SIZE_LIMIT"),
    "too large a world": (opening(world_size=16385), INVALID, "WORLD_SIZE_LIMIT"),
    "a negative rank": (opening(rank=-1), INVALID, "BAD_RANK"),
    "a rank outside": (opening(rank=1), INVALID, "BAD_RANK"),
    "no nonce": (opening(nonce=b""), INVALID, "BAD_NONCE"),
    "a long nonce": (opening(nonce=b"n" * 17), INVALID, "BAD_NONCE"),
    "an unknown mode": (opening(mode=7), INVALID, "BAD_MODE"),
    "a long run": (opening(run="r" * 256), INVALID, "BAD_RUN"),
    "a mesh of another size": (opening(mesh={"names": ["dp"], "sizes": [2]}), INVALID, "BAD_MESH"),
    "a mesh without names": (opening(mesh={"sizes": [1]}), INVALID, "BAD_MESH"),
    "a mesh that overflows": (opening(mesh={"names": ["a"] * 4, "sizes": [2**62] * 4}), INVALID, "BAD_MESH"),
    "a negative epoch": (opening(epoch=-1), INVALID, "BAD_RESUME"),
    "more saves than there are": (opening(epoch=1, saves_issued=2**64 - 1), INVALID, "BAD_RESUME"),
    "an epoch that never was": (opening("reader", epoch=5, mode=1), PRECONDITION, "ALREADY_OPEN"),
    "no directory": (opening("lost"), PRECONDITION, "NO_DIRECTORY"),
    "a second time": (opening("member"), PRECONDITION, "ALREADY_OPEN"),
    "register first": (of("stranger", "Register", "RegisterRequest", generation=1), PRECONDITION, "NOT_OPEN"),
    "save first": (saving("stranger"), PRECONDITION, "NOT_OPEN"),
    "load first": (loading("stranger"), PRECONDITION, "NOT_OPEN"),
    "wait first": (of("stranger", "Wait", "WaitRequest", number=1, state=4), PRECONDITION, "NOT_OPEN"),
    "watch first": (of("stranger", "Watch", "WatchRequest"), PRECONDITION, "NOT_OPEN"),
}

REGISTERING: dict[str, Case] = {
    "an older generation": (registering(generation=1), INVALID, "BAD_GENERATION"),
    "a buffer without memory": (buffer(), INVALID, "BUFFER_KIND"),
    "a buffer of negative size": (buffer(host={"address": 4096, "size_bytes": -1}), INVALID, "BUFFER_RANGE"),
    "a buffer at nothing": (buffer(host={"address": 0, "size_bytes": 100}), INVALID, "BUFFER_RANGE"),
    "a buffer that wraps": (buffer(host={"address": 2**64 - 50, "size_bytes": 100}), INVALID, "BUFFER_RANGE"),
    "an unknown buffer": (registering(shard(buffer_id=2)), NOT_FOUND, "UNKNOWN_BUFFER"),
    "more than its buffer": (registering(shard("t", "U8", (101,), buffer_id=1)), RANGE, "PAST_THE_BUFFER"),
    "an offset past its buffer": (
        registering({"meta": {"fqn": "t", "dtype": "U8", "shape": [1]}, "buffer_id": 1, "boxes": {
            "boxes": [{"box": {"origin": [0], "shape": [1]}, "offset_bytes": 100}]}}), RANGE, "PAST_THE_BUFFER"),
    "strides that leave it": (
        registering({"meta": {"fqn": "t", "dtype": "U8", "shape": [2]}, "buffer_id": 1, "boxes": {
            "boxes": [{"box": {"origin": [0], "shape": [2]}, "strides_bytes": [-(2**63)]}]}}),
        RANGE, "PAST_THE_BUFFER"),
    "strides of another rank": (
        registering({"meta": {"fqn": "t", "dtype": "U8", "shape": [2]}, "buffer_id": 1, "boxes": {
            "boxes": [{"box": {"origin": [0], "shape": [2]}, "strides_bytes": [1, 1]}]}}), INVALID, "BAD_SHARD"),
    "overlapping boxes": (registering(shard("t", "U8", (4,), ([0], [3]), ([2], [2]), buffer_id=1)),
                          INVALID, "BAD_SHARD"),
    "the same tensor twice": (registering(shard(buffer_id=1), shard(buffer_id=1)), INVALID, "DUPLICATE_TENSOR"),
    "placements beside replicas": (
        registering({"meta": {"fqn": "t", "dtype": "U8", "shape": [4]}, "buffer_id": 1, "replica_ranks": [0],
                     "placed": {"placements": [{"kind": 0}]}}), INVALID, "BAD_SHARD"),
    "placements without a mesh": (
        registering({"meta": {"fqn": "t", "dtype": "U8", "shape": [4]}, "buffer_id": 1, "placed": {}}),
        INVALID, "BAD_SHARD"),
    "an unknown placement": (
        registering({"meta": {"fqn": "t", "dtype": "U8", "shape": [4]}, "buffer_id": 1,
                     "placed": {"placements": [{"kind": 9}]}}), INVALID, "BAD_SHARD"),
    "a tensor taken away that is not there": (registering(incremental=True, removed_fqns=["u"]),
                                              NOT_FOUND, "NOT_REGISTERED"),
}  # fmt: skip

SAVING: dict[str, Case] = {
    "number 0": (saving(number=0), INVALID, "BAD_SAVE_NUMBER"),
    "a number that fits no page": (saving(number=2**64 - 1), INVALID, "BAD_SAVE_NUMBER"),
    "a negative step": (saving(step=-1), INVALID, "BAD_STEP"),
    "a step too large": (saving(step=10**13), INVALID, "BAD_STEP"),
    "an unknown policy": (saving(on_busy=9), INVALID, "BAD_POLICY"),
    "an unknown generation": (saving(generation=7), NOT_FOUND, "NOT_REGISTERED"),
    "nothing registered": (saving("empty", number=1), NOT_FOUND, "NOT_REGISTERED"),
    "an extra without a name": (saving(extras=[extra(name="")]), INVALID, "BAD_EXTRA"),
    "an extra twice": (saving(extras=[extra(), extra()]), INVALID, "DUPLICATE_EXTRA"),
    "an extra of two items": (saving(extras=[extra(items=[b"x", b"y"])]), INVALID, "BAD_EXTRA"),
    "too large an extra": (saving(extras=[extra(items=[bytes((1 << 20) + 1)])]), EXHAUSTED, "EXTRAS_TOO_LARGE"),
    "too many extras": (saving(extras=[extra(name=str(i)) for i in range(1025)]), EXHAUSTED, "TOO_MANY_EXTRAS"),
    "too large labels": (saving(tags=["x" * 20_000]), EXHAUSTED, "LABELS_TOO_LARGE"),
    "by a reader": (saving("reader"), PRECONDITION, "READ_ONLY"),
    "wait for no state": (of("member", "Wait", "WaitRequest", number=1), INVALID, "BAD_STATE"),
    "wait for a failure": (of("member", "Wait", "WaitRequest", number=1, state=8), INVALID, "BAD_STATE"),
    "wait for an unknown save": (of("member", "Wait", "WaitRequest", number=9, state=4), NOT_FOUND, "UNKNOWN_SAVE"),
    "wait for an unknown step": (of("member", "Wait", "WaitRequest", step=9, state=4), NOT_FOUND, "UNKNOWN_SAVE"),
}

LOADING: dict[str, Case] = {
    "an unknown step": (loading("reader", latest=False, step=9), NOT_FOUND, "UNKNOWN_CHECKPOINT"),
    "an impossible step": (loading("reader", latest=False, step=-1), INVALID, "BAD_STEP"),
    "an unknown generation": (loading("reader", generation=5), NOT_FOUND, "NOT_REGISTERED"),
    "nothing registered": (loading("empty"), NOT_FOUND, "NOT_REGISTERED"),
    "two readers without a run": (loading("reader"), INVALID, "NO_RUN"),
    "a name that is not registered": (loading("reader", latest=False, step=10, rename={"u": "t"}),
                                      INVALID, "BAD_RENAME"),
    "a name that is not stored": (loading("reader", latest=False, step=10, rename={"t": "u"}),
                                  NOT_FOUND, "MISSING_TENSORS"),
    "too many patterns": (loading("reader", latest=False, step=10, only=["*"] * 1025), EXHAUSTED, "TOO_MANY_PATTERNS"),
    "extras of an unknown step": (of("reader", "GetExtra", "GetExtraRequest", step=9, rank=-1),
                                  NOT_FOUND, "UNKNOWN_CHECKPOINT"),
}  # fmt: skip

TABLE = {
    f"{title}: {name}": case
    for title, cases in {
        "layout": LAYOUTS, "no session": WITHOUT_A_SESSION, "open": OPENING, "register": REGISTERING, "save": SAVING,
        "load": LOADING,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


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
