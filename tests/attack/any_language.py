"""Run by test_any_language with grpcio and generated code alone: saves, queries, loads and fails as any language would.

    any_language.py ADDRESS JOB_DIRECTORY

Prints `ok` at the end. Nothing of keepstep may be importable here, and no libkeepstep in memory.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import grpc
from proto import checkpoints_pb2, checkpoints_pb2_grpc, types_pb2

LIMIT_SECONDS = 60.0
ROWS, COLUMNS = 1000, 1500  # 3 MB of U16: more than one message
BODY = bytes(range(250)) * (ROWS * COLUMNS * 2 // 250)
SCALAR = b"\x2a\x00\x00\x00\x00\x00\x00\x00"


def shard(name: str, dtype: str, shape: list[int], boxes: list[tuple[list[int], list[int]]]) -> types_pb2.Shard:
    made = types_pb2.Shard(meta=types_pb2.TensorMeta(fqn=name, dtype=dtype, shape=shape))
    made.boxes.SetInParent()
    for origin, extent in boxes:
        made.boxes.boxes.add(box=types_pb2.Box(origin=origin, shape=extent))
    return made


# The matrix in two boxes, as two ranks might hold it; a scalar has a box without dimensions.
LAYOUT = [
    shard("layers/0.weight", "U16", [ROWS, COLUMNS], [([0, 0], [400, COLUMNS]), ([400, 0], [600, COLUMNS])]),
    shard("step", "I64", [], [([], [])]),
]
CUT = 400 * COLUMNS * 2


def chunks(attempt, name, box, data, start=0, piece=1 << 20):  # type: ignore[no-untyped-def]
    for begin in range(start, len(data), piece):
        yield checkpoints_pb2.WriteChunk(
            attempt=attempt, fqn=name, box=box, offset_bytes=begin, data=data[begin : begin + piece]
        )


def fails(call, code):  # type: ignore[no-untyped-def]
    """The reason that the call fails with, which must have this code."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        assert error.details(), "an error without a sentence"
        return dict(error.trailing_metadata())["grpc-status-details-bin"]
    raise AssertionError("the call did not fail")


