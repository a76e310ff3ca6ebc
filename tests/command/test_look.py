"""`--root DIR` with no daemon running: the looks work, nothing beneath DIR changes, nothing is left behind."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.e2e.world import World
from tests.harness.daemon import KEEPSTEP, KEEPSTEPD, Daemon

MODEL = {"embed.weight": np.arange(3000, dtype=np.float32).reshape(1000, 3), "scalar": np.array(7, dtype=np.int64)}


@pytest.fixture
def ckpt(daemon: Daemon, home: Path) -> Iterator[Path]:
    """A directory of one job with steps 3 and 4; its daemon has ended."""
    save_file(MODEL, home / "x.safetensors")
    for step in (3, 4):
        assert daemon.command("import", str(home / "x.safetensors"), f"{home}/root/vit/{step}").returncode == 0
    daemon.stop()
    (home / "run").mkdir()
    yield home / "root"
    assert list((home / "run").iterdir()) == [], "the one-shot daemon's own directory is gone"


def look(ckpt: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KEEPSTEPD": str(KEEPSTEPD), "XDG_RUNTIME_DIR": str(ckpt.parent / "run")}
    return subprocess.run([str(KEEPSTEP), "--root", str(ckpt), *arguments], env=environment, capture_output=True,
                          text=True, timeout=120, check=False)


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Everything about every entry that a writer would change: mode, owner, size, times, content."""
    out = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        info = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        out[str(path)] = (info.st_mode, info.st_uid, info.st_mtime_ns, info.st_ctime_ns, data)
    return out


def test_every_look_works_and_changes_nothing(ckpt: Path, home: Path) -> None:
    before = snapshot(ckpt)
    listed = json.loads(look(ckpt, "ls", "--json").stdout)
    assert [int(c["decision"]["step"]) for c in listed["jobs"][0]["checkpoints"]] == [3, 4]
    assert "vit" in look(ckpt, "status").stdout
    assert "tensors     2" in look(ckpt, "show", "vit/3").stdout
    assert "tensors     2" in look(ckpt, "show", f"{ckpt}/vit/latest").stdout
    assert "embed.weight" in look(ckpt, "tensors", "vit/latest").stdout
    assert "every digest matches" in look(ckpt, "verify", "vit/4").stdout
    assert "is committed" in look(ckpt, "why", "vit/4").stdout
    assert "0 of 2 tensors differ from vit/3 to vit/4" in look(ckpt, "diff", "vit/3", "vit/latest").stdout
    assert look(ckpt, "rm", "--dry-run", "vit/3").returncode == 0
    assert look(ckpt, "export", "vit/3", str(home / "out")).returncode == 0
    exported = load_file(home / "out/model.safetensors")
    assert all(np.array_equal(exported[name], value) for name, value in MODEL.items())
    assert look(ckpt, "show", "vit/99").returncode == 4
    assert look(ckpt, "ls", "nobody").returncode == 4
    assert snapshot(ckpt) == before


@pytest.mark.parametrize("verb", [("rm", "--yes", "vit/3"), ("save", "vit"), ("cancel", "vit/3"), ("reindex",),
                                  ("import", "x.safetensors", "vit/9")])
def test_what_would_write_is_refused(ckpt: Path, verb: tuple[str, ...]) -> None:
    before = snapshot(ckpt)
    result = look(ckpt, *(str(ckpt.parent / word) if word.endswith("tensors") else word for word in verb))
    assert result.returncode == 1
    assert "READ_ONLY" in result.stderr and "without --root" in result.stderr
    assert snapshot(ckpt) == before


def test_a_directory_that_is_being_trained_into_can_be_looked_at(daemon: Daemon, home: Path) -> None:
    (home / "run").mkdir()
    with World(daemon, home / "root/vit", 2, 100_000) as world:
        world.until(lambda event: event[1][0] == "COMMITTED")
        for _ in range(3):
            events = world.until(lambda event: event[1][0] == "COMMITTED")
            assert not [words for _, words in events if words[0] == "FAILED"]
            assert look(home / "root", "verify", "vit/latest").returncode == 0
        assert "vit" in daemon.command("status").stdout


def test_a_killed_command_leaves_no_daemon(ckpt: Path) -> None:
    environment = {**os.environ, "KEEPSTEPD": str(KEEPSTEPD), "XDG_RUNTIME_DIR": str(ckpt.parent / "run")}
    command = subprocess.Popen([str(KEEPSTEP), "--root", str(ckpt), "watch", "--json"], env=environment,
                               stdout=subprocess.PIPE)
    assert command.stdout is not None
    command.stdout.readline()
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
    assert len(children) == 1
    pidfd = os.pidfd_open(int(children[0]))
    command.kill()
    command.wait()
    assert ended(pidfd, 20), "it ends with its parent"
    os.close(pidfd)
    command.stdout.close()


def ended(pidfd: int, limit_seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(1000 * limit_seconds))


def test_configuration_has_no_say(ckpt: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the one-shot daemon want the port that the machine's own daemon has."""
    (home / "broken.yaml").write_text("no_such_key: 1\n")
    monkeypatch.setenv("KEEPSTEP_CONFIG", str(home / "broken.yaml"))
    refused = subprocess.run([str(KEEPSTEPD), "--check"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "no_such_key" in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("KEEPSTEP_HTTP_LISTEN", f"127.0.0.1:{taken.getsockname()[1]}")
        assert look(ckpt, "ls", "vit").returncode == 0


def test_no_such_root(home: Path) -> None:
    missing = look(home / "nowhere", "ls")
    assert missing.returncode == 4 and "nowhere" in missing.stderr
