"""Clients that lie, flood, vanish and send garbage: the daemon serves on, and what they held comes back.

`KEEPSTEP_CLIENT_KILLS=2000` kills as many clients at every boundary of the protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import secrets
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.attack import raw_session as raw
from tests.attack.api import LIMIT_SECONDS, Api, commit_one, read, serves, tensor
from tests.attack.clients import STAGES, Zygote
from tests.attack.raw_session import COMMITTED, FAILED, SNAPSHOTTED, RawSession, Refusal
from tests.harness.daemon import Daemon

F_ADD_SEALS, F_SEAL_WRITE = 1033, 8  # linux/fcntl.h
KILLS = int(os.environ.get("KEEPSTEP_CLIENT_KILLS", "56"))
FREED_WITHIN_SECONDS = 5.0


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def status(api: Api) -> Any:
    return api.node.Status(api.messages.StatusRequest(), timeout=LIMIT_SECONDS)


def saves(daemon: Daemon, directory: Path, step: int) -> None:
    """An honest client saves and everything of it is right."""
    directory.mkdir(exist_ok=True)
    with RawSession(daemon, directory) as honest:
        honest.open()
        values = np.frombuffer(secrets.token_bytes(10_000), np.uint8).copy()
        honest.register("t", values)
        assert honest.save_and_seal(1, step).state == COMMITTED
        assert read(honest.api, str(directory), step, "t") == values.tobytes()


# ---- the handoff socket


def frames() -> dict[str, tuple[bytes, Callable[[Path], list[int]]]]:
    """Names of bad first frames, with the descriptors that go with them."""
    good = raw.hello(0, b"n" * 16)
    none = raw.hello(0, b"n" * 16, has_directory=False)
    recorded = raw.hello(0, b"n" * 16, has_flight_record=1)

    def opened(path: str, flags: int = os.O_RDONLY) -> Callable[[Path], list[int]]:
        return lambda home: [os.open(path.format(home=home), flags)]

    def nothing(_: Path) -> list[int]:
        return []

    def pipe(_: Path) -> list[int]:
        read_end, write_end = os.pipe()
        os.close(write_end)
        return [read_end]

    def sockets(_: Path) -> list[int]:
        return [socket.socket(socket.AF_UNIX).detach()]

    def memory(_: Path) -> list[int]:
        return [os.memfd_create("shrinks")]

    def with_record(make: Callable[[Path], list[int]]) -> Callable[[Path], list[int]]:
        return lambda home: [os.open(home, os.O_RDONLY), *make(home)]

    def growing(_: Path) -> list[int]:
        fd = os.memfd_create("grows", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 8192 + 2 * (72 << 20))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return [fd]

    def several(home: Path) -> list[int]:
        return [os.open(home, os.O_RDONLY) for _ in range(4)]

    def many(home: Path) -> list[int]:
        return [os.open(home, os.O_RDONLY) for _ in range(200)]

    return {
        "empty": (b"\0", nothing),
        "half a hello": (good[:500], nothing),
        "a hello and more": (good + b"x", opened("{home}")),
        "the largest packet": (bytes(100_000), nothing),
        "another magic": (good.replace(good[:4], b"EVIL"), opened("{home}")),
        "another version": (good[:4] + struct.pack("<H", 99) + good[6:], opened("{home}")),
        "another kind": (raw.header(raw.COPY_DONE) + good[8:], opened("{home}")),
        "a name without an end": (good[:-1024] + b"x" * 1024, opened("{home}")),
        "an unknown transfer": (raw.hello(0, b"n" * 16, want=9), opened("{home}")),
        "a directory that is not sent": (good, nothing),
        "a directory that is not announced": (none, opened("{home}")),
        "several directories": (good, several),
        "two hundred descriptors": (good, many),
        "a file": (good, opened("/etc/passwd")),
        "a device": (good, opened("/dev/zero")),
        "a pipe": (good, pipe),
        "a socket": (good, sockets),
        "a memfd": (good, memory),
        "half a fetch": (raw.header(raw.FETCH) + bytes(39), nothing),
        "a fetch of another version": (raw.header(raw.FETCH, version=99) + bytes(40), nothing),
        "a fetch with a descriptor": (raw.header(raw.FETCH) + bytes(40), opened("{home}")),
        "a flight record that is not sent": (recorded, opened("{home}")),
        "a flight record that is a pipe": (recorded, with_record(pipe)),
        "a flight record that can shrink": (recorded, with_record(memory)),
        "a flight record that can grow": (recorded, with_record(growing)),
        "two flight records": (raw.hello(0, b"n" * 16, has_flight_record=2), with_record(
            lambda home: growing(home) + growing(home))),
        "a directory that is only named": (good, opened("{home}", os.O_PATH)),
    }


# Memory goes to the process of the session that the token names, and what that does not have to nobody.
def test_fetching_without_a_session_or_a_piece_is_refused(daemon: Daemon, home: Path, api: Api) -> None:
    directory = daemon.root / "fetches"
    directory.mkdir()
    with RawSession(daemon, directory) as session:
        session.open()
        for token, reason in ((secrets.token_bytes(16), "NO_SESSION"), (bytes.fromhex(session.token), "UNKNOWN_PIECE")):
            with raw.connect(daemon) as link, pytest.raises(Refusal) as refused:
                raw.shake(link, raw.fetch(token, b"g" * 16, 1), [])
            assert refused.value.reason == reason
    serves(api, daemon)


@pytest.mark.parametrize("name", frames())
def test_a_bad_first_frame_costs_its_own_connection(daemon: Daemon, home: Path, api: Api, name: str) -> None:
    frame, attach = frames()[name]
    serves(api, daemon)  # its own connection is there from here on
    before = descriptors(daemon)
    for _ in range(5):
        sent = attach(home)
        link = raw.connect(daemon)
        try:
            raw.shake(link, frame, sent)
            pytest.fail("it was welcomed")
        except Refusal as refusal:
            assert refusal.reason in ("BAD_FRAME", "UNSUPPORTED_VERSION") and refusal.message
        except (ConnectionError, OSError):
            pass
        finally:
            link.close()
            for fd in sent:
                os.close(fd)
    serves(api, daemon)
    until(lambda: descriptors(daemon) <= before, f"{descriptors(daemon)} descriptors, {before} before")
    saves(daemon, home / "job", 1)


def test_garbage_after_the_handshake_ends_the_session_alone(daemon: Daemon, home: Path, api: Api) -> None:
    rng = random.Random(21)
    for _ in range(40):
        with RawSession(daemon, home) as liar:
            kind = rng.choice([raw.HELLO, raw.WELCOME, raw.REFUSED, raw.COPY, raw.COPY_DONE, 0, 77])
            frame = raw.header(kind) + rng.randbytes(rng.randrange(0, 3000))
            with contextlib.suppress(OSError):
                liar.link.send(frame if rng.random() < 0.7 else rng.randbytes(64))
                for _ in range(rng.randrange(0, 2000)):
                    liar.link.send(raw.header(raw.NOTIFY))
    serves(api, daemon)
    saves(daemon, home / "job", 1)


def until(condition: Callable[[], bool], what: str, seconds: float = FREED_WITHIN_SECONDS) -> float:
    """Waits for it, asking the kernel or the daemon each time; how long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, what
        time.sleep(0.01)
    return time.monotonic() - begin


