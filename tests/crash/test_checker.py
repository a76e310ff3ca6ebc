"""That the checker sees what it is there for: each kind of damage, done on purpose to a job that is whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.arena import Arena
from tests.crash.control import points

CHECKER = Path(__file__).with_name("checker.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with `job` and `ledger`: three checkpoints, one aborted attempt, two epochs."""
    home = Path(tempfile.mkdtemp(prefix="ksc-"))
    kept: Path = tmp_path_factory.mktemp("whole")
    try:
        with Arena(home, points()) as arena:
            arena.new_job()
            arena.save()
            arena.abort()
            arena.save()
            arena.epoch()
            assert arena.settle() == []
            shutil.copytree(arena.job, kept / "job")
            shutil.copytree(arena.ledger, kept / "ledger")
        yield kept
    finally:
        shutil.rmtree(home, ignore_errors=True)


def judge(directory: Path) -> tuple[int, dict[str, Any]]:
    run = subprocess.run([sys.executable, str(CHECKER), f"{directory}/job", f"{directory}/ledger",
                          f"{directory}/ledger/visible.json"], capture_output=True, text=True, check=False)
    return run.returncode, json.loads(run.stdout)


def attempts(directory: Path) -> list[Path]:
    """Committed attempts, oldest first."""
    return sorted(part.parent for part in directory.glob("job/0*/*/part-0.pb"))


def flip_a_bit(directory: Path) -> None:
    blob = attempts(directory)[0] / "model-00000-of-00002.safetensors"
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


def shorten_a_blob(directory: Path) -> None:
    blob = attempts(directory)[0] / "model-00001-of-00002.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1])


def lose_a_part(directory: Path) -> None:
    (attempts(directory)[0] / "part-0.pb").unlink()


def lose_a_checkpoint(directory: Path) -> None:
    shutil.rmtree(attempts(directory)[0])


def lose_a_decision(directory: Path) -> None:
    (attempts(directory)[0] / "DECISION").unlink()


def leave_a_file(directory: Path) -> None:
    (attempts(directory)[0] / ".keepstep-tmp-0").write_bytes(b"x" * 100)


def leave_a_claim(directory: Path) -> None:
    (directory / "job/epochs/1/.keepstep-tmp-0").write_bytes(b"x")


def swap_two_ranks(directory: Path) -> None:
    first, second = (attempts(directory)[0] / f"optimizer-0000{rank}-of-00002.safetensors" for rank in (0, 1))
    data = second.read_bytes()
    second.write_bytes(first.read_bytes())
    first.write_bytes(data)


def show_another(directory: Path) -> None:
    (directory / "ledger/visible.json").write_text(json.dumps({"keepstep ls": []}))


def tell_of_a_failure(directory: Path) -> None:
    for file in directory.glob("ledger/rank*.jsonl"):
        file.write_text(file.read_text().replace('"COMMITTED", "reason": ""', '"FAILED", "reason": "TRAINER_DIED"'))


def load_other_bytes(directory: Path) -> None:
    file = directory / "ledger/rank0.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    loaded = [line for line in lines if line["event"] == "loaded" and line["step"] is not None][-1]
    loaded["pieces"][0]["sha256"] = "0" * 64
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


DAMAGES: dict[Callable[[Path], None], str] = {
    flip_a_bit: "not exact",
    shorten_a_blob: "bytes long",
    lose_a_part: "damaged",
    lose_a_checkpoint: "lost",
    lose_a_decision: "lost",
    leave_a_file: "left over",
    leave_a_claim: "left over",
    swap_two_ranks: "bytes long",
    show_another: "shows",
    tell_of_a_failure: "visible though failed",
    load_other_bytes: "nobody gave",
}


def test_a_whole_job_is_whole(whole: Path) -> None:
    status, verdict = judge(whole)
    assert status == 0 and verdict["checkpoints"] == 3 and verdict["told_failed"] == 2, verdict


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found(whole: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    damage(tmp_path / "copy")
    status, verdict = judge(tmp_path / "copy")
    assert status == 1
    assert any(DAMAGES[damage] in finding for finding in verdict["findings"] + verdict["space"]), verdict
