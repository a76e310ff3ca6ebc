"""Whose the files of a job are: those of its trainer, or the session is refused with what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import REPOSITORY, Daemon

TRAINER, GROUP, OTHER = 54321, 54323, 54322

# Everything is imported before the rights go: the repository may be readable by root alone.
SAVE = """
import os, shutil, sys
import numpy as np
import keepstep
directory, address, uid, gid, umask = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
from keepstep import _ffi
_ffi.library()
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
os.umask(umask)
try:
    with keepstep.Checkpointer(directory, daemon=address, rank=0, world_size=1) as ck:
        weights = np.arange(4096, dtype=np.float32)
        ck.register(model={"w": weights})
        ck.load()
        ck.save(100).result(60)
except keepstep.KeepstepError as error:
    print(error.code, error.reason, str(error))
else:
    print("SAVED")
if len(sys.argv) > 6:
    for name in os.listdir(directory):
        shutil.rmtree(os.path.join(directory, name))
    print("EMPTY" if not os.listdir(directory) else "LEFT")
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a daemon for another user")


@pytest.fixture
def reachable(home: Path) -> Iterator[Path]:
    """A home that other users can reach, with a directory for the job of TRAINER."""
    home.chmod(0o755)
    job = home / "job"
    job.mkdir()
    os.chown(job, TRAINER, GROUP)
    yield home
    shutil.rmtree(job, ignore_errors=True)


def open_to_all(daemon: Daemon) -> None:
    """An operator gives a group the sockets; here everybody."""
    for name in ("keepstep.sock", "keepstep-handoff.sock"):
        (daemon.home / name).chmod(0o666)


def train(daemon: Daemon, umask: int, *flags: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client/python")}
    done = subprocess.run([sys.executable, "-c", SAVE, str(daemon.home / "job"), daemon.address, str(TRAINER),
                           str(GROUP), str(umask), *flags], capture_output=True, text=True, timeout=120, check=False,
                          env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("umask", "job_mode", "file_mode", "directory_mode"), [
    (0o022, 0o755, 0o644, 0o755),
    (0o077, 0o700, 0o600, 0o700),
    (0o002, 0o2775, 0o664, 0o2775),
])
def test_files_belong_to_the_trainer(reachable: Path, umask: int, job_mode: int, file_mode: int,
                                     directory_mode: int) -> None:
    job = reachable / "job"
    job.chmod(job_mode)
    with Daemon(reachable) as daemon:
        open_to_all(daemon)
        assert train(daemon, umask) == ["SAVED"]
    below = sorted(job.rglob("*"))
    assert any(path.name == "DECISION" for path in below)
    assert any(path.suffix == ".safetensors" for path in below)
    for path in below:
        about = path.lstat()
        assert (about.st_uid, about.st_gid) == (TRAINER, GROUP), path
        assert about.st_mode & 0o7777 == (directory_mode if path.is_dir() else file_mode), path
    print(f"umask {umask:03o}: {len(below)} files and directories, all of uid {TRAINER}, gid {GROUP}")


def test_the_trainer_can_delete_what_the_daemon_wrote(reachable: Path) -> None:
    with Daemon(reachable) as daemon:
        open_to_all(daemon)
        assert train(daemon, 0o022, "delete") == ["SAVED", "EMPTY"]


def test_a_daemon_that_cannot_give_files_away_refuses_the_session(reachable: Path) -> None:
    os.chown(reachable, OTHER, OTHER)
    (reachable / "root").mkdir()
    os.chown(reachable / "root", OTHER, OTHER)
    as_other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", "--inh-caps=-all"]
    with Daemon(reachable, wrapper=as_other) as daemon:
        open_to_all(daemon)
        [refused] = train(daemon, 0o022)
        assert refused.startswith("PERMISSION_DENIED CANNOT_WRITE"), refused
        assert f"run keepstepd as uid {TRAINER}" in refused
        (reachable / "job").chmod(0o777)
        [refused] = train(daemon, 0o022)
        assert refused.startswith("PERMISSION_DENIED CANNOT_OWN"), refused
        assert f"Run keepstepd as root or as uid {TRAINER}" in refused
        assert daemon.alive()
    assert list((reachable / "job").iterdir()) == []
