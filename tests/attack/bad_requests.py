"""Wrong requests, each with the code and the reason that it must be refused with.

They are dicts for generated messages, so that no client library refuses them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.attack.api import LIMIT_SECONDS, Api
from tests.attack.raw_session import RawSession
from tests.harness.daemon import Daemon

DATA = bytes(range(100))
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


def gpu_memory(offset: int = 0, **fields: Any) -> Call:
    """A tensor of 100 bytes in GPU memory at `offset` of an allocation that is described as `fields` say."""
    memory = {"address": 65536, "size_bytes": 4096, "gpu": b"g" * 16, **(fields or {"ipc": b"h" * 64})}
    return registering(shard(buffer_id=1), memory=[memory],
                       buffers=[{"id": 1, "device": {"address": 65536 + offset, "size_bytes": 100}}])  # fmt: skip


def allocating(**fields: Any) -> Call:
    return of("member", "Allocate", "AllocateRequest", **{"gpu": b"g" * 16, "ordinal": 1, "size_bytes": 4096, **fields})


def freeing(**fields: Any) -> Call:
    return of("member", "Free", "FreeRequest", **{"gpu": b"g" * 16, "ordinal": 1, **fields})


def fence(**fields: Any) -> Any:
    return {"gpu": b"g" * 16, "event": b"e" * 64, **fields}


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

GPU_MEMORY: dict[str, Case] = {
    "a handle too short": (gpu_memory(ipc=b"h" * 63), INVALID, "BAD_HANDLE"),
    "a handle too long": (gpu_memory(ipc=b"h" * 65), INVALID, "BAD_HANDLE"),
    "no handle": (gpu_memory(gpu=b"g" * 16), INVALID, "BAD_HANDLE"),
    "a UUID too short": (gpu_memory(gpu=b"g" * 15, ipc=b"h" * 64), INVALID, "BAD_HANDLE"),
    "an allocation of no bytes": (gpu_memory(size_bytes=0, ipc=b"h" * 64), INVALID, "BUFFER_RANGE"),
    "an allocation that wraps": (gpu_memory(address=2**64 - 5, ipc=b"h" * 64), INVALID, "BUFFER_RANGE"),
    "a tensor past its allocation": (gpu_memory(4097 - 100), RANGE, "PAST_THE_ALLOCATION"),
    "a tensor before its allocation": (gpu_memory(-1), RANGE, "PAST_THE_ALLOCATION"),
    "a daemon that maps none": (gpu_memory(), PRECONDITION, "GPU_OFF"),
    "owned memory without an ordinal": (gpu_memory(owned_ordinal=0), INVALID, "BAD_HANDLE"),
    "owned memory of a daemon that maps none": (gpu_memory(owned_ordinal=1), PRECONDITION, "GPU_OFF"),
    "an allocation on no GPU": (allocating(gpu=b"g"), INVALID, "BAD_HANDLE"),
    "an allocation of a daemon without GPUs": (allocating(), PRECONDITION, "GPU_OFF"),
    "an allocation before Open": (of("stranger", "Allocate", "AllocateRequest"), PRECONDITION, "NOT_OPEN"),
    "freeing on no GPU": (freeing(gpu=b""), INVALID, "BAD_HANDLE"),
    "freeing what was never allocated": (freeing(), NOT_FOUND, "UNKNOWN_PIECE"),
    "a restart by whoever did not ask for it": (of("member", "Restart", "RestartRequest", generation=1),
                                                PRECONDITION, "NOT_WARM"),
    "a restart by a reader": (of("reader", "Restart", "RestartRequest"), PRECONDITION, "NOT_WARM"),
    "an event's handle too short": (saving(fences=[fence(event=b"e")]), INVALID, "BAD_HANDLE"),
    "an event of no GPU": (saving(fences=[fence(gpu=b"")]), INVALID, "BAD_HANDLE"),
    "too many events": (saving(fences=[fence()] * 65), INVALID, "TOO_MANY_FENCES"),
}

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
        "layout": LAYOUTS, "no session": WITHOUT_A_SESSION, "open": OPENING, "register": REGISTERING,
        "GPU memory": GPU_MEMORY, "save": SAVING, "load": LOADING,
    }.items()
    for name, case in cases.items()
}  # fmt: skip
