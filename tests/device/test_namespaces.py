"""Trainer and daemon in other PID and IPC namespaces, as containers have them: bytes are right by whichever path."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.device.gpus import Gpus
from tests.fake_cuda.environment import LIBRARY, MISSING

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)

PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
IPC = ("unshare", "--ipc")


def need(wrapper: Sequence[str]) -> None:
    try:
        told = subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if told.returncode:
        pytest.skip(f"this machine makes no such namespace: {told.stderr.strip()}")


# Both trainers are process 1 to themselves: a handle that named its process by that would lead to the other's memory.
def test_trainers_in_pid_namespaces_of_their_own(home: Path) -> None:
    need(PIDS)
    with (Gpus(home, "on") as gpus, gpus.trainer("round_trip", "mixed", job="a", wrapper=PIDS) as first,
          gpus.trainer("round_trip", "mixed", job="b", wrapper=PIDS) as second):
        for trainer in (first, second):
            told = trainer.heard()
            assert told["differing"] == {"1": [], "2": []}
        first.close()
        second.close()


# A daemon that cannot see the trainer's process would not know when it dies.
def test_a_daemon_in_a_pid_namespace_of_its_own_says_so(home: Path) -> None:
    need(PIDS)
    with Gpus(home, "on", wrapper=PIDS) as gpus, gpus.trainer("round_trip", "mixed") as trainer:
        assert trainer.heard() == {"refused": ["FAILED_PRECONDITION", "UNSEEN_PROCESS"]}


def test_a_trainer_in_an_ipc_namespace_of_its_own(home: Path) -> None:
    need(IPC)
    with Gpus(home, "on") as gpus, gpus.trainer("round_trip", "mixed", wrapper=IPC) as trainer:
        assert trainer.heard()["differing"] == {"1": [], "2": []}
        trainer.close()
        trainer.finish()
