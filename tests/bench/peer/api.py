"""What a library must do to be measured, and where each is found."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.bench.peer.workload import Trained


class Peer(Protocol):
    """One rank's use of one library, as its documentation says to use it. Every rank makes the same calls."""

    def save(self, directory: Path) -> None:
        """Returns when the library lets training go on: the call that is measured."""

    def before_update(self) -> None:
        """Returns when tensors may change. A library that copies within `save` has nothing to wait for."""

    def wait(self) -> None:
        """Returns when the newest save is over on this rank, as durable as the library makes it."""

    def load(self, directory: Path) -> None:
        """Fills the trained state in place."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Entry:
    name: str
    module: str
    class_name: str
    asynchronous: bool = False
    reshards: bool = False
    flushes: bool = True  # else the harness flushes its files, within the time to durable

    def build(self, trained: Trained, address: str) -> Peer:
        kind = getattr(importlib.import_module(f"tests.bench.peer.{self.module}"), self.class_name)
        made: Peer = kind(trained, address) if self.name.startswith("keepstep") else kind(trained)
        return made


KEEPSTEP = Entry("keepstep", "own", "Keepstep", asynchronous=True, reshards=True)
PEERS = (
    Entry("torch.save + fsync", "files", "TorchSave"),
    Entry("safetensors + fsync", "files", "Safetensors"),
    Entry("dcp sync", "dcp", "Sync", reshards=True),
    Entry("dcp async, thread", "dcp", "Thread", asynchronous=True, reshards=True),
    Entry("dcp async, process", "dcp", "Process", asynchronous=True, reshards=True),
    Entry("dcp hugging face", "dcp", "HuggingFace", reshards=True),
    Entry("bytecheckpoint", "byte", "ByteCheckpoint", asynchronous=True, reshards=True, flushes=False),
    Entry("torch_checkpointing", "manager", "Manager", asynchronous=True, flushes=False),
    Entry("megatron", "megatron", "Megatron", asynchronous=True, reshards=True, flushes=False),
    Entry("orbax async", "orbax", "Orbax", asynchronous=True, flushes=False),
)
ENTRIES = {entry.name: entry for entry in (KEEPSTEP, *PEERS)}
