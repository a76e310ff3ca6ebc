"""libkeepstep in one process beside what trainers have there: torch, grpcio, a forked data loader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.harness.daemon import REPOSITORY, Daemon

PROGRAM = """
import sys
directory, address, first = sys.argv[1:]
if first == "keepstep":
    import keepstep
import grpc
import torch
import numpy as np
import keepstep

class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return torch.full((4,), float(i))

value = np.arange(1000, dtype=np.float32)
with keepstep.Checkpointer(directory, daemon=address, rank=0, world_size=1, rng=False) as checkpointer:
    checkpointer.register(model={"value": value})
    channel = grpc.insecure_channel(address.replace("unix://", "unix:"))
    grpc.channel_ready_future(channel).result(30)
    loader = torch.utils.data.DataLoader(Items(), batch_size=8, num_workers=2, multiprocessing_context="fork")
    seen = 0
    for step, batch in enumerate(loader, start=1):
        checkpointer.before_update()
        value += batch.numpy().sum()
        checkpointer.save(step).result(60)
        seen += len(batch)
    assert seen == 64 and step == 8
    assert torch.ones(8, 8).mm(torch.ones(8, 8)).sum() == 512
    channel.close()
print("ok")
"""

FORKED = """
import os, sys
import numpy as np
import keepstep
directory, address = sys.argv[1:]
with keepstep.Checkpointer(directory, daemon=address, rank=0, world_size=1, rng=False) as checkpointer:
    checkpointer.register(model={"value": np.ones(10)})
    checkpointer.save(1).result(60)
    child = os.fork()
    if child == 0:
        try:
            checkpointer.save(2)
            os._exit(1)
        except keepstep.KeepstepError as error:
            os._exit(0 if error.reason == "FORKED" and error.code == "FAILED_PRECONDITION" else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    checkpointer.save(2).result(60)
print("ok")
"""


def run(program: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client/python")}
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=180,
                            env=environment, check=False)
    assert result.returncode == 0 and result.stdout.endswith("ok\n"), result.stdout + result.stderr[-4000:]


def test_loaded_before_and_after_torch_and_grpcio(daemon: Daemon, home: Path) -> None:
    run(PROGRAM, str(home / "first"), daemon.address, "keepstep")
    run(PROGRAM, str(home / "last"), daemon.address, "torch")


def test_a_forked_child_gets_an_error_and_its_parent_goes_on(daemon: Daemon, home: Path) -> None:
    run(FORKED, str(home / "job"), daemon.address)
