"""Damage at rest, and directories that only look like checkpoints: all of it is noticed, and none of it is loaded.

`KEEPSTEP_DAMAGE=100000` flips as many random bits of the payload; every bit of the records is flipped in any case.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest

from tests.attack.api import LIMIT_SECONDS, Api, commit_one, read, serves, tensor, write
from tests.harness.daemon import Daemon

PAYLOAD_BITS = int(os.environ.get("KEEPSTEP_DAMAGE", "400"))
A, B = np.random.default_rng(5).integers(0, 256, (2, 3 << 20), np.uint8)


@pytest.fixture
def job(daemon: Daemon, api: Api) -> Path:
    """Two steps of two tensors each, which take up the same room; step 2 is the latest."""
    for step, (first, second) in {1: (B, A), 2: (A, B)}.items():
        shards = [tensor(api, name, "U8", [A.size]) for name in ("a", "b")]
        request = api.messages.BeginRequest(job="job", step=step, shards=shards)
        attempt = api.checkpoints.Begin(request, timeout=LIMIT_SECONDS).attempt
        write(api, attempt, "a", first.tobytes())
        write(api, attempt, "b", second.tobytes())
        api.checkpoints.Commit(api.messages.CommitRequest(attempt=attempt), timeout=LIMIT_SECONDS)
    return daemon.root / "job"


def attempt_of(job: Path, step: int) -> Path:
    (found,) = (job / f"{step:012}").glob("e*")
    return found


def verify(api: Api, job: str = "job", step: int = 2) -> str | None:
    """What the daemon says after reading everything back: a code, or None when all is well."""
    request = api.messages.VerifyRequest(name={"job": job, "step": step})
    error = api.error(lambda: api.checkpoints.Verify(request, timeout=LIMIT_SECONDS))
    return None if error is None else error.code


def reader_loads(job: Path, step: int | None = None) -> str | None:
    """What the reader without a daemon says: a code, or None when all is well."""
    try:
        stored = keepstep.open(job, step=step)
        assert np.array_equal(stored.tensor("a")[:], A) and np.array_equal(stored.tensor("b")[:], B)
    except keepstep.KeepstepError as error:
        return error.code
    return None


class Flip:
    """One bit of a file, turned while the block runs."""

    def __init__(self, path: Path, bit: int) -> None:
        self._path, self._byte, self._mask = path, bit // 8, 1 << bit % 8

    def _turn(self) -> None:
        with self._path.open("r+b") as file:
            file.seek(self._byte)
            value = file.read(1)[0]
            file.seek(self._byte)
            file.write(bytes([value ^ self._mask]))

    def __enter__(self) -> None:
        self._turn()

    def __exit__(self, *_: object) -> None:
        self._turn()


def test_every_flipped_bit_of_the_records_is_data_loss(job: Path) -> None:
    """DECISION and part, every bit, by the reader that reads them anew each time. The daemon's codec is the record's
    own test (storage/record_test), which does the same."""
    attempt = attempt_of(job, 2)
    flipped = 0
    for name in ("DECISION", "part-0.pb"):
        for bit in range((attempt / name).stat().st_size * 8):
            with Flip(attempt / name, bit), pytest.raises(keepstep.KeepstepError) as caught:
                keepstep.open(job)
            assert caught.value.code in ("DATA_LOSS", "FAILED_PRECONDITION"), (name, bit, caught.value)
            flipped += 1
    assert reader_loads(job) is None
    print(f"\nflipped bits of records: {flipped} of {flipped} refused")


def test_flipped_bits_of_the_blob_are_data_loss(job: Path, daemon: Daemon, api: Api) -> None:
    """Every bit of its header and random ones of its payload, by the daemon's verification."""
    (blob,) = attempt_of(job, 2).glob("*.safetensors")
    header_bits = 8 * (8 + int.from_bytes(blob.read_bytes()[:8], "little"))
    rng = random.Random(41)
    header = rng.sample(range(header_bits), min(header_bits, max(100, PAYLOAD_BITS // 4)))
    payload = [rng.randrange(header_bits, blob.stat().st_size * 8) for _ in range(PAYLOAD_BITS)]
    missed = []
    for bit in [*header, *payload]:
        with Flip(blob, bit):
            if verify(api) != "DATA_LOSS":
                missed.append(bit)
    assert not missed, f"{len(missed)} of {len(header) + len(payload)}, bytes {[bit // 8 for bit in missed[:10]]}"
    assert verify(api) is None
    serves(api, daemon)
    print(f"\nflipped bits: {len(header)} of the header, {PAYLOAD_BITS} of the payload: all DATA_LOSS")


def cold_load(daemon: Daemon, job: Path, spoil: Callable[[Path], None], tag: str) -> str | None:
    """A copy of the job under another name, spoiled, loaded by the daemon that has never seen it: a code, or None."""
    copy = daemon.root / tag
    shutil.copytree(job, copy)
    spoil(copy)
    with Api(daemon.address) as api:
        for name in ("a", "b"):
            error = api.error(lambda name=name: read(api, tag, 2, name))
            if error is not None:
                return error.code
    return None


def test_damage_is_caught_on_load(job: Path, daemon: Daemon) -> None:
    """Cut at every boundary, blobs and records of another step, an old checkpoint replayed: never other bytes."""
    blob_name = next(attempt_of(job, 2).glob("*.safetensors")).name
    size = (attempt_of(job, 2) / blob_name).stat().st_size
    header = 8 + int.from_bytes((attempt_of(job, 2) / blob_name).read_bytes()[:8], "little")

    def truncated(to: int) -> Callable[[Path], None]:
        return lambda copy: os.truncate(attempt_of(copy, 2) / blob_name, to)

    def from_step_1(*names: str) -> Callable[[Path], None]:
        def spoil(copy: Path) -> None:
            for name in names:
                shutil.copy(attempt_of(copy, 1) / name, attempt_of(copy, 2) / name)

        return spoil

    def flipped(at: int) -> Callable[[Path], None]:
        return lambda copy: Flip(attempt_of(copy, 2) / blob_name, at)._turn()

    rng = random.Random(42)
    cases: dict[str, Callable[[Path], None]] = {
        f"cut-{to}": truncated(to)
        for to in (0, 1, header - 1, header, header + (1 << 20), header + A.size - 1, header + A.size, size // 2)
    }
    cases |= {f"flip-{i}": flipped(rng.randrange(header * 8, size * 8)) for i in range(8)}
    cases |= {
        "swapped-blob": from_step_1(blob_name),
        "swapped-part": from_step_1("part-0.pb"),
        "swapped-decision": from_step_1("DECISION"),
        "replayed": from_step_1(blob_name, "part-0.pb", "DECISION"),
        "no-part": lambda copy: (attempt_of(copy, 2) / "part-0.pb").unlink(),
        "empty-part": lambda copy: os.truncate(attempt_of(copy, 2) / "part-0.pb", 0),
        "no-blob": lambda copy: (attempt_of(copy, 2) / blob_name).unlink(),
        "cut-decision": lambda copy: os.truncate(attempt_of(copy, 2) / "DECISION", 20),
    }
    told = {name: cold_load(daemon, job, spoil, name) for name, spoil in cases.items()}
    assert {code for code in told.values()} == {"DATA_LOSS"}, {k: v for k, v in told.items() if v != "DATA_LOSS"}
    assert cold_load(daemon, job, lambda copy: None, "untouched") is None
    print(f"\ndamage caught on load: {len(told)} of {len(told)}")


JUNK: dict[str, Callable[[Path], Any]] = {
    "blobs without a decision": lambda good: (place(good, 9, "e1-a9-0123456789abcdef") / "DECISION").unlink(),
    "a decision of no bytes": lambda good: os.truncate(place(good, 9, "e1-a9-0123456789abcdef") / "DECISION", 0),
    "another step's decision": lambda good: place(good, 9, good.name),
    "another attempt's decision": lambda good: place(good, 2, "e1-a9-0123456789abcdef"),
    "a directory of digits": lambda good: (good.parent.parent / "999999999999").mkdir(),
    "a short number": lambda good: (good.parent.parent / "77").mkdir(),
    "a long number": lambda good: (good.parent.parent / "0000000000000099").mkdir(),
    "a number that is a file": lambda good: (good.parent.parent / "000000000099").write_bytes(b"x"),
    "a number in another alphabet": lambda good: (good.parent.parent / "٠٠٠٠٠٠٠٠٠٠٩٩").mkdir(),
    "a link to a good one": lambda good: (good.parent.parent / "000000000099").symlink_to(good.parent),
    "an attempt that is a file": lambda good: attempt_file(good),
    "an epoch of junk": lambda good: (good.parent.parent / "epochs" / "77").mkdir(),
    "an epoch beyond numbers": lambda good: (good.parent.parent / "epochs" / ("9" * 30)).mkdir(),
}


def place(good: Path, step: int, name: str) -> Path:
    """A copy of a good attempt where another would lie."""
    target = good.parent.parent / f"{step:012}" / name
    target.parent.mkdir(exist_ok=True)
    if target != good:
        shutil.copytree(good, target)
    return target


def attempt_file(good: Path) -> None:
    (good.parent.parent / "000000000099").mkdir()
    (good.parent.parent / "000000000099" / good.name).write_bytes(b"x")


@pytest.fixture
def small(daemon: Daemon, api: Api) -> Iterator[Path]:
    commit_one(api, "small", 1, "t", b"one")
    commit_one(api, "small", 2, "t", b"two")
    yield daemon.root / "small"


@pytest.mark.parametrize("name", JUNK)
def test_what_was_never_committed_is_never_loaded(small: Path, daemon: Daemon, name: str) -> None:
    """A larger step beside the good one, in every state that is not a commit; the same after a restart."""
    JUNK[name](attempt_of(small, 2))
    for _ in range(2):
        with Api(daemon.address) as api:
            get = api.messages.GetRequest(name={"job": "small", "latest": True})
            answer = api.error(lambda api=api, get=get: api.checkpoints.Get(get, timeout=LIMIT_SECONDS))
            if name in ("a decision of no bytes", "another step's decision", "another attempt's decision"):
                # It may have been a commit: saying so beats going back silently.
                assert answer is None or answer.code == "DATA_LOSS", answer
            else:
                assert answer is None, answer
            if answer is None:
                assert api.checkpoints.Get(get, timeout=LIMIT_SECONDS).decision.step == 2
            if name == "another attempt's decision":  # beside the good one, in the same step
                get = api.messages.GetRequest(name={"job": "small", "step": 2})
                error = api.error(lambda api=api, get=get: api.checkpoints.Get(get, timeout=LIMIT_SECONDS))
                assert error is not None and error.code == "DATA_LOSS"
            else:
                assert read(api, "small", 2, "t") == b"two"
        try:
            assert keepstep.open(small).step == 2
        except keepstep.DataLoss:
            assert "decision" in name
        daemon.stop()
        daemon.start()
