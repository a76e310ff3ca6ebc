"""Trainers of a tiny model on made-up text, in this process and on the ranks of tests/torch_dcp/ranks.py."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from keepstep.hf import KeepstepTrainerMixin
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

CONFIG = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2)


class Text(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        tokens = (torch.arange(16) * (index % 7 + 1) + index) % 64
        return {"input_ids": tokens, "labels": tokens}


class Stop(TrainerCallback):
    """Ends the training after a step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer(address: str, folder: Path | str, *, stop: int | None = None, **options: Any) -> Any:
    """A Trainer of a tiny model, with the mixin where there is an address."""
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 8, "save_steps": 2, "per_device_train_batch_size": 4,
        "logging_steps": 1, "report_to": [], "use_cpu": True, "learning_rate": 1e-2, "disable_tqdm": True,
        "lr_scheduler_type": "cosine", "seed": 3, **options,
    }  # fmt: skip
    kind: Any = Trainer
    if address:
        kind = type("Ours", (KeepstepTrainerMixin, Trainer), {"keepstep_daemon": address})
    text = Text()
    callbacks = [] if stop is None else [Stop(stop)]
    return kind(
        model=GPT2LMHeadModel(CONFIG), args=TrainingArguments(**given), train_dataset=text, eval_dataset=text,
        callbacks=callbacks,
    )  # fmt: skip


def losses(trained: Any) -> list[float]:
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def train(address: str, folder: str, stop: int | None, resume: bool | None = None) -> tuple[list[float], str]:
    """Losses, and a digest of the parameters; nothing of a training that was cut off."""
    warnings.filterwarnings("ignore")
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    trained = trainer(address, folder, stop=stop, ddp_backend="gloo")
    try:
        trained.train(resume_from_checkpoint=resume)
    except KeyboardInterrupt:
        return [], ""
    return losses(trained), digest(trained.model.state_dict())
