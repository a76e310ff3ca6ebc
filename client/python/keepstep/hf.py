"""Hugging Face: a mixin for `transformers.Trainer`, and Accelerate's `save_state` and `load_state`.

    class MyTrainer(KeepstepTrainerMixin, Trainer): pass

docs/huggingface.md says what a checkpoint holds and what is guaranteed.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import torch
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from keepstep import _directory, extras
from keepstep._generators import set_rng_state
from keepstep.checkpointer import Checkpointer
from keepstep.handle import SaveHandle
from keepstep.reader import Reader

_log = logging.getLogger("keepstep")
_TRAINER_STATE = "trainer_state.json"
_ONLY_MODEL_NOT = ("optimizer.*", "scheduler", "scaler", extras.RNG)


class KeepstepTrainerMixin:
    """Before `Trainer` among the bases: its checkpoints are Keepstep's, written while training goes on.

    `checkpoint-N` is a directory as ever, with the configuration, the tokenizer, `trainer_state.json`, and a Keepstep
    checkpoint of step N: model, optimizer, scheduler, gradient scaler, random generators, in any layout.
    `resume_from_checkpoint`, `save_total_limit`, `load_best_model_at_end`, `save_only_model` work as ever, with three
    differences: a checkpoint is there when it is committed, and one that a kill cut off is skipped by
    ``resume_from_checkpoint=True``; older ones are deleted only after the new one is committed; a save goes on beside
    the training. Checkpoints that the Trainer itself wrote are still resumed from.

    Set `keepstep_daemon` on the class for another daemon than Checkpointer's "auto".

    Raises, at the next save or at the end of `train`: SaveFailed, when a checkpoint could not be committed.
    Not with DeepSpeed (it saves by itself), PEFT adapters, or on TPUs: there the Trainer saves as without the mixin.
    """

    keepstep_daemon: str = "auto"
    _saving: tuple[Checkpointer, SaveHandle] | None = None
    _inside_save = False

    def train(self: Any, resume_from_checkpoint: Any = None, **arguments: Any) -> Any:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._last_whole_checkpoint() or True
        try:
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)  # type: ignore[misc]
        except BaseException:
            self._settle(quietly=True)
            raise
        self._settle()
        return result

    def _last_whole_checkpoint(self: Any) -> str | None:
        folder = self.args.output_dir
        whole = []
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            prefix, _, number = name.rpartition("-")
            path = os.path.join(folder, name)
            if prefix == "checkpoint" and number.isdecimal() and (_is_whole(path) or not _is_ours(path)):
                whole.append((int(number), path))
        last = max(whole, default=None)
        newest = get_last_checkpoint(folder) if whole else None  # type: ignore[no-untyped-call]
        if last is not None and newest is not None and last[1] != newest:
            _log.warning("keepstep: %s was never committed; going on from %s", newest, last[1])
        return None if last is None else last[1]

    def _by_keepstep(self: Any) -> bool:
        adapter = hasattr(self.model, "peft_config")
        return not (adapter or self.is_deepspeed_enabled or self.args.device.type == "xla")

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        if not self._by_keepstep():
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            return
        self._settle()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._inside_save = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self._inside_save = False
            self.args.save_total_limit = limit
        if limit and self.args.should_save and self._saving is not None:
            folder, best = self._get_output_dir(trial=trial), self.state.best_model_checkpoint

            def rotate(handle: SaveHandle) -> None:
                if handle.state == "COMMITTED":
                    rotate_checkpoints(folder, limit, best, use_mtime=True)

            self._saving[1].add_done_callback(rotate)

    def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self._inside_save:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        if self.args.should_save:
            self._write_description(output_dir)
        state: dict[str, Any] = {"model": self.model_wrapped}
        if not self.args.save_only_model:
            state |= self._training_state()
        checkpointer = Checkpointer(
            output_dir, daemon=self.keepstep_daemon, on_error="raise", rng=not self.args.save_only_model
        )
        try:
            checkpointer.register(**state)
            self._saving = (checkpointer, checkpointer.save(self.state.global_step))
        except BaseException:
            checkpointer.close()
            raise

    def _write_description(self: Any, output_dir: str) -> None:
        """Everything that `from_pretrained` needs beside the weights."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        for part in (getattr(model, "config", None), getattr(model, "generation_config", None), self.processing_class):
            if part is not None:
                part.save_pretrained(output_dir)
        torch.save(self.args, os.path.join(output_dir, "training_args.bin"))

    def _training_state(self: Any) -> dict[str, Any]:
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # inside Accelerate's
        state = {"optimizer": optimizer, "scheduler": self.lr_scheduler}
        scaler = getattr(self.accelerator, "scaler", None)
        return state if scaler is None else {**state, "scaler": scaler}

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        if not self._inside_save:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]

    def _save_scaler(self: Any, output_dir: str) -> None:
        if not self._inside_save:
            super()._save_scaler(output_dir)  # type: ignore[misc]

    def _save_rng_state(self: Any, output_dir: str) -> None:
        if not self._inside_save:
            super()._save_rng_state(output_dir)  # type: ignore[misc]

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        if not _is_committed(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        self._load(resume_from_checkpoint, {"model": self.model if model is None else model}, None, _ONLY_MODEL_NOT)

    def _load_best_model(self: Any) -> None:
        self._settle()
        best = self.state.best_model_checkpoint
        if _is_committed(best):
            self._load(best, {"model": self.model_wrapped}, None, _ONLY_MODEL_NOT)
        else:
            super()._load_best_model()  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None or not _is_committed(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        elif any(name.startswith("optimizer.") for name in Reader(checkpoint).names()):
            state = {"model": self.model_wrapped, **self._training_state()}
            self._load(checkpoint, state, ("optimizer.*", "optimizer", "scheduler", "scaler"), ())

    def _load_scaler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None or not _is_committed(checkpoint):
            super()._load_scaler(checkpoint)  # type: ignore[misc]

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None or not _is_committed(checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]
            return
        stored = Reader(checkpoint)
        if (extras.RNG, self.args.process_index) in stored.extra_names():
            set_rng_state(stored.extra(extras.RNG, self.args.process_index))

    def _load(
        self: Any, path: str, state: dict[str, Any], only: tuple[str, ...] | None, exclude: tuple[str, ...]
    ) -> None:
        step = Reader(path).step
        with Checkpointer(path, daemon=self.keepstep_daemon, read_only=True, rng=False) as checkpointer:
            checkpointer.register(**state)
            checkpointer.load(step, only=only, exclude=exclude)

    def _settle(self, quietly: bool = False) -> None:
        """Waits until the save in flight is over. SaveFailed, unless `quietly`."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        checkpointer, handle = saving
        try:
            if quietly:
                handle.exception(60)
            else:
                handle.result()
        finally:
            checkpointer.close()


def _is_committed(path: str | None) -> bool:
    return path is not None and bool(_directory.committed(path))


def _is_ours(path: str) -> bool:
    """Whether Keepstep began to save there, committed or not."""
    return os.path.isdir(os.path.join(path, "epochs"))


def _is_whole(path: str) -> bool:
    if not _is_committed(path):
        return False
    try:
        with open(os.path.join(path, _TRAINER_STATE)) as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True


def save_state(accelerator: Any, directory: str | os.PathLike[str], *, step: int = 0, daemon: str = "auto") -> None:
    """What `accelerator.save_state` saves, as step `step` of the job `directory`; returns when it is committed.

    Every process calls it. Saved are the models, optimizers, schedulers, stateful data loaders and custom objects that
    were prepared or registered, the gradient scaler, and the random generators.

    Raises:
        SaveFailed: it could not be committed; earlier steps are intact.
    """
    with Checkpointer(directory, daemon=daemon, on_error="raise") as checkpointer:
        checkpointer.register(**_prepared(accelerator))
        checkpointer.save(step).result()


def load_state(
    accelerator: Any, directory: str | os.PathLike[str], *, step: int | None = None, daemon: str = "auto"
) -> int:
    """The way back, into the same objects in any layout; by default the latest step. Returns the step.

    CheckpointNotFound: nothing is committed there.
    """
    step = Reader(directory, step).step
    with Checkpointer(directory, daemon=daemon, read_only=True) as checkpointer:
        checkpointer.register(**_prepared(accelerator))
        checkpointer.load(step)
    return step


def _prepared(accelerator: Any) -> dict[str, Any]:
    optimizers = [getattr(optimizer, "optimizer", optimizer) for optimizer in accelerator._optimizers]
    loaders = [getattr(loader, "base_dataloader", None) for loader in accelerator._dataloaders]
    groups: dict[str, list[Any]] = {
        "model": list(accelerator._models),
        "optimizer": optimizers,
        "scheduler": list(accelerator._schedulers),
        "dataloader": [loader for loader in loaders if hasattr(loader, "state_dict")],
        "custom": list(accelerator._custom_objects),
        "scaler": [] if accelerator.scaler is None else [accelerator.scaler],
    }
    return {name: found[0] if len(found) == 1 else found for name, found in groups.items() if found}
