"""DCP directories into Keepstep and back; above all, what a hostile one can do: nothing."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from keepstep.errors import CheckpointNotFound, DataLoss
from keepstep.torch.dcp import KeepstepStorageReader, foreign, pickles
from keepstep.torch.dcp.export_directory import export_directory
from keepstep.torch.dcp.mapped import MappedFiles

from tests.harness.daemon import REPOSITORY, Daemon

pytestmark = pytest.mark.filterwarnings("ignore")


def odd_state() -> dict[str, Any]:
    return {
        "model": {"t": torch.arange(12.0).reshape(3, 4).t(), "w": torch.nn.Parameter(torch.randn(4, 5))},
        "optimizer": {"step": torch.tensor(3), "u": torch.arange(5, dtype=torch.int32).view(torch.uint32)},
        "none": torch.empty(0, 3),
        "b": torch.randn(33).bfloat16(),
        "f8": torch.arange(16, dtype=torch.uint8).view(torch.float8_e4m3fn),
        "text": {"a": [1, "ä", None], "path": (1, 2)},
    }


def emptied(state: dict[str, Any]) -> dict[str, Any]:
    def empty(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: empty(item) for key, item in value.items()}
        return torch.zeros_like(value).contiguous() if isinstance(value, torch.Tensor) else None

    return {key: empty(value) for key, value in state.items()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        bits = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    return bool(one == other)


def test_there_and_back(daemon: Daemon, home: Path) -> None:
    state = odd_state()
    dcp.save(state, storage_writer=dcp.FileSystemWriter(home / "in", thread_count=3))
    command = [sys.executable, "-m", "keepstep.torch.dcp"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client/python")}
    arguments = ["import", str(home / "in"), str(home / "job"), "--step", "40", "--address", daemon.address]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.startswith("job/40: 7 tensors, "), done.stderr
    loaded = emptied(state)
    dcp.load(loaded, storage_reader=KeepstepStorageReader(home / "job", daemon=daemon.address))
    assert same(loaded, state)
    stored = keepstep.open(home / "job", 40)
    assert np.array_equal(stored.tensor("model.t")[:], state["model"]["t"].numpy())
    export_directory(str(home / "job"), str(home / "out"), chunk_bytes=20)
    loaded = emptied(state)
    dcp.load(loaded, storage_reader=dcp.FileSystemReader(home / "out"))
    assert same(loaded, state)
    with pytest.raises(FileExistsError):
        export_directory(str(home / "job"), str(home / "out"))


def test_the_command_says_who_imports_it(daemon: Daemon, home: Path) -> None:
    dcp.save({"w": torch.ones(2)}, storage_writer=dcp.FileSystemWriter(home / "in"))
    done = daemon.command("import", str(home / "in"), f"{home / 'job'}/0")
    assert done.returncode == 4 and f"python -m keepstep.torch.dcp import {home / 'in'}" in done.stderr


def test_what_a_checkpointer_saved_is_exported(daemon: Daemon, home: Path) -> None:
    with keepstep.Checkpointer(home / "job", daemon=daemon.address) as checkpointer:
        checkpointer.register(model={"a": {"w": np.arange(6.0)}}, progress=lambda: {"seen": 3})
        checkpointer.save(2).result()
    export_directory(str(home / "job"), str(home / "out"))
    state = {"a.w": torch.zeros(6, dtype=torch.float64), "progress": {"seen": 0}}
    dcp.load(state, storage_reader=dcp.FileSystemReader(home / "out"))
    assert state["a.w"].tolist() == [0, 1, 2, 3, 4, 5] and state["progress"] == {"seen": 3}


BOUNDED = """
import resource, sys
from keepstep.torch.dcp.export_directory import export_directory
from keepstep.torch.dcp.import_directory import import_directory
source, job, target, address = sys.argv[1:]
with open("/proc/self/status") as file:
    held = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + (96 << 20), held + (96 << 20)))
