"""transformers' Trainer with the mixin, and Accelerate, beside what they do by themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keepstep
import pytest
import torch
from accelerate import Accelerator
from keepstep.hf import KeepstepTrainerMixin, load_state, save_state
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from tests.harness.daemon import Daemon

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


def trainer(daemon: Daemon | None, folder: Path, *, stop: int | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 8, "save_steps": 2, "per_device_train_batch_size": 4,
        "logging_steps": 1, "report_to": [], "use_cpu": True, "learning_rate": 1e-2, "disable_tqdm": True,
        "lr_scheduler_type": "cosine", "seed": 3, **options,
    }  # fmt: skip
    kind: Any = Trainer
    if daemon is not None:
        kind = type("Ours", (KeepstepTrainerMixin, Trainer), {"keepstep_daemon": daemon.address})
    text = Text()
    callbacks = [] if stop is None else [Stop(stop)]
    return kind(
        model=GPT2LMHeadModel(CONFIG), args=TrainingArguments(**given), train_dataset=text, eval_dataset=text,
        callbacks=callbacks,
    )  # fmt: skip


def losses(trained: Any) -> list[float]:
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(daemon: Daemon, home: Path) -> None:
    whole = trainer(None, home / "plain")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(daemon, home / "ours", stop=5).train()
    assert checkpoints(home / "ours") == ["checkpoint-2", "checkpoint-4"]
    assert not list((home / "ours").glob("**/optimizer.pt")), "Keepstep alone has the state"
    torn = home / "ours/checkpoint-6"  # a kill in the middle of a save
    shutil.copytree(home / "ours/checkpoint-4", torn)
    for decision in torn.glob("*/*/DECISION"):
        decision.unlink()
    resumed = trainer(daemon, home / "ours")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    named = trainer(daemon, home / "named")
    named.train(resume_from_checkpoint=str(home / "ours/checkpoint-2"))
    assert losses(named) == losses(whole)


def test_old_checkpoints_go_and_the_best_is_loaded(daemon: Daemon, home: Path) -> None:
    options = {
        "save_total_limit": 2, "load_best_model_at_end": True, "metric_for_best_model": "loss",
        "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 0.3,
    }  # fmt: skip
    plain = trainer(None, home / "plain", **options)  # sets the seed, so each trains before the next is made
    plain.train()
    ours = trainer(daemon, home / "ours", **options)
    ours.train()
    assert checkpoints(home / "ours") == checkpoints(home / "plain")
    assert ours.state.best_metric == plain.state.best_metric
    assert Path(ours.state.best_model_checkpoint).name == Path(plain.state.best_model_checkpoint).name
    for one, other in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_the_trainer_itself_is_resumed_from(daemon: Daemon, home: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(None, home / "job", stop=5).train()
    resumed = trainer(daemon, home / "job")
    resumed.train(resume_from_checkpoint=True)
    whole = trainer(None, home / "plain")
    whole.train()
    assert losses(resumed) == losses(whole)


def test_from_pretrained_opens_an_export(daemon: Daemon, home: Path) -> None:
    trained = trainer(daemon, home / "job", max_steps=2, save_only_model=True)
    trained.train()
    folder = home / "job/checkpoint-2"
    assert not any(name.startswith("optimizer") for name in keepstep.open(folder).names())
    done = daemon.command("export", f"{folder}/2", str(folder))
    assert done.returncode == 0, done.stderr
    model = GPT2LMHeadModel.from_pretrained(folder)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_save_that_fails_is_raised(daemon: Daemon, home: Path) -> None:
    failing = trainer(daemon, home / "job")
    daemon.stop()
    with pytest.raises(keepstep.DaemonUnavailable):
        failing.train()


def test_accelerates_state_comes_back(daemon: Daemon, home: Path) -> None:
    class Seen:
        count = 0

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, told: dict[str, int]) -> None:
            self.count = told["count"]

    def build(seed: int) -> tuple[Accelerator, Any, Any, Any, Seen]:
        torch.manual_seed(seed)
        accelerator = Accelerator(cpu=True)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        prepared = accelerator.prepare(model, optimizer, scheduler)
        seen = Seen()
        accelerator.register_for_checkpointing(seen)
        return accelerator, *prepared, seen

    def step(accelerator: Accelerator, model: Any, optimizer: Any, scheduler: Any, seen: Seen) -> float:
        loss = model(torch.randn(4, 3)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        seen.count += 1
        return float(loss)

    one = build(1)
    for _ in range(3):
        step(*one)
    save_state(one[0], home / "job", step=3, daemon=daemon.address)
    expected = [step(*one) for _ in range(3)]
    other = build(2)
    assert load_state(other[0], home / "job", daemon=daemon.address) == 3
    assert other[-1].count == 3
    assert [step(*other) for _ in range(3)] == expected