# ---- memory and pages


def test_shared_memory_cannot_be_shrunk_grown_or_unsealed(daemon: Daemon, home: Path) -> None:
    """A client that could shrink what the daemon has mapped would end it with SIGBUS."""
    with RawSession(daemon, home, want=raw.WINDOW) as session:
        assert len(session.descriptors) == 3
        for fd in session.descriptors:
            size = os.fstat(fd).st_size
            for change in (0, size - 1, size + 4096):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, change)
            with pytest.raises(OSError):
                os.posix_fallocate(fd, size, 4096)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)
        with pytest.raises(PermissionError):
            mmap.mmap(session.descriptors[0], 4096)  # the daemon's page, to write


WILD = {
    "unmapped": (1 << 40, 1 << 20),
    "the first page": (4096, 4096),
    "the kernel's": (0xFFFF_8000_0000_0000, 1 << 20),
    "the last byte there is": (2**64 - 1, 0),
    "all of it": (4096, 2**62),
    "half mapped": (0, 0),  # filled in below
}


@pytest.mark.parametrize("transfer", [raw.PULL, raw.WINDOW])
@pytest.mark.parametrize("name", WILD)
def test_wild_memory_fails_its_save_alone(daemon: Daemon, home: Path, api: Api, name: str, transfer: int) -> None:
    address, size = WILD[name]
    mapped = mmap.mmap(-1, 8192)
    if name == "half mapped":
        address, size = ctypes.addressof(ctypes.c_char.from_buffer(mapped)), 1 << 30
    (home / "liar").mkdir()
    with RawSession(daemon, home / "liar", want=transfer) as liar:
        liar.open()
        m = liar.api.messages
        shard = tensor(liar.api, "t", "U8", [size])
        shard.buffer_id = 1
        request = m.RegisterRequest(generation=1, shards=[shard])
        request.buffers.add(id=1, host=m.HostBuffer(address=address, size_bytes=size))
        error = liar.api.error(lambda: liar.api.sessions.Register(request, timeout=LIMIT_SECONDS))
        if error is None:
            answer = liar.api.error(lambda: liar.save(1, 1))
            if transfer == raw.WINDOW and size > 0:
                with contextlib.suppress(OSError):  # says what a client says of memory that it does not have
                    copy = liar.link.recv(65536)
                    liar.link.send(raw.header(raw.COPY_DONE) + copy[8:16] + struct.pack("<iI", 14, 0))
            if answer is None and size > 0:
                assert liar.wait(1, COMMITTED).state == FAILED
        serves(api, daemon)
    saves(daemon, home / "job", 1)