import_directory(source, job, daemon=address)
export_directory(job, target, chunk_bytes=4 << 20)
"""


def test_both_ways_are_in_bounded_memory(home: Path) -> None:
    """A process that may take 96 MiB, and a daemon with 32, move 256 MiB."""
    state = {"large": torch.arange(48 << 20, dtype=torch.int32).view(-1, 1 << 10), "small": torch.ones(16 << 20)}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(home / "in"))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client/python"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BOUNDED, *(str(home / name) for name in ("in", "job", "out"))]
    with Daemon(home, "--pool-bytes", str(32 << 20)) as daemon:
        small_stacks = ["bash", "-c", 'ulimit -s 1024; exec "$@"', "bash"]  # they count, and gRPC has many
        done = subprocess.run(
            [*small_stacks, *command, daemon.address], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
    loaded = {name: torch.zeros_like(value) for name, value in state.items()}
    dcp.load(loaded, storage_reader=dcp.FileSystemReader(home / "out"))
    assert same(loaded, state)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def test_a_hostile_directory_is_refused(home: Path) -> None:
    source = home / "in"
    dcp.save({"w": torch.arange(100)}, storage_writer=dcp.FileSystemWriter(source))
    good, blob = (source / ".metadata").read_bytes(), (source / "__0_0.distcp").read_bytes()
    metadata = pickle.loads(good)
    (index,) = metadata.storage_data

    def refused(data: bytes | None = None, items: bytes | None = None, **change: Any) -> str:
        described = pickle.loads(good)
        for name, value in change.items():
            setattr(described.storage_data[index], name, value)
        (source / ".metadata").write_bytes(pickle.dumps(described) if data is None else data)
        (source / "__0_0.distcp").write_bytes(blob if items is None else items)
        with pytest.raises(DataLoss) as raised:
            foreign.read(str(source))
        return str(raised.value)

    marker = home / "marker"
    assert "posix.system" in refused(pickle.dumps(Hostile(marker)))
    assert "a dict where" in refused(pickle.dumps({"state_dict_metadata": 3}))
    assert "no pickle" in refused(good[: len(good) // 2])
    assert "leads elsewhere" in refused(relative_path="../in/__0_0.distcp")
    assert "beyond the end" in refused(length=1 << 40)
    assert "beyond the end" in refused(offset=-4)
    assert "was written through zstd" in refused(transform_descriptors=["zstd"])
    assert refused(items=blob[:-30])
    assert refused(items=bytes(len(blob)))
    hostile = io.BytesIO()
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(marker)))
        archive.writestr("archive/data/0", bytes(800))
    assert "posix.system" in refused(items=hostile.getvalue(), length=len(hostile.getvalue()))
    assert not marker.exists()
    with pytest.raises(CheckpointNotFound):
        foreign.read(str(home))


DOOR = """
import errno, os, runpy, socket, sys
close = runpy.run_path({script!r})["close_the_door"]
close()
tries = [lambda: open("/etc/passwd"), socket.socket, os.fork, lambda: os.execv("/bin/true", ["true"]),
         lambda: os.kill(os.getppid(), 0), lambda: os.mkdir("/tmp/never"), os.pipe]
refused = []
for one in tries:
    try:
        one()
    except PermissionError:
        refused.append("EPERM")
    else:
        refused.append("allowed")
sys.stdout.write(",".join(refused))
sys.stdout.flush()
os._exit(0)
"""


def test_the_reading_process_can_do_nothing_else() -> None:
    script = str(pickles._CHILD)
    done = subprocess.run(
        [sys.executable, "-c", DOOR.format(script=script)], capture_output=True, text=True, check=False
    )
    assert done.stdout == ",".join(["EPERM"] * 7), done.stderr


def test_mapped_files_are_one_range(tmp_path: Path) -> None:
    contents = {"a": b"x" * 5000, "b": b"", "c": b"yz"}
    paths = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    with MappedFiles(paths) as mapped:
        for path, content in zip(paths, contents.values(), strict=True):
            if content:
                assert ctypes.string_at(mapped.base + mapped.begins[path], len(content)) == content
    with pytest.raises(FileNotFoundError):
        MappedFiles([str(tmp_path / "missing")])
