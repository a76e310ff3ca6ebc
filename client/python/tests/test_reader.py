"""The pure-Python reader against files written by tests/job_writer.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from job_writer import Attempt, attempt_name, epoch_step, record

import keepstep
from keepstep import _records
from keepstep import extras as extras_codec


def weights(step: int = 0) -> np.ndarray:
    return np.arange(24, dtype=np.float32).reshape(6, 4) + step


def commit(job: Path, step: int, epoch: int = 1, counter: int = 1) -> Attempt:
    attempt = Attempt(job, step, epoch, counter)
    attempt.whole("w", weights(step))
    attempt.commit()
    return attempt


@pytest.mark.parametrize(
    "index",
    [
        np.s_[...], np.s_[0], np.s_[-1], np.s_[2:5], np.s_[:, 1], np.s_[1:4, 1:3], np.s_[5, 3], np.s_[::2, ::-1],
        np.s_[..., 2], np.s_[4:2], np.s_[1, ...], np.s_[-3:-1, -2:],
    ],
)  # fmt: skip
def test_slices_across_boxes_equal_numpy(tmp_path: Path, index: object) -> None:
    attempt = Attempt(tmp_path, 7)
    tensor = attempt.tensor("w", "F32", (6, 4))
    for rows, columns in [(np.s_[0:2], np.s_[0:4]), (np.s_[2:6], np.s_[0:1]), (np.s_[2:6], np.s_[1:4])]:
        attempt.box(tensor, (rows.start, columns.start), weights()[rows, columns])
    attempt.commit()
    np.testing.assert_array_equal(keepstep.open(tmp_path).tensor("w")[index], weights()[index])


def test_scalars_empty_tensors_and_aliases(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, 0)
    attempt.whole("scalar", np.array(3, dtype=np.int64))
    attempt.whole("empty", np.zeros((0, 5), dtype=np.float32))
    attempt.whole("embed", weights(), aliases=("lm_head",))
    attempt.commit()
    reader = keepstep.open(tmp_path)
    assert reader.names() == ["embed", "empty", "lm_head", "scalar"]
    assert reader.tensor("scalar")[()] == 3
    assert reader.tensor("empty").numpy().shape == (0, 5)
    np.testing.assert_array_equal(np.asarray(reader.tensor("lm_head")), weights())


def test_decision_is_described(tmp_path: Path) -> None:
    commit(tmp_path, 12)
    (info,) = keepstep.reader.list_checkpoints(tmp_path)
    assert (info.step, info.epoch, info.world_size, info.tags) == (12, 1, 4, ("nightly",))
    assert info.metrics == {"loss": 0.5}


def test_blocks_beyond_the_first_are_verified_and_sliced(tmp_path: Path) -> None:
    big = np.arange(700_000, dtype=np.float32).reshape(7000, 100)
    attempt = Attempt(tmp_path, 1)
    attempt.whole("big", big)
    attempt.commit()
    np.testing.assert_array_equal(keepstep.open(tmp_path).tensor("big")[5000:5003, 7], big[5000:5003, 7])
    blob = attempt.path / attempt.blob
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    reader = keepstep.open(tmp_path)
    np.testing.assert_array_equal(reader.tensor("big")[0:10], big[0:10])
    with pytest.raises(keepstep.DataLoss, match="damaged") as caught:
        reader.tensor("big")[6999]
    assert caught.value.tensor == "big" and caught.value.blob == attempt.blob


# A larger step that was never committed must not be picked, whatever lies in its directory.
def test_uncommitted_attempts_are_invisible(tmp_path: Path) -> None:
    commit(tmp_path, 3)
    undecided = Attempt(tmp_path, 9)
    undecided.whole("w", weights(9))
    (undecided.path / "part-0.pb").write_bytes(undecided._write())
    aborted = Attempt(tmp_path, 10)
    aborted.whole("w", weights(10))
    aborted.commit(kind=2)
    deleting = commit(tmp_path, 11)
    (deleting.path / "DELETING").write_bytes(b"")
    (tmp_path / "000000000099").mkdir()
    (tmp_path / "100").mkdir()
    assert keepstep.open(tmp_path).step == 3
    assert keepstep.open(tmp_path).steps() == [3]
    for step in (9, 10, 11, 99):
        with pytest.raises(keepstep.CheckpointNotFound, match="committed are: 3"):
            keepstep.open(tmp_path, step)


def test_latest_follows_epochs_not_step_numbers(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        commit(tmp_path, step)
    epoch_step(tmp_path, 2, "LATEST", 300, attempt_name(1, 1))  # a run that looked and exited changes nothing
    assert keepstep.open(tmp_path).step == 300
    epoch_step(tmp_path, 3, "PARENT", 200, attempt_name(1, 1))  # a rollback that has begun to save
    assert keepstep.open(tmp_path).step == 200
    commit(tmp_path, 210, epoch=3)
    assert keepstep.open(tmp_path).step == 210
    assert keepstep.open(tmp_path).steps() == [100, 200, 300, 210]
    epoch_step(tmp_path, 4, "PARENT", None)
    with pytest.raises(keepstep.CheckpointNotFound):
        keepstep.open(tmp_path)


def test_the_highest_attempt_of_a_step_wins(tmp_path: Path) -> None:
    commit(tmp_path, 5, epoch=1)
    later = Attempt(tmp_path, 5, epoch=2)
    later.whole("w", weights() * 2)
    later.commit()
    np.testing.assert_array_equal(keepstep.open(tmp_path, 5).tensor("w").numpy(), weights() * 2)


@pytest.mark.parametrize("name", ["DECISION", "part-0.pb"])
def test_every_flipped_bit_and_truncation_of_a_record_is_caught(tmp_path: Path, name: str) -> None:
    attempt = commit(tmp_path, 1)
    path = attempt.path / name
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with pytest.raises(keepstep.DataLoss):
            keepstep.open(tmp_path)
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(keepstep.DataLoss):
            keepstep.open(tmp_path)


# Damage to one step must not hide the others, nor let an older one pass for the latest.
def test_a_damaged_decision_hides_only_itself(tmp_path: Path) -> None:
    commit(tmp_path, 1)
    damaged = commit(tmp_path, 2)
    (damaged.path / "DECISION").write_bytes(b"KSREC")
    assert keepstep.open(tmp_path, 1).steps() == [1]
    for step in (None, 2):
        with pytest.raises(keepstep.DataLoss):
            keepstep.open(tmp_path, step)


def test_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    attempt = commit(tmp_path, 1)
    body = _records.unframe(_records.DECISION, (attempt.path / "DECISION").read_bytes(), "DECISION")
    (attempt.path / "DECISION").write_bytes(record(2, body, version=2))
    with pytest.raises(keepstep.KeepstepError, match="version 2"):
        keepstep.open(tmp_path)


def test_holes_and_unknown_names_are_errors(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, 1)
    tensor = attempt.tensor("w", "F32", (6, 4))
    attempt.box(tensor, (0, 0), weights()[0:3])
    attempt.commit()
    reader = keepstep.open(tmp_path)
    np.testing.assert_array_equal(reader.tensor("w")[1:3], weights()[1:3])
    with pytest.raises(keepstep.DataLoss, match="12 elements"):
        reader.tensor("w").numpy()
    with pytest.raises(keepstep.MissingTensors, match=r"stored: w\?"):
        reader.tensor("ww")


def test_bfloat16_and_extras(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, 1)
    attempt.whole("half", np.arange(6, dtype=np.uint16))
    attempt.extras = [("loader", 1, extras_codec.encode({"at": 7})), ("loader", 0, extras_codec.encode({"at": 3}))]
    attempt.commit()
    reader = keepstep.open(tmp_path)
    assert reader.tensor("half").stored_dtype == "BF16"
    assert reader.tensor("half").numpy().tobytes() == np.arange(6, dtype=np.uint16).tobytes()
    assert reader.extra("loader") == {"at": 3} and reader.extra("loader", rank=1) == {"at": 7}
    assert reader.extra_names() == [("loader", 0), ("loader", 1)]


# The reader is what is left when everything else is gone: no library, no daemon, no xxhash.
def test_reads_without_library_or_xxhash(tmp_path: Path) -> None:
    commit(tmp_path, 4)
    script = (
        "import sys, json; sys.modules['xxhash'] = None\n"
        "import keepstep; print(json.dumps(keepstep.open(sys.argv[1]).tensor('w')[1].tolist()))"
    )
    environment = {**os.environ, "KEEPSTEP_LIBRARY": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[1])}
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout) == [8.0, 9.0, 10.0, 11.0]


def test_one_shot_load_returns_new_arrays(tmp_path: Path) -> None:
    commit(tmp_path, 4)
    np.testing.assert_array_equal(keepstep.load(tmp_path)["w"], weights(4))
