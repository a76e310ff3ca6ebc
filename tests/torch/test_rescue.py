"""Crash flush of a PyTorch job: killed in the middle of its training, it goes on where it was, exactly."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.daemon import REPOSITORY, Daemon

LIMIT_SECONDS = 60.0


def started(daemon: Daemon, *words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPOSITORY / "client/python"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.torch.rescued", daemon.address, str(daemon.root / "job"), *words], cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path}, text=True, stdout=subprocess.PIPE)


def test_a_killed_job_goes_on_where_it_died(daemon: Daemon) -> None:
    dice = random.Random(7)
    held: dict[int, list[object]] = {}
    reached = 0
    for _ in range(3):
        trainer = started(daemon)
        assert trainer.stdout is not None
        for line in trainer.stdout:
            step, *state = json.loads(line)
            assert held.setdefault(step, state) == state, f"step {step} is another one after a rescue"
            if step >= reached + 5:
                break
        assert step > reached
        time.sleep(dice.uniform(0, 0.02))  # where it is killed, not what it waits for
        trainer.kill()
        for line in trainer.stdout:  # what it still said
            if line.endswith("\n"):
                step, *state = json.loads(line)
                held[step] = state
        trainer.wait()
        trainer.stdout.close()
        resumed = started(daemon, "stop")
        told, _ = resumed.communicate(timeout=LIMIT_SECONDS)
        at, *state = json.loads(told)
        # It may have noted a step and not said so yet.
        assert at in (step, step + 1), (at, step)
        assert held.get(at, state) == state
        held[at] = state
        reached = at
    assert len(re.findall(r"job/\d+ was rescued", Path(daemon.log).read_text())) == 3
