"""transformers' Trainer with the mixin, and Accelerate, beside what they do by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keepstep
import pytest
import torch
from accelerate import Accelerator
from keepstep.hf import load_state, save_state
from transformers import GPT2LMHeadModel

from tests.frameworks.trainer_cases import losses, trainer
from tests.harness.daemon import Daemon
from tests.torch_dcp.ranks import Ranks

torch.set_num_threads(1)  # the models are tiny


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2, "tests.frameworks.trainer_cases") as world:
        yield world


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(daemon: Daemon, home: Path) -> None:
    whole = trainer("", home / "plain")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(daemon.address, home / "ours", stop=5).train()
    assert checkpoints(home / "ours") == ["checkpoint-2", "checkpoint-4"]
    assert not list((home / "ours").glob("**/optimizer.pt")), "Keepstep alone has the state"
    torn = home / "ours/checkpoint-6"  # a kill in the middle of a save
    shutil.copytree(home / "ours/checkpoint-4", torn)
    for decision in torn.glob("*/*/DECISION"):
        decision.unlink()
    resumed = trainer(daemon.address, home / "ours")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    named = trainer(daemon.address, home / "named")
    named.train(resume_from_checkpoint=str(home / "ours/checkpoint-2"))
    assert losses(named) == losses(whole)


def test_old_checkpoints_go_and_the_best_is_loaded(daemon: Daemon, home: Path) -> None:
    options = {
        "save_total_limit": 2, "load_best_model_at_end": True, "metric_for_best_model": "loss",
        "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 0.3,
    }  # fmt: skip
    plain = trainer("", home / "plain", **options)  # sets the seed, so each trains before the next is made
    plain.train()
    ours = trainer(daemon.address, home / "ours", **options)
    ours.train()
    assert checkpoints(home / "ours") == checkpoints(home / "plain")
    assert ours.state.best_metric == plain.state.best_metric
    assert Path(ours.state.best_model_checkpoint).name == Path(plain.state.best_model_checkpoint).name
    for one, other in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_the_trainer_itself_is_resumed_from(daemon: Daemon, home: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer("", home / "job", stop=5).train()
    resumed = trainer(daemon.address, home / "job")
    resumed.train(resume_from_checkpoint=True)
    whole = trainer("", home / "plain")
    whole.train()
    assert losses(resumed) == losses(whole)


def test_from_pretrained_opens_an_export(daemon: Daemon, home: Path) -> None:
    trained = trainer(daemon.address, home / "job", max_steps=2, save_only_model=True)
    trained.train()
    folder = home / "job/checkpoint-2"
    assert not any(name.startswith("optimizer") for name in keepstep.open(folder).names())
    done = daemon.command("export", f"{folder}/2", str(folder))
    assert done.returncode == 0, done.stderr
    model = GPT2LMHeadModel.from_pretrained(folder)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_save_that_fails_is_raised(daemon: Daemon, home: Path) -> None:
    failing = trainer(daemon.address, home / "job")
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


def test_two_processes_save_once_and_one_goes_on(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    """DistributedDataParallel: replicas are stored once, and the checkpoint is no less one of a single process."""
    whole = ranks.run("train", "", str(home / "plain"), None)
    cut = ranks.run("train", daemon.address, str(home / "ours"), 5)
    resumed = ranks.run("train", daemon.address, str(home / "ours"), None, True)
    assert cut == [([], "")] * 2
    assert resumed == whole
    stored = keepstep.open(home / "ours/checkpoint-4")
    weight = stored.tensor("transformer.h.0.attn.c_attn.weight")
    assert sum(box[1][0] * box[1][1] for box in weight.boxes()) == weight.shape[0] * weight.shape[1]
    alone = trainer(daemon.address, home / "ours")
    alone.train(resume_from_checkpoint=str(home / "ours/checkpoint-4"))
    assert alone.state.global_step == 8


def test_fsdp_saves_shards_and_resumes_bit_for_bit(ranks: Ranks, daemon: Daemon, home: Path) -> None:
    """FSDP2 by Accelerate: each process stores its shards, and an unsharded process goes on from them too."""
    whole = ranks.run("train", "", str(home / "plain"), None, None, True)
    cut = ranks.run("train", daemon.address, str(home / "ours"), 5, None, True)
    assert cut == [([], "")] * 2
    assert checkpoints(home / "ours") == ["checkpoint-2", "checkpoint-4"]
    assert not list((home / "ours").glob("**/*.distcp")), "Keepstep alone has the state"
    stored = keepstep.open(home / "ours/checkpoint-4")
    for name in ("transformer.h.0.attn.c_attn.weight", "optimizer.transformer.h.0.attn.c_attn.weight.exp_avg"):
        assert len(stored.tensor(name).boxes()) == 2, name
    resumed = ranks.run("train", daemon.address, str(home / "ours"), None, True, True)
    assert resumed == whole
    alone = trainer(daemon.address, home / "ours")
    alone.train(resume_from_checkpoint=str(home / "ours/checkpoint-4"))
    assert alone.state.global_step == 8
