"""torch.distributed.checkpoint: at once, by a thread, by a process, and into Hugging Face's files."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from tests.bench.peer.workload import Trained

_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


class Sync:
    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.pending: Future[Any] | None = None

    def state(self) -> dict[str, Any]:
        trained = self.trained
        return {"model": get_model_state_dict(trained),
                "optimizer": get_optimizer_state_dict(trained, trained.optimizer, options=_OPTIONS)}

    def restore(self, state: dict[str, Any]) -> None:
        trained = self.trained
        set_state_dict(trained, trained.optimizer, model_state_dict=state["model"],
                       optim_state_dict=state["optimizer"], options=_OPTIONS)
        trained.optimizer.bind()

    def planner(self) -> DefaultSavePlanner:
        return DefaultSavePlanner(enable_plan_caching=True)

    def save(self, directory: Path) -> None:
        dcp.save(self.state(), storage_writer=FileSystemWriter(directory), planner=self.planner())

    def before_update(self) -> None: ...

    def wait(self) -> None:
        if self.pending is not None:
            self.pending.result()
            self.pending = None
        dist.barrier()  # rank 0 has written the metadata

    def load(self, directory: Path) -> None:
        state = self.state()
        dcp.load(state, storage_reader=FileSystemReader(directory))
        self.restore(state)

    def close(self) -> None: ...


class Thread(Sync):
    kind = AsyncCheckpointerType.THREAD

    def save(self, directory: Path) -> None:
        self.pending = dcp.async_save(self.state(), storage_writer=FileSystemWriter(directory), planner=self.planner(),
                                      async_checkpointer_type=self.kind)  # type: ignore[assignment]


class Process(Thread):
    kind = AsyncCheckpointerType.PROCESS


class HuggingFace(Sync):
    """It takes tensors alone, flat: the steps of Adam and its options are left out."""

    def tensors(self) -> dict[str, torch.Tensor]:
        state = self.state()
        flat = {**state["model"], **state["optimizer"]}
        return {name: value for name, value in flat.items() if isinstance(value, torch.Tensor) and value.ndim > 0}

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        dcp.save(self.tensors(), planner=self.planner(),
                 storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True))

    def load(self, directory: Path) -> None:
        dcp.load(self.tensors(), storage_reader=HuggingFaceStorageReader(str(directory)))  # in place