def main(address: str, job: str) -> None:
    assert importlib.util.find_spec("keepstep") is None, "keepstep is importable: this proves nothing"
    stub = checkpoints_pb2_grpc.CheckpointsStub(grpc.insecure_channel(address.replace("unix://", "unix:")))
    precondition = grpc.StatusCode.FAILED_PRECONDITION
    request = checkpoints_pb2.BeginRequest(job=job, step=7, shards=LAYOUT, metrics={"loss": 0.5}, tags=["any"])
    attempt = stub.Begin(request, timeout=LIMIT_SECONDS).attempt

    # Bytes missing: refused, and what was written stays.
    half = b"".join([BODY[:CUT]])
    stub.Write(chunks(attempt, "layers/0.weight", 0, half), timeout=LIMIT_SECONDS)
    commit = checkpoints_pb2.CommitRequest(attempt=attempt)
    assert b"BYTES_MISSING" in fails(lambda: stub.Commit(commit, timeout=LIMIT_SECONDS), precondition)
    name = checkpoints_pb2.CheckpointName(job=job, step=7)
    read = checkpoints_pb2.ReadRequest(name=name, fqn="step")
    fails(lambda: list(stub.Read(read, timeout=LIMIT_SECONDS)), grpc.StatusCode.NOT_FOUND)
    stub.Write(chunks(attempt, "layers/0.weight", 1, BODY[CUT:]), timeout=LIMIT_SECONDS)
    stub.Write(chunks(attempt, "step", 0, SCALAR), timeout=LIMIT_SECONDS)
    info = stub.Commit(commit, timeout=LIMIT_SECONDS)
    assert info.decision.step == 7 and info.decision.metrics["loss"] == 0.5 and list(info.decision.tags) == ["any"]

    # It is decided: nothing can be added, committed again or begun again.
    more = chunks(attempt, "step", 0, SCALAR)
    assert b"ATTEMPT_OVER" in fails(lambda: stub.Write(more, timeout=LIMIT_SECONDS), precondition)
    assert b"ATTEMPT_OVER" in fails(lambda: stub.Commit(commit, timeout=LIMIT_SECONDS), precondition)
    unknown = checkpoints_pb2.CommitRequest(attempt="e1-a1-0123456789abcdef")
    assert b"ATTEMPT_OVER" in fails(lambda: stub.Commit(unknown, timeout=LIMIT_SECONDS), precondition)
    again = checkpoints_pb2.BeginRequest(job=job, step=7, shards=LAYOUT)
    assert b"STEP_EXISTS" in fails(
        lambda: stub.Begin(again, timeout=LIMIT_SECONDS), grpc.StatusCode.ALREADY_EXISTS
    )

    # What is stored, where, and the plan that would load two columns of it.
    wanted = shard("layers/0.weight", "U16", [ROWS, COLUMNS], [([0, 10], [ROWS, 2])])
    query = checkpoints_pb2.QueryTensorsRequest(
        name=checkpoints_pb2.CheckpointName(job=job, latest=True), wanted=[wanted]
    )
    found = stub.QueryTensors(query, timeout=LIMIT_SECONDS)
    assert found.step == 7
    assert [tensor.tensor.meta.fqn for tensor in found.tensors] == ["layers/0.weight", "step"]
    assert sorted((tuple(plan.region.origin), tuple(plan.region.shape)) for plan in found.plan) == [
        ((0, 10), (400, 2)),
        ((400, 10), (600, 2)),
    ]
    # Anyone with the files can read an extent at the place that the query named.
    stored = b""
    for extent in found.tensors[0].extents:
        with (Path(job) / extent.blob).open("rb") as blob:
            blob.seek(extent.offset_bytes)
            stored += blob.read(extent.size_bytes)
    assert stored == BODY

    # Loading: all of it, one row, one column, the scalar.
    def bytes_of(fqn, box=None):  # type: ignore[no-untyped-def]
        request = checkpoints_pb2.ReadRequest(name=name, fqn=fqn, box=box)
        return b"".join(chunk.data for chunk in stub.Read(request, timeout=LIMIT_SECONDS))

    assert bytes_of("layers/0.weight") == BODY
    row = COLUMNS * 2
    two_rows = types_pb2.Box(origin=[399, 0], shape=[2, COLUMNS])
    assert bytes_of("layers/0.weight", two_rows) == BODY[399 * row : 401 * row]
    column = b"".join(BODY[r * row + 6 : r * row + 8] for r in range(ROWS))
    assert bytes_of("layers/0.weight", types_pb2.Box(origin=[0, 3], shape=[ROWS, 1])) == column
    assert bytes_of("step") == SCALAR

    # Given up: the space comes back, and the step may be written again.
    doomed = stub.Begin(checkpoints_pb2.BeginRequest(job=job, step=8, shards=LAYOUT), timeout=LIMIT_SECONDS).attempt
    stub.Write(chunks(doomed, "layers/0.weight", 0, half), timeout=LIMIT_SECONDS)
    stub.Abort(checkpoints_pb2.AbortRequest(attempt=doomed), timeout=LIMIT_SECONDS)
    late = chunks(doomed, "layers/0.weight", 1, BODY[CUT:])
    assert b"ATTEMPT_OVER" in fails(lambda: stub.Write(late, timeout=LIMIT_SECONDS), precondition)
    listed = stub.List(checkpoints_pb2.ListRequest(job=job), timeout=LIMIT_SECONDS)
    assert [checkpoint.decision.step for checkpoint in listed.jobs[0].checkpoints] == [7]
    assert not list(Path(job).glob("000000000008/*/*.safetensors"))
    with open("/proc/self/maps") as maps:
        assert "libkeepstep" not in maps.read()
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
