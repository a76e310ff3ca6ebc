"""Records with bytes changed at random and their digests mended: the reader refuses them or reads on, and raises
nothing but its own errors. KEEPSTEP_MUTATIONS asks for more of them; a failure names its seed.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from job_writer import Attempt, epoch_step, record

import keepstep
from keepstep import _records

MUTATIONS = int(os.environ.get("KEEPSTEP_MUTATIONS", "3000"))
HEADER_BYTES, DIGEST_BYTES = 20, 16
EDGES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice(EDGES)
            case 2:
                del changed[at : at + chance.randint(1, 8)]
            case 3:
                changed[at:at] = bytes(chance.choice(EDGES) for _ in range(chance.randint(1, 10)))
            case 4:
                changed[at:at] = changed[chance.randrange(len(changed) + 1) :][:16]
            case 5 if chance.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def job(folder: Path) -> Attempt:
    attempt = Attempt(folder, 5)
    tensor = attempt.tensor("w", "F32", (6, 4), ("tied",))
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    attempt.box(tensor, (0, 0), rows[:2])
    attempt.box(tensor, (2, 0), rows[2:])
    attempt.whole("step", np.array(3, dtype=np.int64))
    attempt.extras.append(("rng", 0, b"state"))
    attempt.commit()
    return attempt


def payload(file: Path) -> bytes:
    return file.read_bytes()[HEADER_BYTES:-DIGEST_BYTES]


@pytest.mark.parametrize(
    ("kind", "name", "decode"),
    [
        (_records.PART, "part-0.pb", _records.decode_part),
        (_records.DECISION, "DECISION", _records.decode_decision),
        (_records.EPOCH_STEP, "LATEST", _records.decode_epoch_step),
    ],
)
def test_records(tmp_path: Path, kind: int, name: str, decode: Callable[[bytes, str], object]) -> None:
    attempt = job(tmp_path)
    epoch_step(tmp_path, 1, "LATEST", 5, attempt.name)
    good = payload(tmp_path / "epochs/1/LATEST" if name == "LATEST" else attempt.path / name)
    refused = 0
    for seed in range(MUTATIONS):
        data = record(kind, mutated(random.Random(seed), good))
        try:
            decode(data, name)
        except keepstep.KeepstepError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert 0 < refused < MUTATIONS


def read_everything(folder: Path) -> None:
    reader = keepstep.open(folder)
    for name in reader.names():
        reader.tensor(name).numpy()


@pytest.mark.parametrize("name", ["part-0.pb", "DECISION"])
def test_a_checkpoint(tmp_path: Path, name: str) -> None:
    attempt = job(tmp_path)
    good = payload(attempt.path / name)
    refused = 0
    for seed in range(MUTATIONS // 10):
        changed = mutated(random.Random(seed), good)
        if name == "DECISION":
            (attempt.path / name).write_bytes(record(_records.DECISION, changed))
        else:
            part = record(_records.PART, changed)
            (attempt.path / name).write_bytes(part)
            attempt.decide(part)
        try:
            read_everything(tmp_path)
        except keepstep.KeepstepError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert 0 < refused < MUTATIONS // 10


def test_a_digest_is_not_mended_by_chance(tmp_path: Path) -> None:
    attempt = job(tmp_path)
    good = (attempt.path / "part-0.pb").read_bytes()
    assert struct.unpack_from("<Q", good, 12)[0] == len(good) - HEADER_BYTES - DIGEST_BYTES
    for seed in range(MUTATIONS // 10):
        bad = mutated(random.Random(seed), good)
        if bad != good:
            with pytest.raises(keepstep.KeepstepError):
                _records.decode_part(bad, "part-0.pb")