def test_forged_pages_cost_their_own_saves(daemon: Daemon, home: Path, api: Api) -> None:
    """Garbage all over the client's page, and seals before the copy: nobody else's save is touched."""
    rng = random.Random(22)
    (home / "liar").mkdir()
    with RawSession(daemon, home / "liar") as liar:
        liar.open()
        liar.register("t", np.zeros(1 << 20, np.uint8))
        for number in range(1, 9):
            liar.client_page[8:] = rng.randbytes(raw.PAGE_BYTES - 8)
            for word in range(raw.SLOTS):  # any verdict on any number
                liar.set_verdict(rng.choice([0, number, number + 1, word, 2**55]), rng.choice([0, 1, 2, 3, 200]))
            liar.link.send(raw.header(raw.NOTIFY))
            request = liar.api.messages.SaveRequest(number=number, step=number, generation=1)
            liar.set_verdict(number, raw.SEALED)
            answer = liar.api.sessions.Save(request, timeout=LIMIT_SECONDS)
            liar.link.send(raw.header(raw.NOTIFY))
            if answer.status.state != FAILED:
                with contextlib.suppress(Exception):
                    liar.wait(number, SNAPSHOTTED, timeout=5)
                liar.set_verdict(number, rng.choice([raw.SEALED, raw.POISONED]))
                liar.link.send(raw.header(raw.NOTIFY))
        serves(api, daemon)
    saves(daemon, home / "job", 1)


# ---- names and directories


def test_a_directory_whose_name_is_no_text_is_refused(daemon: Daemon, api: Api) -> None:
    """Its job would make every listing a message that no client can read."""
    for name in (b"bad\xff\xfe", b"line\nbreak", b"escape\x1b[31m"):
        path = os.fsencode(daemon.root) + b"/" + name
        os.mkdir(path)
        with RawSession(daemon, Path(os.fsdecode(path))) as session:
            error = session.api.error(session.open)
            assert error is not None and (error.code, error.reason) == ("INVALID_ARGUMENT", "JOB_NAME")
    commit_one(api, "job", 1, "t", b"abc")
    assert [job.job for job in api.checkpoints.List(api.messages.ListRequest(), timeout=LIMIT_SECONDS).jobs] == ["job"]
    daemon.kill()
    daemon.start()
    with Api(daemon.address) as after:
        assert [job.job for job in status(after).jobs] == ["job"]


