"""GPU memory that a daemon with a GPU cannot map: each kind by its code and reason, and the session goes on.

Requests that are wrong in themselves are in bad_requests.py; here the driver has to look. It is the fake one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.attack.api import Api, serves, tensor
from tests.attack.raw_session import COMMITTED, RawSession
from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.harness.daemon import Daemon

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

UUID = bytes(range(16))
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a handle that no process gave": ({"gpu": UUID, "ipc": b"h" * 64}, "FAILED_PRECONDITION", "BAD_HANDLE"),
    "a GPU of another machine": ({"gpu": b"x" * 16, "ipc": b"h" * 64}, "FAILED_PRECONDITION", "NO_GPU"),
    "a descriptor that was not sent": ({"gpu": UUID, "descriptor_number": 7}, "NOT_FOUND", "UNKNOWN_DESCRIPTOR"),
}


@pytest.fixture
def gpu_daemon(home: Path) -> Iterator[Daemon]:
    with Daemon(home, "--gpu", "on", environment=environment(uuids=[UUID.hex()])) as daemon:
        yield daemon


@pytest.mark.parametrize("name", CASES)
def test_memory_that_cannot_be_mapped(gpu_daemon: Daemon, generated: Path, name: str) -> None:
    memory, code, reason = CASES[name]
    directory = gpu_daemon.root / "job"
    directory.mkdir()
    with Api(gpu_daemon.address) as api, RawSession(gpu_daemon, directory) as session:
        session.open()
        values = np.arange(100, dtype=np.uint8)
        session.register("t", values)
        shard = tensor(api, "t", "U8", [100])
        shard.buffer_id = 1
        request = api.messages.RegisterRequest(
            generation=2, memory=[{"address": 65536, "size_bytes": 4096, **memory}], shards=[shard],
            buffers=[{"id": 1, "device": {"address": 65536, "size_bytes": 100}}])  # fmt: skip
        error = api.error(lambda: session.api.sessions.Register(request, timeout=30))
        assert error is not None and (error.code, error.reason) == (code, reason), error
        assert ("GPU-" in error.message) == (reason != "UNKNOWN_DESCRIPTOR"), error.message
        serves(api, gpu_daemon)
        assert session.save_and_seal(1, 1).state == COMMITTED, "what was registered before stands"
