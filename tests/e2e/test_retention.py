"""What stays and what goes, by the policy of the run, by gc, pins and quota; each decision explained."""

from __future__ import annotations

import json
from pathlib import Path

import keepstep
import numpy as np
import pytest
from keepstep import reader

from tests.harness.daemon import Daemon

MIB = 1 << 20


def job_of(daemon: Daemon) -> Path:
    path = daemon.root / "llama"
    path.mkdir(exist_ok=True)
    return path


def train(daemon: Daemon, steps: range, *, kib: int = 4, **options: int) -> None:
    """Saves each step, waiting for its commit; every element is the step."""
    weights = np.zeros(kib * 256, dtype=np.float32)
    with keepstep.Checkpointer(job_of(daemon), daemon=daemon.address, rank=0, world_size=1, rng=False,
                               on_error="raise", **options) as ck:
        ck.register(model={"w": weights})
        ck.load()
        for step in steps:
            weights.fill(step)
            ck.save(step).result(60)


def stored(daemon: Daemon) -> list[int]:
    return [info.step for info in reader.list_checkpoints(str(job_of(daemon)))]


def gc(daemon: Daemon, *flags: str) -> dict[str, object]:
    """Waits for the collection under way: there is one at a time."""
    done = daemon.command("gc", "llama", "--json", "--yes", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_run_keeps_what_it_asked_for(daemon: Daemon) -> None:
    train(daemon, range(100, 1001, 100), keep_last=2, keep_every=400)
    gc(daemon)
    assert stored(daemon) == [400, 800, 900, 1000]
    left = sorted(path.name for path in job_of(daemon).iterdir())
    assert left == ["000000000400", "000000000800", "000000000900", "000000001000", "epochs"], "directories go too"
    log = daemon.log.read_text()
    assert "llama/300 deleted: older than the 2 newest, and no multiple of 400" in log
    with keepstep.Checkpointer(job_of(daemon), daemon=daemon.address, rank=0, world_size=1, rng=False) as ck:
        weights = np.zeros(1024, dtype=np.float32)
        ck.register(model={"w": weights})
        assert ck.load() == 1000 and (weights == 1000).all()


def test_gc_explains_each_decision_and_knows_the_policy_without_a_trainer(daemon: Daemon) -> None:
    train(daemon, range(1, 6))  # keeps everything
    train(daemon, range(6, 7), keep_last=4)
    gc(daemon)
    assert stored(daemon) == [3, 4, 5, 6]
    daemon.stop()
    daemon.start()
    pinned = daemon.command("pin", "llama/4", "--as", "alice")
    assert pinned.returncode == 0, pinned.stderr
    plan = daemon.command("gc", "llama", "--dry-run", "--keep-last", "1")
    assert plan.returncode == 0, plan.stderr
    print(plan.stdout)
    words = [" ".join(line.split()) for line in plan.stdout.splitlines()]
    assert words[1].startswith("delete 3 ") and words[1].endswith("deleted: older than the newest")
    assert words[2].startswith("keep 4 ") and words[2].endswith("kept: pinned by alice")
    assert words[4].startswith("keep 6 ") and words[4].endswith("kept: the newest")
    # A restarted daemon does not know whether every rank of the run has loaded what the run went on from.
    assert words[3].startswith("keep 5 ") and words[3].endswith("kept: a rank of this run may still load it")
    assert words[5].startswith("llama: keep_last=1; 1 of 4 go")
    assert stored(daemon) == [3, 4, 5, 6], "a dry run deletes nothing"
    assert daemon.command("gc", "llama", "--keep-last", "1").returncode == 1, "nobody was there to be asked"
    assert stored(daemon) == [3, 4, 5, 6]
    assert gc(daemon)["retention"] == {"keep_last": "4", "keep_every": "0"}
    freed = int(str(gc(daemon, "--keep-last", "1")["freed_bytes"]))
    assert freed > 4096 and stored(daemon) == [4, 5, 6]


def test_pins_are_named_listed_and_taken_away(daemon: Daemon) -> None:
    train(daemon, range(1, 4))
    assert daemon.command("pin", "llama/1", "--as", "alice").returncode == 0
    assert daemon.command("pin", "llama/1", "--as", "bob").returncode == 0
    listed = daemon.command("pin", "llama")
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [["1", "alice,", "bob"]]
    assert "pinned" in daemon.command("ls", "llama").stdout
    refused = daemon.command("rm", "--yes", "llama/1")
    assert refused.returncode == 1 and "pinned" in refused.stderr
    assert daemon.command("pin", "llama/1", "--as", "alice", "--remove").returncode == 0
    gc(daemon, "--keep-last", "1")
    assert stored(daemon) == [1, 3]
    assert daemon.command("pin", "llama/1", "--as", "bob", "--remove").returncode == 0
    gc(daemon, "--keep-last", "1")
    assert stored(daemon) == [3]
    gone = daemon.command("pin", "llama/1")
    assert gone.returncode == 4 and "UNKNOWN_CHECKPOINT" in gone.stderr


def test_ranks_that_ask_for_different_things_are_told(daemon: Daemon) -> None:
    job = job_of(daemon)
    with (
        keepstep.Checkpointer(job, daemon=daemon.address, rank=0, world_size=2, keep_last=3),
        pytest.raises(keepstep.KeepstepError, match="Rank 1 asks for keep everything, but") as refused,
    ):
        keepstep.Checkpointer(job, daemon=daemon.address, rank=1, world_size=2)
    assert refused.value.reason == "RETENTION_DIFFERS"


def test_a_quota_refuses_before_a_byte_is_written(home: Path) -> None:
    with Daemon(home, "--job-quota-bytes", "2500KiB") as daemon:
        train(daemon, range(1, 3), kib=1024)
        before = sorted(path for path in job_of(daemon).rglob("*") if path.is_file())
        with pytest.raises(keepstep.SaveFailed) as refused:
            train(daemon, range(3, 4), kib=1024)
        assert refused.value.reason == "QUOTA"
        assert "needs 1.0 MiB; the job holds 2.3 MiB of its 2.4 MiB" in str(refused.value)
        assert "keepstep gc llama --dry-run" in str(refused.value)
        after = sorted(path for path in job_of(daemon).rglob("*") if path.is_file())
        new = {path.name for path in after} - {path.name for path in before}
        assert not [name for name in new if name.endswith(".safetensors")] and stored(daemon) == [1, 2]
        # What the policy would delete anyway makes room.
        train(daemon, range(4, 10), kib=1024, keep_last=1)
        gc(daemon)
        assert stored(daemon) == [9]
