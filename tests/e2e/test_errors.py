"""Each kind of wrong request in the main job's path: the code, the reason, a sentence that helps, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keepstep
import numpy as np
import pytest

from tests.harness.daemon import REPOSITORY, Daemon


def open_job(daemon: Daemon, directory: Path, **options: Any) -> keepstep.Checkpointer:
    defaults = {"daemon": daemon.address, "rank": 0, "world_size": 1, "rng": False}
    return keepstep.Checkpointer(directory, **{**defaults, **options})


def saved(daemon: Daemon, directory: Path, **tensors: Any) -> None:
    with open_job(daemon, directory) as checkpointer:
        checkpointer.register(model=tensors)
        checkpointer.save(1).result(60)


def still_serves(daemon: Daemon, directory: Path) -> None:
    """The daemon answers, and a good save and load still work beside what went wrong."""
    assert daemon.alive()
    value = np.arange(10, dtype=np.int32)
    saved(daemon, directory / "../good", value=value)
    checkpoint = keepstep.open(directory / "../good")
    assert np.array_equal(checkpoint.tensor("value")[:], value)


def test_no_daemon(home: Path) -> None:
    with pytest.raises(keepstep.DaemonUnavailable) as caught:
        keepstep.Checkpointer(home / "job", daemon=f"unix://{home}/keepstep.sock", rank=0, world_size=1)
    assert caught.value.reason == "NO_DAEMON"
    assert "keepstepd" in str(caught.value)


def test_unknown_job_and_step(daemon: Daemon, home: Path) -> None:
    with pytest.raises(keepstep.CheckpointNotFound):
        keepstep.open(home / "nothing")
    saved(daemon, home / "job", value=np.ones(3))
    with open_job(daemon, home / "job") as checkpointer:
        checkpointer.register(model={"value": np.zeros(3)})
        with pytest.raises(keepstep.CheckpointNotFound) as caught:
            checkpointer.load(step=77)
        assert "77" in str(caught.value)
    unknown = daemon.command("show", "no-such-job/5")
    assert unknown.returncode == 4
    assert "no-such-job" in unknown.stderr
    still_serves(daemon, home / "job")


def test_wrong_shape_and_dtype(daemon: Daemon, home: Path) -> None:
    saved(daemon, home / "job", value=np.ones((3, 4), np.float32))
    for wrong in (np.zeros((4, 3), np.float32), np.zeros((3, 4), np.float64)):
        with open_job(daemon, home / "job") as checkpointer:
            checkpointer.register(model={"value": wrong})
            with pytest.raises(keepstep.ShapeMismatch) as caught:
                checkpointer.load()
            assert caught.value.code == "FAILED_PRECONDITION"
            assert "value" in str(caught.value)
    still_serves(daemon, home / "job")


def test_missing_tensor_names_the_nearest(daemon: Daemon, home: Path) -> None:
    saved(daemon, home / "job", **{"output.weight": np.ones(3)})
    with open_job(daemon, home / "job") as checkpointer:
        checkpointer.register(model={"output.weights": np.zeros(3)})
        with pytest.raises(keepstep.MissingTensors) as caught:
            checkpointer.load()
        assert caught.value.code == "NOT_FOUND"
        assert "output.weight" in str(caught.value).replace("output.weights", "")
        assert checkpointer.load(strict=False) == 1
    still_serves(daemon, home / "job")


def test_layout_with_a_hole_is_refused_at_save(daemon: Daemon, home: Path) -> None:
    with open_job(daemon, home / "job") as checkpointer:
        checkpointer.register(model={"value": keepstep.piece(np.ones((2, 4)), (3, 4), np.s_[0:2])})
        with pytest.raises(keepstep.SaveFailed) as caught:
            checkpointer.save(1).result(60)
        assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "HOLES")
        assert "value" in str(caught.value) and "2:3" in str(caught.value)
    with pytest.raises(keepstep.CheckpointNotFound):
        keepstep.open(home / "job")
    still_serves(daemon, home / "job")


def two_ranks(daemon: Daemon, directory: Path, source: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs `source` as ranks 0 and 1 with `checkpointer` open; each prints what its save came to."""
    program = (
        "import sys, numpy as np, keepstep\n"
        "rank = int(sys.argv[1])\n"
        f"with keepstep.Checkpointer({str(directory)!r}, daemon={daemon.address!r}, rank=rank, world_size=2,\n"
        "                           rng=False) as checkpointer:\n"
        f"    {source}\n"
        "    try:\n"
        "        checkpointer.save(1).result(60)\n"
        "        print('COMMITTED')\n"
        "    except keepstep.KeepstepError as error:\n"
        "        print(error.code, error.reason, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client/python")}
    running = [subprocess.Popen([sys.executable, "-c", program, str(rank)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=environment) for rank in range(2)]
    results = []
    for process in running:
        out, err = process.communicate(timeout=120)
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


def test_undeclared_replica_names_both_ranks(daemon: Daemon, home: Path) -> None:
    for result in two_ranks(daemon, home / "job", "checkpointer.register(model={'value': np.ones(100)})"):
        assert result.stdout.startswith("INVALID_ARGUMENT UNDECLARED_REPLICA"), (result.stdout, result.stderr[-2000:])
        assert "value" in result.stdout and "0" in result.stdout and "1" in result.stdout
    still_serves(daemon, home / "job")


def test_replicas_that_differ_are_refused(daemon: Daemon, home: Path) -> None:
    source = "checkpointer.register(model={'value': keepstep.replica(np.full(100, rank), [0, 1])})"
    for result in two_ranks(daemon, home / "job", source):
        assert result.stdout.startswith("FAILED_PRECONDITION REPLICA_MISMATCH"), (
            result.stdout,
            result.stderr[-2000:],
        )
        assert "value" in result.stdout
    still_serves(daemon, home / "job")


def test_saving_a_step_twice(daemon: Daemon, home: Path) -> None:
    with open_job(daemon, home / "job") as checkpointer:
        checkpointer.register(model={"value": np.ones(3)})
        checkpointer.save(1).result(60)
        with pytest.raises(keepstep.KeepstepError) as caught:
            checkpointer.save(1).result(60)
        assert caught.value.code == "ALREADY_EXISTS"
        checkpointer.save(2).result(60)
