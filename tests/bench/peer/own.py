"""Keepstep, as its documentation says to use it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import keepstep

from tests.bench.peer.workload import Trained


class Keepstep:
    """One job for all steps: the directory that it is given ends in the step."""

    def __init__(self, trained: Trained, address: str) -> None:
        self.trained = trained
        self.address = address
        self.checkpointer: keepstep.Checkpointer | None = None
        self.handle: keepstep.SaveHandle | None = None

    def _open(self, directory: Path) -> tuple[keepstep.Checkpointer, int]:
        if self.checkpointer is None:
            directory.parent.mkdir(parents=True, exist_ok=True)
            self.checkpointer = keepstep.Checkpointer(directory.parent, daemon=self.address, rank=self.trained.rank,
                                                      world_size=self.trained.world, on_error="raise", rng=False)
            # The subclass changes nothing outside `step`, as torch's own AdamW does not.
            self.checkpointer.register(model=self.trained, optimizer=self.trained.optimizer, overlap=True)
        return self.checkpointer, int(re.sub(r"\D", "", directory.name))

    def save(self, directory: Path) -> None:
        checkpointer, step = self._open(directory)
        self.handle = checkpointer.save(step)

    def before_update(self) -> None:
        assert self.checkpointer is not None
        self.checkpointer.before_update()

    def settle(self) -> None:
        """After a restart of the daemon, which no load should be charged with."""
        deadline = time.monotonic() + 30
        while self.checkpointer is not None and not self.checkpointer._client.connected():
            assert time.monotonic() < deadline, "the daemon does not answer"
            time.sleep(0.01)

    def wait(self) -> None:
        assert self.handle is not None
        self.handle.result(600)

    def load(self, directory: Path) -> None:
        checkpointer, step = self._open(directory)
        checkpointer.load(step)

    def close(self) -> None:
        if self.checkpointer is not None:
            self.checkpointer.close()
