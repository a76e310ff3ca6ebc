"""Trainers of a tiny model on made-up text, in this process and on the ranks of tests/torch_dcp/ranks.py."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, DistributedType
from keepstep.hf import KeepstepTrainerMixin
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

CONFIG = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2)

INIT = AcceleratorState.__init__


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


def digest(state: dict[str, torch.Tensor]) -> str:
    """Of whole tensors, however they are held. Every rank calls it."""
    told = hashlib.sha256()
    for name, value in state.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        told.update(name.encode() + whole.detach().numpy().tobytes())
    return told.hexdigest()


def allow_fsdp_on_cpu() -> None:
    """Accelerate takes its FSDP plugin for accelerators alone; all that it then does runs on the CPU as well."""

    def init(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        INIT(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = init


def train(
    address: str, folder: str, stop: int | None, resume: bool | None = None, fsdp: bool = False, **options: Any
) -> tuple[list[float], str]:
    """Losses, and a digest of the parameters; nothing of a training that was cut off. `fsdp`: Accelerate's FSDP2."""
    warnings.filterwarnings("ignore")
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    if fsdp:
        allow_fsdp_on_cpu()
        config = {"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"], "state_dict_type": "SHARDED_STATE_DICT"}
        options |= {"fsdp": True, "fsdp_config": config}
    trained = trainer(address, folder, stop=stop, ddp_backend="gloo", **options)
    try:
        trained.train(resume_from_checkpoint=resume)
    except KeyboardInterrupt:
        return [], ""
    if fsdp:
        sharded = [isinstance(parameter, DTensor) for parameter in trained.model.parameters()]
        assert all(sharded), "Accelerate has sharded the model"
    return losses(trained), digest(trained.model.state_dict())
