"""A session without libkeepstep: raw handoff frames, the two pages as bytes, generated stubs.

It keeps no rule that a client library would keep, so a test can break each of them. Frames and pages are those of
proto/handoff.h and proto/session_page.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import secrets
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.attack.api import LIMIT_SECONDS, Api
from tests.harness.daemon import Daemon

MAGIC, VERSION, PAGE_BYTES = 0x4F48534B, 1, 4096
HELLO, WELCOME, REFUSED, COPY, COPY_DONE, NOTIFY, GOODBYE = 1, 2, 3, 4, 5, 6, 7
FETCH, FETCHED = 10, 11
AUTO, PULL, WINDOW = 0, 1, 2
OPEN, SEALED, POISONED = 1, 2, 3  # enum class Verdict
SLOTS, VERDICTS_AT, STATES_AT, RELEASED_AT = 16, 8, 40, 168

SNAPSHOTTED, COMMITTED, FAILED = 2, 4, 8


def header(kind: int, *, magic: int = MAGIC, version: int = VERSION) -> bytes:
    return struct.pack("<IHH", magic, version, kind)


def hello(
    nonce_address: int, nonce: bytes, *, want: int = AUTO, has_directory: bool = True, directory: bytes = b"",
    has_flight_record: int = 0,
) -> bytes:  # fmt: skip
    body = struct.pack("<Q16sBBxB4x1024s", nonce_address, nonce, want, has_directory, has_flight_record, directory)
    return header(HELLO) + body


def fetch(token: bytes, gpu: bytes, ordinal: int) -> bytes:
    return header(FETCH) + struct.pack("<16s16sQ", token, gpu, ordinal)


class Refusal(Exception):
    """The daemon's Refused frame."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message = code, reason, message


def connect(daemon: Daemon) -> socket.socket:
    """The handoff socket, with a limit on every wait."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(LIMIT_SECONDS)
    link.connect(str(daemon.home / "keepstep-handoff.sock"))
    return link


def shake(link: socket.socket, frame: bytes, descriptors: list[int]) -> tuple[bytes, list[int]]:
    """Sends a Hello; the Welcome and its descriptors. Refusal, or ConnectionError when the daemon hangs up."""
    try:
        socket.send_fds(link, [frame], descriptors)
        data, received, _, _ = socket.recv_fds(link, 8192, 8)
    except (BrokenPipeError, ConnectionResetError):
        raise ConnectionError("closed") from None
    if not data:
        raise ConnectionError("closed")
    if struct.unpack_from("<H", data, 6)[0] == REFUSED:
        code, reason, message = struct.unpack_from("<i64s512s", data, 8)
        raise Refusal(code, reason.split(b"\0")[0].decode(), message.split(b"\0")[0].decode())
    return data, received


class RawSession:
    """One session. `directory` None: one that only looks. Close it, or use it as a context."""

    def __init__(self, daemon: Daemon, directory: Path | None, *, want: int = PULL) -> None:
        self.nonce = secrets.token_bytes(16)
        self._nonce_memory = ctypes.create_string_buffer(self.nonce, 16)
        self.link = connect(daemon)
        named = os.fsencode(directory) if directory is not None else b""
        frame = hello(
            ctypes.addressof(self._nonce_memory),
            self.nonce,
            want=want,
            has_directory=directory is not None,
            directory=named,
        )
        descriptors = [] if directory is None else [os.open(directory, os.O_RDONLY | os.O_DIRECTORY)]
        try:
            welcome, self.descriptors = shake(self.link, frame, descriptors)
        except BaseException:
            self.link.close()
            raise
        finally:
            for fd in descriptors:
                os.close(fd)
        self.token = welcome[8:24].hex()
        self.transfer = welcome[24]
        self.daemon_page = mmap.mmap(self.descriptors[0], PAGE_BYTES, prot=mmap.PROT_READ)
        self.client_page = mmap.mmap(self.descriptors[1], PAGE_BYTES)
        self.api = Api(daemon.address, [("keepstep-token", self.token)])
        self._stream: Any = None
        self._memory: list[Any] = []

    # ---- calls

    def open(self, rank: int = 0, world_size: int = 1, **fields: Any) -> Any:
        """Joins; the Opened message. The stream stays open."""
        fields.setdefault("nonce", self.nonce)
        request = self.api.messages.OpenRequest(rank=rank, world_size=world_size, **fields)
        self._stream = self.api.sessions.Open(request)
        return next(self._stream).opened

    def register(self, name: str, values: np.ndarray[Any, Any], generation: int = 1, **fields: Any) -> Any:
        """The whole of a one-dimensional tensor, where `values` lie."""
        self._memory.append(values)
        return self.api.sessions.Register(self.registration(name, values, generation, **fields), timeout=LIMIT_SECONDS)

    def registration(self, name: str, values: np.ndarray[Any, Any], generation: int = 1, **fields: Any) -> Any:
        m = self.api.messages
        request = m.RegisterRequest(generation=generation, **fields)
        request.buffers.add(id=1, host=m.HostBuffer(address=values.ctypes.data, size_bytes=values.nbytes))
        shard = request.shards.add(buffer_id=1, meta=m.TensorMeta(fqn=name, dtype="U8", shape=[values.nbytes]))
        box = shard.boxes.boxes.add().box
        box.origin.append(0)
        box.shape.append(values.nbytes)
        return request

    def save(self, number: int, step: int, **fields: Any) -> Any:
        """One Save; its answer's status. The verdict word is opened before, as a client does."""
        self.set_verdict(number, OPEN)
        request = self.api.messages.SaveRequest(number=number, step=step, **{"generation": 1, **fields})
        return self.api.sessions.Save(request, timeout=LIMIT_SECONDS).status

    def wait(self, number: int, state: int, timeout: float = LIMIT_SECONDS) -> Any:
        request = self.api.messages.WaitRequest(number=number, state=state)
        return self.api.sessions.Wait(request, timeout=timeout)

    def seal(self, number: int) -> None:
        self.set_verdict(number, SEALED)
        self.link.send(header(NOTIFY))

    def save_and_seal(self, number: int, step: int) -> Any:
        """A whole save: the last status."""
        status = self.save(number, step)
        if status.state != FAILED:
            self.wait(number, SNAPSHOTTED)
            self.seal(number)
            status = self.wait(number, COMMITTED)
        return status

    def load(self, step: int | None = None, timeout: float = LIMIT_SECONDS) -> Any:
        """Fills what is registered; the report."""
        request = self.api.messages.LoadRequest(latest=step is None, step=step or 0, strict=True, generation=1)
        *_, last = self.api.sessions.Load(request, timeout=timeout)
        return last.report

    # ---- pages

    def set_verdict(self, number: int, verdict: int) -> None:
        at = VERDICTS_AT + 8 * (number % SLOTS)
        self.client_page[at : at + 8] = struct.pack("<Q", (number << 8 | verdict) & (2**64 - 1))

    def released(self, group: int = 0) -> int:
        return int(struct.unpack_from("<Q", self.daemon_page, RELEASED_AT + 8 * group)[0])

    # ---- ends

    def goodbye(self) -> None:
        """As if the process had ended; no matter if the daemon has closed already."""
        with contextlib.suppress(OSError):
            self.link.send(header(GOODBYE))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        self.api.close()
        self.link.close()
        self.daemon_page.close()
        self.client_page.close()
        for fd in self.descriptors:
            os.close(fd)

    def __enter__(self) -> RawSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
