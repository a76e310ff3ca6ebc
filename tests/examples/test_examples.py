"""Each program of client/python/examples runs as its head says, for a user for whom no daemon runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import REPOSITORY
from tests.harness.user import User

EXAMPLES = REPOSITORY / "client/python/examples"


@pytest.fixture
def user(home: Path) -> Iterator[User]:
    user = User(home, OMP_NUM_THREADS="1")
    yield user
    user.kill_daemons()


def run(user: User, *command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], env=user.environment, cwd=user.home, text=True,
                          capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def torchrun(user: User, processes: int, *command: object) -> str:
    return run(user, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *command)


def test_every_example_is_run_here() -> None:
    named = Path(__file__).read_text()
    assert all(f'EXAMPLES / "{program.name}"' in named for program in EXAMPLES.glob("*.py"))


def test_arrays(user: User) -> None:
    first = run(user, EXAMPLES / "arrays.py", user.home / "run", "--steps", 20)
    assert "step 20: " in first and "head[0] = 10.0, embedding[9] = 10.0" in first
    again = run(user, EXAMPLES / "arrays.py", user.home / "run", "--steps", 30)
    assert "step 30: " in again and f"'samples': {64 * 30}" in again


def test_train_goes_on_as_if_it_had_never_stopped(user: User) -> None:
    options = ["--steps", "2000", "--every", "100"]
    straight = run(user, EXAMPLES / "train.py", user.home / "one", *options)
    assert "begins after step 0\n" in straight and "ends after step 2000, loss " in straight
    killed = subprocess.Popen([sys.executable, str(EXAMPLES / "train.py"), str(user.home / "two"), *options],
                              env=user.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert killed.stderr is not None
    assert any("committed" in line for line in killed.stderr)
    killed.kill()
    killed.wait()
    killed.stderr.close()
    resumed = run(user, EXAMPLES / "train.py", user.home / "two", *options)
    assert "begins after step 0\n" not in resumed
    assert resumed.splitlines()[-1] == straight.splitlines()[-1], "the very same loss"


def test_fsdp_on_two_processes_and_then_on_one(user: User) -> None:
    assert "2 processes: steps 0 to 10" in torchrun(user, 2, EXAMPLES / "fsdp.py", user.home / "run", "--steps", 10)
    assert "1 processes: steps 10 to 20" in torchrun(user, 1, EXAMPLES / "fsdp.py", user.home / "run", "--steps", 20)


def test_dcp(user: User) -> None:
    assert "loaded step 3, split by columns" in torchrun(user, 2, EXAMPLES / "dcp.py", user.home / "checkpoint")
