"""The daemon's API as any language sees it: Python code generated from proto/*.proto, over a plain channel.

Nothing of the `keepstep` package or of libkeepstep is in it: no library checks a request before the daemon does.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.harness.daemon import REPOSITORY, Daemon

LIMIT_SECONDS = 60.0
FILES = ("sessions", "checkpoints", "node", "types", "storage", "rpc_status")


def generate(into: Path) -> None:
    """Generated code for every file of proto/, beneath `into`, which then goes on sys.path."""
    files = [f"proto/{name}.proto" for name in FILES]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{REPOSITORY}", f"--python_out={into}"]
    subprocess.run([*command, f"--grpc_python_out={into}", *files], check=True, cwd=REPOSITORY)


@dataclass(frozen=True)
class Error:
    """What a call failed with: a canonical code, a reason of docs/errors.md, a sentence."""

    code: str
    reason: str
    message: str


class Api:
    """Generated messages by name, and stubs of one channel. `messages.SaveRequest(...)`, `api.sessions.Save(...)`."""

    def __init__(self, address: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.types = importlib.import_module("proto.types_pb2")
        self.messages = _Messages(importlib.import_module(f"proto.{name}_pb2") for name in FILES)
        self._status = importlib.import_module("proto.rpc_status_pb2")
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address.replace("unix://", "unix:"), options=options)
        channel: grpc.Channel = self.channel
        if metadata:
            channel = grpc.intercept_channel(channel, _WithMetadata(metadata))
        self.sessions = importlib.import_module("proto.sessions_pb2_grpc").SessionsStub(channel)
        self.checkpoints = importlib.import_module("proto.checkpoints_pb2_grpc").CheckpointsStub(channel)
        self.node = importlib.import_module("proto.node_pb2_grpc").NodeStub(channel)

    def error(self, call: Any) -> Error | None:
        """Runs `call()`, reads its stream if it is one, and returns what it failed with; None: it did not."""
        try:
            answer = call()
            if hasattr(answer, "__next__"):
                for _ in answer:
                    pass
        except grpc.RpcError as error:
            return self.error_of(error)
        return None

    def error_of(self, error: Any) -> Error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        status = self._status.Status.FromString(details)
        info = self._status.ErrorInfo()
        if status.details:
            status.details[0].Unpack(info)
        return Error(error.code().name, info.reason, error.details() or "")

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Messages:
    def __init__(self, modules: Iterator[Any]) -> None:
        for module in modules:
            for name in module.DESCRIPTOR.message_types_by_name:
                setattr(self, name, getattr(module, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"proto/*.proto have no message {name}")


class _WithMetadata(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """Sends the session's token with every call, and gives each a limit."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = tuple(metadata)

    def _send(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), request)

    intercept_unary_unary = _send
    intercept_unary_stream = _send
    intercept_stream_unary = _send


def tensor(api: Api, name: str, dtype: str, shape: Sequence[int]) -> Any:
    """A Shard that is the whole tensor, in one box."""
    shard = api.messages.Shard(meta=api.messages.TensorMeta(fqn=name, dtype=dtype, shape=shape))
    box = shard.boxes.boxes.add().box
    box.origin.extend([0] * len(shape))
    box.shape.extend(shape)
    return shard


def write(api: Api, attempt: str, name: str, data: bytes, piece_bytes: int = 1 << 20) -> int:
    """Box 0 of a tensor, in messages of `piece_bytes`; how many bytes the daemon took."""

    def chunks() -> Iterator[Any]:
        for begin in range(0, max(len(data), 1), piece_bytes):
            yield api.messages.WriteChunk(
                attempt=attempt, fqn=name, offset_bytes=begin, data=data[begin : begin + piece_bytes]
            )

    return int(api.checkpoints.Write(chunks(), timeout=LIMIT_SECONDS).received_bytes)


def commit_one(api: Api, job: str, step: int, name: str, data: bytes) -> str:
    """A committed checkpoint of one U8 tensor; its attempt."""
    shard = tensor(api, name, "U8", [len(data)])
    begun = api.checkpoints.Begin(
        api.messages.BeginRequest(job=job, step=step, shards=[shard]), timeout=LIMIT_SECONDS
    )
    write(api, begun.attempt, name, data)
    api.checkpoints.Commit(api.messages.CommitRequest(attempt=begun.attempt), timeout=LIMIT_SECONDS)
    return str(begun.attempt)


def read(api: Api, job: str, step: int, name: str, box: Any = None) -> bytes:
    request = api.messages.ReadRequest(
        name=api.messages.CheckpointName(job=job, step=step), fqn=name, box=box
    )
    return b"".join(chunk.data for chunk in api.checkpoints.Read(request, timeout=LIMIT_SECONDS))


def serves(api: Api, daemon: Daemon) -> None:
    """The daemon runs and answers."""
    assert daemon.alive(), daemon.tail()
    status = api.node.Status(api.messages.StatusRequest(), timeout=LIMIT_SECONDS)
    assert status.pid == daemon.pid


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    """Everything beneath; of files also size and time of the last change. Equal listings: nothing was left changed."""
    found = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        found[str(path.relative_to(directory))] = (info.st_size, info.st_mtime_ns) if path.is_file() else (0, 0)
    return found
