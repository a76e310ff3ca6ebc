"""One file a rank, written and flushed by the program itself."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.bench.peer.workload import Trained


def flush(path: Path) -> None:
    """The file, or every file beneath the directory, and the directories' own entries."""
    for entry in [path, *(path.rglob("*") if path.is_dir() else ())]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class TorchSave:
    suffix = "pt"

    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def _path(self, directory: Path) -> Path:
        return directory / f"rank{self.trained.rank}.{self.suffix}"

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.write(self.trained.named(), self._path(directory))
        flush(self._path(directory))

    def write(self, state: dict[str, torch.Tensor], path: Path) -> None:
        torch.save(state, path)

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        return torch.load(path, mmap=True, weights_only=True)  # type: ignore[no-any-return]

    def before_update(self) -> None: ...

    def wait(self) -> None: ...

    def load(self, directory: Path) -> None:
        stored = self.read(self._path(directory))
        for name, tensor in self.trained.named().items():
            tensor.copy_(stored[name])

    def close(self) -> None: ...


class Safetensors(TorchSave):
    suffix = "safetensors"

    def write(self, state: dict[str, torch.Tensor], path: Path) -> None:
        save_file(state, path)

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        return load_file(path)
