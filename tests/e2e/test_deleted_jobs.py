"""Somebody keeps a directory for each checkpoint, and deletes the old ones: the daemon forgets them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import keepstep
import numpy as np

from tests.harness.daemon import Daemon


def known(daemon: Daemon) -> set[str]:
    return {job["job"] for job in json.loads(daemon.command("status", "--json").stdout)["jobs"]}


def save(daemon: Daemon, directory: Path, value: float) -> None:
    with keepstep.Checkpointer(directory, daemon=daemon.address, rng=False) as checkpointer:
        checkpointer.register(model={"w": np.full(1000, value)})
        checkpointer.save(0).result(60)


def held(daemon: Daemon) -> set[str]:
    """What the daemon's descriptors lead to."""
    folder = Path(f"/proc/{daemon.pid}/fd")
    found = set()
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(entry))
    return found


def test_a_job_whose_directory_is_deleted_is_forgotten(daemon: Daemon, home: Path) -> None:
    with keepstep.Checkpointer(home / "open", daemon=daemon.address, rng=False) as in_use:
        in_use.register(model={"w": np.ones(3)})
        in_use.save(1).result(60)
        for number in range(6):
            save(daemon, home / f"step-{number}", number)
        for number in range(5):
            shutil.rmtree(home / f"step-{number}")
        shutil.rmtree(home / "open")  # its trainer is still there
        gone = {f"step-{number}" for number in range(5)}
        deadline = time.monotonic() + 30
        while gone & known(daemon) and time.monotonic() < deadline:  # at most a second, and a further job
            save(daemon, home / "next", 9)
            shutil.rmtree(home / "next")
        assert known(daemon) - {"next"} == {"step-5", "open"}
        assert not {f"{home}/{name} (deleted)" for name in gone} & held(daemon)
        assert f"{home}/open (deleted)" in held(daemon)
        assert keepstep.open(home / "step-5").tensor("w")[0] == 5
    save(daemon, home / "step-0", 7)  # the same place again is a job like any other
    assert keepstep.open(home / "step-0").tensor("w")[0] == 7
