"""A caller in any language, with nothing but the .proto files, or with reflection and not even those."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.attack.api import LIMIT_SECONDS, Api, commit_one, read, serves, tensor, write
from tests.attack.reflection import Reflection
from tests.harness.daemon import Daemon


def test_grpcio_and_generated_code_alone_save_query_and_load(daemon: Daemon, generated: Path) -> None:
    """In a process of its own, whose path holds neither the package nor the library."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KEEPSTEP")}
    environment["PYTHONPATH"] = str(generated)
    (daemon.root / "job").mkdir()
    program = Path(__file__).with_name("any_language.py")
    result = subprocess.run(
        [sys.executable, "-P", str(program), daemon.address, str(daemon.root / "job")],
        capture_output=True, text=True, timeout=120, env=environment, cwd="/", check=False,
    )  # fmt: skip
    assert result.returncode == 0 and result.stdout == "ok\n", result.stdout + result.stderr[-4000:]


def test_a_restart_gives_an_open_attempts_space_back(daemon: Daemon, api: Api) -> None:
    """Whoever wrote it cannot go on: the journal settles it, and nobody sees the step."""
    commit_one(api, "job", 1, "t", b"abc")
    begun = api.checkpoints.Begin(
        api.messages.BeginRequest(job="job", step=2, shards=[tensor(api, "t", "U8", [1 << 20])]), timeout=LIMIT_SECONDS
    )
    write(api, begun.attempt, "t", bytes(1 << 20))
    daemon.kill()
    daemon.start()
    with Api(daemon.address) as after:
        error = after.error(lambda: write(after, begun.attempt, "t", b"x"))
        assert error is not None and (error.code, error.reason) == ("FAILED_PRECONDITION", "ATTEMPT_OVER")
        assert read(after, "job", 1, "t") == b"abc"
        serves(after, daemon)
    assert not list(daemon.root.glob("job/000000000002/*/*.safetensors"))
    assert not list(daemon.home.glob("state/spool-*"))


def test_reflection_alone_finds_and_calls_the_services(daemon: Daemon) -> None:
    """No generated code, no .proto file: what grpcurl does, and a save and a load besides."""
    with grpc.insecure_channel(daemon.address.replace("unix://", "unix:")) as channel:
        reflection = Reflection(channel)
        found = reflection.services()
        assert {"keepstep.v1.Sessions", "keepstep.v1.Checkpoints", "keepstep.v1.Node"} <= set(found)
        status, request = reflection.method("keepstep.v1.Node", "Status")
        assert status(request(), timeout=LIMIT_SECONDS).pid == daemon.pid

        begin, request = reflection.method("keepstep.v1.Checkpoints", "Begin")
        meta = {"fqn": "t", "dtype": "U8", "shape": [5]}
        shard = {"meta": meta, "boxes": {"boxes": [{"box": {"origin": [0], "shape": [5]}}]}}
        attempt = begin(request(job="reflected", step=4, shards=[shard]), timeout=LIMIT_SECONDS).attempt
        send, request = reflection.method("keepstep.v1.Checkpoints", "Write")
        sent = send(iter([request(attempt=attempt, fqn="t", data=b"hello")]), timeout=LIMIT_SECONDS)
        assert sent.received_bytes == 5
        commit, request = reflection.method("keepstep.v1.Checkpoints", "Commit")
        assert commit(request(attempt=attempt), timeout=LIMIT_SECONDS).decision.step == 4
        load, request = reflection.method("keepstep.v1.Checkpoints", "Read")
        chunks = load(request(name={"job": "reflected", "latest": True}, fqn="t"), timeout=LIMIT_SECONDS)
        assert b"".join(chunk.data for chunk in chunks) == b"hello"
        with pytest.raises(grpc.RpcError) as caught:
            list(load(request(name={"job": "reflected", "step": 9}, fqn="t"), timeout=LIMIT_SECONDS))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
