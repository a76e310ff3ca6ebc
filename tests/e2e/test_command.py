"""The `keepstep` command against a running daemon: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import keepstep
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.harness.daemon import Daemon

MODEL = {
    "embed.weight": np.arange(300, dtype=np.float32).reshape(100, 3),
    "scalar": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.float16),
    "odd/name#1": np.arange(5, dtype=np.uint8),
}


def imported(daemon: Daemon, home: Path) -> Path:
    source = home / "published.safetensors"
    save_file(MODEL, source)
    result = daemon.command("import", str(source), f"{home}/job/3")
    assert result.returncode == 0, result.stderr
    assert "4 tensors" in result.stdout
    return home / "job"


def same(files: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    assert files.keys() == MODEL.keys()
    for name, value in MODEL.items():
        assert files[name].dtype == value.dtype and np.array_equal(files[name], value), name


def test_import_then_export_is_identical(daemon: Daemon, home: Path) -> None:
    job = imported(daemon, home)
    assert daemon.command("export", f"{job}/3", str(home / "out")).returncode == 0
    same(load_file(home / "out/model.safetensors"))
    again = daemon.command("export", f"{job}/latest", str(home / "out"))
    assert again.returncode == 1 and "--force" in again.stderr
    checkpoint = keepstep.open(job)
    assert sorted(checkpoint.names()) == sorted(MODEL)


def test_export_in_shards_has_an_index(daemon: Daemon, home: Path) -> None:
    job = imported(daemon, home)
    result = daemon.command("export", "--max-shard-size", "200", f"{job}/3", str(home / "out"))
    assert result.returncode == 0, result.stderr
    index = json.loads((home / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(MODEL)
    merged = {}
    for file in set(index["weight_map"].values()):
        merged.update(load_file(home / "out" / file))
    same(merged)
    assert daemon.command("import", str(home / "out"), f"{home}/copy/0").returncode == 0
    checkpoint = keepstep.open(home / "copy")
    assert np.array_equal(checkpoint.tensor("embed.weight")[:], MODEL["embed.weight"])


def test_looking(daemon: Daemon, home: Path) -> None:
    job = imported(daemon, home)
    listed = json.loads(daemon.command("ls", "--json", str(job)).stdout)
    assert [int(c["decision"]["step"]) for c in listed["jobs"][0]["checkpoints"]] == [3]
    assert "job/3" in daemon.command("ls").stdout
    shown = daemon.command("show", "job/3").stdout
    assert "tensors     4" in shown and "imported" in shown
    tensors = daemon.command("tensors", "job/latest", "emb").stdout
    assert "embed.weight" in tensors and "[100, 3]" in tensors and "scalar" not in tensors
    status = daemon.command("status")
    assert status.returncode == 0 and "keepstepd" in status.stdout and "job" in status.stdout


def test_verify_finds_a_flipped_bit(daemon: Daemon, home: Path) -> None:
    job = imported(daemon, home)
    good = daemon.command("verify", f"{job}/3")
    assert good.returncode == 0 and "every digest matches" in good.stdout, good.stderr
    (blob,) = job.rglob("model-*.safetensors")
    data = bytearray(blob.read_bytes())
    data[-100] ^= 0x10
    blob.write_bytes(data)
    bad = daemon.command("verify", f"{job}/3")
    assert bad.returncode == 5
    assert blob.name in bad.stdout and "DAMAGED" in bad.stdout


def test_rm_shows_asks_and_removes(daemon: Daemon, home: Path) -> None:
    job = imported(daemon, home)
    assert daemon.command("import", str(home / "published.safetensors"), f"{job}/4").returncode == 0
    plan = daemon.command("rm", "--dry-run", f"{job}/3")
    assert plan.returncode == 0 and "frees" in plan.stdout
    unasked = daemon.command("rm", f"{job}/3")
    assert unasked.returncode == 1 and "--yes" in unasked.stderr
    assert daemon.command("rm", "--yes", f"{job}/3").returncode == 0
    assert daemon.command("show", f"{job}/3").returncode == 4
    last = daemon.command("rm", "--yes", f"{job}/4")
    assert last.returncode == 1 and "--allow-last" in last.stderr
    assert not list(job.glob("000000000003/*/*.safetensors"))


def test_exit_codes(daemon: Daemon, home: Path) -> None:
    assert daemon.command("frobnicate").returncode == 2
    assert daemon.command("show", "job/abc/x").returncode in (2, 4)
    assert daemon.command("import", str(home / "nothing.safetensors"), f"{home}/job/0").returncode == 4
    assert daemon.command("version").returncode == 0
    doctor = daemon.command("doctor", "--json")
    assert json.loads(doctor.stdout)["checks"]
    daemon.stop()
    gone = daemon.command("status")
    assert gone.returncode == 3 and "keepstepd" in gone.stderr
