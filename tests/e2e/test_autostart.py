"""No daemon runs: a Checkpointer starts one for its user, one for all ranks, which ends when nobody needs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import KEEPSTEP, KEEPSTEPD
from tests.harness.user import User

NOBODY = 54331  # a user that owns nothing

# Ranks of one job, told on stdin when to begin. What a save needs is left to the hook at exit.
RANK = """
import sys
import numpy as np
import keepstep
from keepstep import _ffi
_ffi.library()
directory, rank, world, step = sys.argv[1], *map(int, sys.argv[2:5])
print("there", flush=True)
sys.stdin.readline()
checkpointer = keepstep.Checkpointer(directory, rank=rank, world_size=world, rng=False, on_error="raise")
whole = np.zeros((world, 1000))
checkpointer.register(model={"w": keepstep.piece(whole[rank : rank + 1], (world, 1000), np.s_[rank : rank + 1])})
print("opened", checkpointer.load(), whole[rank, 0], flush=True)
sys.stdin.readline()
whole[rank] = step
checkpointer.save(step)
"""

FORKED = """
import os, sys
import numpy as np
import keepstep
directory = sys.argv[1]

def use(name):
    with keepstep.Checkpointer(f"{directory}/{name}", rank=0, world_size=1, rng=False) as own:
        own.register(model={"w": np.ones(10)})
        own.save(1).result(60)

def fork(what):
    child = os.fork()
    if child == 0:
        os._exit(what())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def refused():
    try:
        use("beside")
    except keepstep.KeepstepError as error:
        return 3 if error.reason == "FORKED" and "spawn" in str(error) else 4

assert fork(lambda: use("before") or 0) == 0
use("parent")
assert fork(lambda: use("after") or 0) == 0
with keepstep.Checkpointer(f"{directory}/parent", rank=0, world_size=1, rng=False) as parent:
    parent.register(model={"w": np.ones(10)})
    assert fork(refused) == 3
    parent.save(2).result(60)
"""

# Loses its daemon between saves.
LOSING = """
import sys
import numpy as np
import keepstep
w = np.zeros(1 << 20)
with keepstep.Checkpointer(sys.argv[1], rank=0, world_size=1, rng=False, max_failures=9) as ck:
    ck.register(model={"w": w})
    for step in range(1, 4):
        w[:] = step
        while (failure := ck.save(step).exception(60)) is not None:
            assert failure.reason == "DAEMON_LOST", failure  # asked of the one that was just killed
        print("committed", step, flush=True)
        sys.stdin.readline()
    w[:] = 0
    assert ck.load() == 3 and w.min() == w.max() == 3
"""

# As another user, who may not read the repository: everything is imported before the rights go.
AS_NOBODY = """
import os, sys
import keepstep
from keepstep import _ffi
_ffi.library()
uid = int(sys.argv[2])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
try:
    with keepstep.Checkpointer(sys.argv[1], rank=0, world_size=1) as ck:
        print("opened", flush=True)
        sys.stdin.readline()
except keepstep.KeepstepError as error:
    print(error.code, error.reason, str(error))
"""


@pytest.fixture
def user(home: Path) -> Iterator[User]:
    user = User(home)
    yield user
    user.kill_daemons()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        _, errors = process.communicate(timeout=60)
        pytest.fail(errors[-4000:])
    return text.strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors[-4000:]
    return out


def run_ranks(user: User, step: int, world: int = 4) -> tuple[set[str], int]:
    """Ranks that open the job at the same moment, and save one step; what they found, and the daemon's pid."""
    ranks = [user.start(RANK, user.home / "job", rank, world, step) for rank in range(world)]
    for process in ranks:
        assert line(process) == "there"
    for process in ranks:
        go(process)
    found = {line(process) for process in ranks}
    [pid] = user.daemons()
    for process in ranks:
        go(process)
    for process in ranks:
        finish(process)
    return found, pid


def test_ranks_that_begin_at_once_get_one_daemon_and_the_next_run_another(user: User) -> None:
    found, first = run_ranks(user, step=7)
    assert found == {"opened None 0.0"}
    assert (user.home / "keepstep").stat().st_mode & 0o777 == 0o700
    assert user.log.stat().st_mode & 0o777 == 0o600
    os.kill(first, signal.SIGKILL)
    user.await_end(first)
    assert (user.home / "keepstep/keepstep.sock").exists(), "a killed daemon leaves its socket"
    found, second = run_ranks(user, step=8)
    assert found == {"opened 7 7.0"}, "the hook at exit waits for the save"
    assert second != first


def test_it_ends_when_nobody_needs_it(home: Path) -> None:
    user = User(home, KEEPSTEP_EXIT_IDLE="300ms")
    process = user.start(RANK, home / "job", 0, 1, 1)
    line(process)
    go(process)
    line(process)
    [pid] = user.daemons()
    time.sleep(1)  # longer than it may be idle
    assert user.daemons() == [pid], "a client is there"
    finish(process)
    user.await_end(pid)
    assert "exit.idle" in user.log.read_text()
    again = user.start(RANK, home / "job", 0, 1, 2)
    line(again)
    go(again)
    assert line(again) == "opened 1 1.0"
    [pid] = user.daemons()
    finish(again)
    user.await_end(pid)


