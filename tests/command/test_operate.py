"""Verbs for a running daemon and its jobs: save, watch, top, diff, logs, cancel, drain, reindex, up, down, bench."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.e2e.world import World
from tests.harness.daemon import KEEPSTEP, KEEPSTEPD, Daemon


def test_save_asks_the_ranks_and_waits(daemon: Daemon, home: Path) -> None:
    nobody = daemon.command("save", "nobody")
    assert nobody.returncode == 4 and "try: " in nobody.stderr
    with World(daemon, home / "vit", 2, 100_000, ask=True) as world:
        world.until(lambda event: event[1][0] == "ASKED")
        saved = daemon.command("save", "vit", "--wait", timeout_seconds=60)
        assert saved.returncode == 0, saved.stderr
        assert "vit/" in saved.stdout and "committed" in saved.stdout
        asked = json.loads(daemon.command("save", "--json", str(home / "vit")).stdout)
        events = world.until(lambda event: event[1][:2] == ["COMMITTED", asked["save_at"]])
    assert {rank for rank, words in events if words[:2] == ["SAVED", asked["save_at"]]} == {0, 1}


def test_watch_prints_changes_until_it_is_interrupted(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 1, 100_000) as world:
        world.until(lambda event: event[1][0] == "COMMITTED")
        watch = subprocess.Popen([str(KEEPSTEP), "--address", daemon.address, "watch", "vit", "--json", "--interval",
                                  "0.1"], stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        steps = [int(json.loads(watch.stdout.readline())["last_step"]) for _ in range(3)]
        watch.send_signal(signal.SIGINT)
        watch.stdout.read()
        assert watch.wait(20) == 0
    assert steps == sorted(steps) and steps[-1] > 0
    assert daemon.command("watch", "nobody").returncode == 4


def test_top_looks_again_until_it_is_interrupted(daemon: Daemon) -> None:
    top = subprocess.Popen([str(KEEPSTEP), "--address", daemon.address, "top", "--json", "--interval", "0.1"],
                           stdout=subprocess.PIPE, text=True)
    assert top.stdout is not None
    uptimes = [float(json.loads(top.stdout.readline())["uptime_seconds"]) for _ in range(3)]
    top.send_signal(signal.SIGINT)
    top.stdout.read()
    assert top.wait(20) == 0
    assert uptimes == sorted(set(uptimes)), "each is a look of its own"
    once = daemon.command("top", "--interval", "0")
    assert once.returncode == 2


def test_diff_tells_what_changed(daemon: Daemon, home: Path) -> None:
    tensor = np.arange(8, dtype=np.float32)
    for step, tensors in ((1, {"same": tensor, "changed": tensor, "gone": tensor}),
                          (2, {"same": tensor, "changed": tensor + 1, "new": tensor})):
        save_file(tensors, home / f"{step}.safetensors")
        assert daemon.command("import", str(home / f"{step}.safetensors"), f"{home}/root/vit/{step}").returncode == 0
    found = json.loads(daemon.command("diff", "--json", "vit/1", "vit/latest").stdout)
    assert (found["from"], found["to"], found["same"]) == ("vit/1", "vit/2", 1)
    assert {change["tensor"]: change["change"] for change in found["changes"]} == {
        "changed": "content", "gone": "removed", "new": "added"}
    assert "3 of 4 tensors differ from vit/1 to vit/2" in daemon.command("diff", "vit/1", "vit/2").stdout
    assert daemon.command("diff", "vit/1", "vit/9").returncode == 4


def test_logs_are_filtered_and_followed(daemon: Daemon, home: Path) -> None:
    source = home / "x.safetensors"
    save_file({"w": np.arange(8, dtype=np.float32)}, source)
    with World(daemon, home / "vit", 1, 2) as world:
        world.finish()
    mine = [json.loads(line) for line in daemon.command("logs", "vit", "--json", "-n", "50").stdout.splitlines()]
    assert mine and {line["job"] for line in mine} == {"vit"}
    assert any("vit/2 committed" in line["text"] for line in mine)
    everything = daemon.command("logs").stdout
    assert "serves unix://" in everything and "vit/1 committed" in everything
    follow = subprocess.Popen([str(KEEPSTEP), "--address", daemon.address, "logs", "-f", "-n", "1"],
                              stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    follow.stdout.readline()
    with World(daemon, home / "other", 1, 1) as world:
        world.finish()
    while "other/1 committed" not in follow.stdout.readline():
        assert follow.poll() is None
    follow.send_signal(signal.SIGINT)
    assert follow.wait(20) == 0
    assert daemon.command("logs", "-n", "0").returncode == 2


def test_cancel_gives_a_stuck_save_up(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 2, 100_000) as world:
        world.until(lambda event: event[1][0] == "COMMITTED")
        os.kill(world.processes[1].pid, signal.SIGSTOP)
        step = None
        while step is None:  # rank 0 has asked for a save that rank 1 does not join
            (job,) = json.loads(daemon.command("status", "--json").stdout)["jobs"]
            step = next((save["step"] for save in job["in_flight"] if save["waiting_for_ranks"] == [1]), None)
        assert daemon.command("cancel", f"vit/{step}").returncode == 0
        again = daemon.command("cancel", f"vit/{step}")
        assert again.returncode == 4 and f"keepstep why vit/{step}" in again.stderr
        assert f"Step {step} was cancelled" in daemon.command("why", f"vit/{step}").stdout
    assert daemon.command("cancel", "vit").returncode == 2


def test_reindex_counts_what_storage_holds(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 1, 3) as world:
        world.finish()
    counted = json.loads(daemon.command("reindex", "--json", str(home / "vit")).stdout)
    assert int(counted["checkpoints"]) == 3 and int(counted["extents"]) > 0
    assert "3 checkpoints" in daemon.command("reindex").stdout
    assert daemon.command("reindex", "nobody").returncode == 4


def test_drain_decides_everything_and_ends_the_daemon(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 1, 2) as world:
        world.finish()
    drained = daemon.command("--timeout", "30", "drain")
    assert drained.returncode == 0 and "every save is decided" in drained.stdout, drained.stderr
    assert daemon.ended(30) == 0
    assert daemon.command("status").returncode == 3


def test_a_drain_that_runs_out_of_time_says_so(daemon: Daemon, home: Path) -> None:
    with World(daemon, home / "vit", 2, 100_000) as world:
        world.until(lambda event: event[1][0] == "COMMITTED")
        os.kill(world.processes[1].pid, signal.SIGSTOP)
        while not any(job["in_flight"] for job in json.loads(daemon.command("status", "--json").stdout)["jobs"]):
            pass
        late = daemon.command("--timeout", "0.5", "drain")
        assert late.returncode == 6 and "undecided" in late.stderr
        assert daemon.ended(30) == 0, "the next start settles what is undecided"


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(home), "KEEPSTEPD": str(KEEPSTEPD),
                   "KEEPSTEP_ADDR": f"unix://{home}/keepstep/keepstep.sock"}
    return subprocess.run([str(KEEPSTEP), *arguments], env=environment, capture_output=True, text=True, timeout=120,
                          check=False)


def test_up_bench_and_down(home: Path) -> None:
    up = run(home, "up", "--json", "--", "--state-dir", f"{home}/state", "--pool-bytes", "256MiB")
    assert up.returncode == 0, up.stderr
    pid = json.loads(up.stdout)["pid"]
    try:
        assert json.loads(up.stdout)["started"] is True
        assert os.getsid(pid) not in (pid, os.getsid(0)), "of its own session, which it does not lead"
        again = json.loads(run(home, "up", "--json").stdout)
        assert (again["pid"], again["started"]) == (pid, False)
        bench = run(home, "bench", "--json", "--directory", str(home), "--size", "32MiB")
        assert bench.returncode == 0, bench.stderr
        rows = {row["figure"]: row for row in json.loads(bench.stdout)}
        assert rows["save: committed"]["ratio"] > 0 and rows["save: the call"]["value"] > 0
        assert not list(home.glob("keepstep-bench-*")) and not list(home.glob(".keepstep-bench-*"))
        down = run(home, "down")
        assert down.returncode == 0 and "is down" in down.stdout, down.stderr
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert not alive(pid)
    assert run(home, "down").returncode == 0, "down is down"
    assert run(home, "bench").returncode == 3
    assert (home / "state/keepstepd.log").stat().st_mode & 0o777 == 0o600


def test_up_says_why_it_failed(home: Path) -> None:
    failed = run(home, "up", "--", "--state-dir", f"{home}/state", "--pool-bytes", "lots")
    assert failed.returncode == 1
    assert "lots" in failed.stderr and "try: " in failed.stderr


def alive(pid: int) -> bool:
    for _ in range(100):  # an ended one may wait for init to take note
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state != "Z":
            return True
        time.sleep(0.05)
    return False