@pytest.mark.parametrize("place", ["epochs", "000000000007"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_job_directory_that_leads_elsewhere_is_not_followed(
    daemon: Daemon, home: Path, api: Api, place: str, kind: str
) -> None:
    """Whoever owns the directory could make a daemon with more rights write anywhere."""
    elsewhere, job = home / "elsewhere", home / "liar"
    elsewhere.mkdir()
    job.mkdir()
    if kind == "link":
        (job / place).symlink_to(elsewhere)
    else:
        (job / place).write_bytes(b"no directory")
    with RawSession(daemon, job) as session:
        opening = threading.Thread(target=lambda: session.api.error(lambda: saved(session, 7)), daemon=True)
        opening.start()
        serves(api, daemon)
        saves(daemon, home / "job", 1)
    assert list(elsewhere.iterdir()) == []


def saved(session: RawSession, step: int) -> Any:
    session.open()
    session.register("t", np.zeros(100, np.uint8))
    return session.save_and_seal(1, step)


# ---- floods of connections and streams


def test_thousands_of_connections_on_both_sockets(home: Path, generated: Path) -> None:
    """More than the daemon has descriptors for: it refuses some, and serves again as soon as they go."""
    with Daemon(home) as daemon, Api(daemon.address) as api:
        serves(api, daemon)
        subprocess.run(["prlimit", "--pid", str(daemon.pid), "--nofile=1024:1024"], check=True)
        before = descriptors(daemon)
        links: list[socket.socket] = []
        refused = 0
        for name, kind in (("keepstep.sock", socket.SOCK_STREAM), ("keepstep-handoff.sock", socket.SOCK_SEQPACKET)):
            for i in range(1500):
                link = socket.socket(socket.AF_UNIX, kind)
                link.settimeout(0.05)
                links.append(link)
                try:
                    link.connect(str(home / name))
                    if i % 7 == 0:
                        link.send(b"garbage that is no preface")
                except OSError:
                    refused += 1
        for link in links:
            link.close()
        took = until(lambda: descriptors(daemon) <= before + 8, "their descriptors come back", 20)
        with Api(daemon.address) as fresh:  # a new connection, after the listener ran out of descriptors
            serves(fresh, daemon)
        serves(api, daemon)
        saves(daemon, home / "job", 1)
    print(f"\n3000 connections against 1024 descriptors: {refused} refused at once, all freed after {took:.2f} s")


@pytest.fixture
def held(api: Api) -> Iterator[list[Any]]:
    """Calls to cancel at the end."""
    calls: list[Any] = []
    yield calls
    for call in calls:
        call.cancel()


def test_streams_that_send_nothing_hold_up_nobody(daemon: Daemon, home: Path, api: Api, held: list[Any]) -> None:
    silent = threading.Event()

    def nothing() -> Iterator[Any]:
        silent.wait(LIMIT_SECONDS)
        yield from ()

    others = [Api(daemon.address) for _ in range(3)]
    for other in others:
        held += [other.checkpoints.Write.future(nothing()) for _ in range(100)]
    serves(api, daemon)
    commit_one(api, "job", 1, "t", b"abc")
    assert read(api, "job", 1, "t") == b"abc"
    saves(daemon, home / "trained", 1)
    silent.set()
    for other in others:
        other.close()


def test_readers_that_take_nothing_hold_up_no_other_call(
    daemon: Daemon, home: Path, api: Api, held: list[Any]
) -> None:
    commit_one(api, "large", 1, "t", bytes(32 << 20))
    others = [Api(daemon.address) for _ in range(64)]
    for other in others:
        request = other.messages.ReadRequest(name=other.messages.CheckpointName(job="large", step=1), fqn="t")
        held.append(other.checkpoints.Read(request))
    next(held[0])  # they run; nothing more is taken
    serves(api, daemon)
    (home / "trained").mkdir()
    with RawSession(daemon, home / "trained") as honest:  # other readers wait for a place, trainers do not
        honest.open()
        honest.register("t", np.zeros(1 << 20, np.uint8))
        assert honest.save_and_seal(1, 1).state == COMMITTED
        assert honest.load(1).step == 1
    for call in held:
        call.cancel()
    for other in others:
        other.close()
    assert read(api, "large", 1, "t") == bytes(32 << 20)  # the cancelled ones have made room


# ---- clients that die


@pytest.fixture
def forgetful(home: Path) -> Iterator[Daemon]:
    """A daemon that gives up what a vanished writer began after a second."""
    daemon = Daemon(home, "--limits-attempt-idle", "1s").start()
    yield daemon
    daemon.kill()


def test_clients_killed_at_every_boundary_leave_nothing(forgetful: Daemon, home: Path, generated: Path) -> None:
    """SIGKILL between any two messages: within 5 s no descriptor, no staging memory and no file of them is left."""
    daemon, directory = forgetful, home / "job"
    directory.mkdir()
    with Api(daemon.address) as api, Zygote(generated) as zygote:
        commit_one(api, "written", 10**6, "t", bytes(1000))
        zygote.die(daemon, directory, "sealed", 0)  # what stays open once a job is known does so from here on
        settle(daemon, api, directory)
        before = descriptors(daemon)
        worst = 0.0
        for i in range(KILLS):
            zygote.die(daemon, directory, STAGES[i % len(STAGES)], i + 1)
            if i % 8 == 7 or i + 1 == KILLS:
                begin = time.monotonic()
                settle(daemon, api, directory)
                until(lambda: descriptors(daemon) <= before, f"{descriptors(daemon)} descriptors, {before} before")
                worst = max(worst, time.monotonic() - begin)
    saves(daemon, home / "honest", 1)
    print(f"\n{KILLS} clients killed at {len(STAGES)} boundaries: 0 descriptors, 0 bytes left, "
          f"freed within {worst:.2f} s; rate ≤ {3 / KILLS:.2g}")  # fmt: skip


def settle(daemon: Daemon, api: Api, directory: Path) -> None:
    """No session, no staging memory in use, no file of an attempt that is not committed."""

    def clean() -> bool:
        now = status(api)
        leftovers = [blob for blob in directory.glob("[0-9]*/*/*.safetensors") if committed(blob.parent) is False]
        return now.sessions == 0 and now.pool_used_bytes == now.pool_cached_bytes and not leftovers and not list(
            daemon.home.glob("state/spool-*"))  # fmt: skip

    until(clean, f"{status(api)}\n{daemon.tail()}")


def committed(attempt: Path) -> bool:
    return (attempt / "DECISION").exists() and any(attempt.glob("part-*"))