def test_training_starts_another_where_it_is_lost(user: User) -> None:
    process = user.start(LOSING, user.home / "job")
    pids = set()
    for step in (1, 2):
        assert line(process) == f"committed {step}"
        [pid] = user.daemons()
        os.kill(pid, signal.SIGKILL)
        user.await_end(pid)
        pids.add(pid)
        go(process)
    assert line(process) == "committed 3"
    finish(process)
    assert len({*pids, *user.daemons()}) == 3


def test_forked_processes_share_it(user: User) -> None:
    finish(user.start(FORKED, user.home))
    assert len(user.daemons()) == 1
    assert all((user.home / name).is_dir() for name in ("before", "after", "parent"))


def test_it_is_bound_to_no_processor_and_no_directory(user: User) -> None:
    some = min(os.sched_getaffinity(0))
    pinned = subprocess.run(["taskset", "-c", str(some), str(KEEPSTEP), "up", "--on-demand", "--json"], cwd=user.home,
                            env=user.environment, capture_output=True, text=True, timeout=120, check=True)
    pid = json.loads(pinned.stdout)["pid"]
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    printed = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert printed[printed.index(b"--exit-idle") + 1] == b"30min"


def test_system_starts_nothing(user: User) -> None:
    program = "import keepstep, sys; keepstep.Checkpointer(sys.argv[1], daemon='system', rank=0, world_size=1)"
    refused = user.start(program, user.home / "job")
    _, errors = refused.communicate(timeout=60)
    assert "DaemonUnavailable" in errors and "start keepstepd" in errors
    assert user.daemons() == []


def test_it_says_why_it_did_not_start(user: User) -> None:
    program = """
import keepstep, sys
try:
    keepstep.Checkpointer(sys.argv[1], rank=0, world_size=1)
except keepstep.DaemonUnavailable as error:
    print(error.reason, error)
"""
    user.environment["KEEPSTEP_POOL_BYTES"] = "lots"
    failed = finish(user.start(program, user.home / "job"))
    assert failed.startswith("NOT_STARTED") and "lots" in failed, failed
    user.environment["KEEPSTEP_POOL_BYTES"] = "auto"
    (user.home / "state").mkdir()
    (user.home / "state/catalog").write_text("no directory")
    failed = finish(user.start(program, user.home / "job"))
    assert failed.startswith("NOT_STARTED") and "catalog" in failed, "the end of its log"
    user.environment["KEEPSTEPD"] = "/none/keepstepd"
    missing = finish(user.start(program, user.home / "job"))
    assert missing.startswith("NO_PROGRAM") and "/none/keepstepd" in missing, missing
    user.environment["KEEPSTEP_COMMAND"] = "/none/keepstep"
    missing = finish(user.start(program, user.home / "job"))
    assert missing.startswith("NO_PROGRAM") and "KEEPSTEP_COMMAND" in missing, missing


@pytest.fixture
def nobody(home: Path) -> Iterator[User]:
    """A user whose XDG_RUNTIME_DIR is somebody else's, as sudo leaves it."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    home.chmod(0o755)
    for name in ("job", "state"):
        (home / name).mkdir()
        os.chown(home / name, NOBODY, NOBODY)
    programs = [shutil.copy(program, home) for program in (KEEPSTEP, KEEPSTEPD)]
    shared = Path(f"/tmp/keepstep-{NOBODY}")
    shutil.rmtree(shared, ignore_errors=True)
    user = User(home, KEEPSTEP_COMMAND=programs[0], KEEPSTEPD=programs[1])
    yield user
    for pid in user.daemons(shared):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(shared, ignore_errors=True)


def test_without_a_runtime_directory_it_has_one_of_its_own(nobody: User) -> None:
    shared = Path(f"/tmp/keepstep-{NOBODY}")
    process = nobody.start(AS_NOBODY, nobody.home / "job", NOBODY)
    assert line(process) == "opened"
    assert (shared.stat().st_uid, shared.stat().st_mode & 0o777) == (NOBODY, 0o700)
    [pid] = nobody.daemons(shared)
    assert Path(f"/proc/{pid}").stat().st_uid == NOBODY
    again = nobody.start(AS_NOBODY, nobody.home / "job", NOBODY)
    assert line(again) == "opened", "found without being told where"
    finish(again)
    finish(process)
    assert nobody.daemons(shared) == [pid]


def test_a_folder_that_others_made_is_refused(nobody: User) -> None:
    shared = Path(f"/tmp/keepstep-{NOBODY}")
    shared.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as trap:
        trap.bind(str(shared / "keepstep.sock"))
        trap.listen()
        refused = finish(nobody.start(AS_NOBODY, nobody.home / "job", NOBODY))
        assert refused.startswith("UNAVAILABLE NOT_STARTED") and "NOT_PRIVATE" in refused and str(shared) in refused
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()
    os.chown(shared, NOBODY, NOBODY)  # its own, but open to others
    refused = finish(nobody.start(AS_NOBODY, nobody.home / "job", NOBODY))
    assert "NOT_PRIVATE" in refused and "mode 755" in refused, refused
    assert nobody.daemons(shared) == []
