"""`keepstep why` on live jobs: the cause has a rank, a process and a next command; a healthy job has none."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.e2e.world import World
from tests.harness.daemon import Daemon


def problems(daemon: Daemon, *name: str) -> list[dict[str, Any]]:
    result = daemon.command("why", "--json", *name)
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["problems"]
    return found


def status(daemon: Daemon) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(daemon.command("status", "--json").stdout)
    return answer


def until(daemon: Daemon, name: str, kind: str, limit_seconds: float = 40.0) -> dict[str, Any]:
    """The first problem of a kind, once there is one."""
    deadline = time.monotonic() + limit_seconds
    found: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        found = problems(daemon, name)
        for problem in found:
            if problem["kind"] == kind:
                return problem
        time.sleep(0.2)
    raise TimeoutError(f"no problem of kind {kind}: {found}")


def test_a_stopped_rank_is_named_then_forgotten(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 2, 100_000) as world:
        world.until(lambda event: event[1][0] == "COMMITTED")
        stopped = world.processes[1].pid
        os.kill(stopped, signal.SIGSTOP)
        stuck = until(daemon, "vit", "stuck")
        said = daemon.command("why", f"vit/{stuck['step']}").stdout
        table = daemon.command("status").stdout
        os.kill(stopped, signal.SIGCONT)
        world.until(lambda event: event[1][0] == "COMMITTED" and int(event[1][1]) > int(stuck["step"]))
        assert problems(daemon, "vit") == []
    assert stuck["severity"] == "ERROR" and stuck["sentence"].startswith("STUCK in ")
    assert "rank 1 (" in stuck["details"][0] and f"pid {stopped}" in stuck["details"][0]
    assert "is stopped" in stuck["details"][0]
    assert f"kill -CONT {stopped}" in stuck["next"]
    assert "STUCK in" in said and "last good step is" in said and "Next: " in said
    assert "STUCK" in table and "keepstep why vit" in table


def test_a_dead_rank_is_missing_and_its_save_failed(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 2, 100_000) as world:
        world.until(lambda event: event[1][0] == "COMMITTED")
        pid = world.processes[1].pid
        os.kill(pid, signal.SIGSTOP)
        # Rank 0 has gone as far ahead as it can: a save that both had sealed would commit, and none would be left.
        while not any(flight["stage"] == "queue" for job in status(daemon)["jobs"] for flight in job["in_flight"]):
            time.sleep(0.05)
        world.kill(1)
        missing = until(daemon, "vit", "rank missing")
        failed = until(daemon, "vit", "save failed")
        (health,) = [job["health"] for job in status(daemon)["jobs"]]
    assert "rank 1" in missing["details"][0] and f"pid {pid}" in missing["details"][0]
    assert "which ended" in missing["details"][0]
    assert "[TRAINER_DIED]" in failed["details"][0]
    assert health.startswith(f"Step {failed['step']} FAILED")


def test_what_became_of_a_step(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 1, 3) as world:
        world.finish()
    assert "Nothing is wrong" in daemon.command("why").stdout
    assert "Step 3 was committed" in daemon.command("why", "vit/3").stdout
    daemon.kill()
    daemon.start()  # its memory of outcomes is gone, storage's is not
    assert "Step 2 is committed, by 1 rank," in daemon.command("why", f"{home}/vit/2").stdout
    unknown = daemon.command("why", "vit/77")
    assert unknown.returncode == 4 and "try: keepstep ls vit" in unknown.stderr
    assert daemon.command("why", "nobody").returncode == 4
