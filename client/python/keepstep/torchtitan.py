"""torchtitan's checkpoint manager over Keepstep: the same constructor, configuration and calls.

    config.checkpoint = KeepstepCheckpointManager.Config(enable=True, folder="checkpoint", interval=100)

Each checkpoint is a directory `step-N`, as with torchtitan's own, that holds a Keepstep checkpoint (docs/dcp.md).
Written for torchtitan 0.3.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save, save
from torchtitan.components.checkpointer.dcp import AsyncMode, CheckpointManager

from keepstep import _directory
from keepstep.torch.dcp import KeepstepAsyncStager, KeepstepStorageReader, KeepstepStorageWriter

_STEP = re.compile(r"step-(\d+)")


class KeepstepCheckpointManager(CheckpointManager):  # type: ignore[misc]
    """What differs from torchtitan's own:

    - A checkpoint is there when it is committed, and not before; what a killed save left is never loaded, and does not
      count for `keep_latest_k`.
    - `async_mode="async"` returns when the daemon has copied the tensors, without a second copy of them;
      "async_with_pinned_mem" returns at once, and `maybe_wait_for_staging` waits for that copy.
    - `initial_load_path` may also be a directory of DCP's own, or Hugging Face's; `last_save_in_hf` writes as ever.

    Raises, beside what torchtitan's raises: CheckpointException with DaemonUnavailable or SaveFailed as the cause.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):  # type: ignore[misc]
        daemon: str = "auto"
        """Which daemon saves: auto, system, or an address."""

        transfer: Literal["auto", "pull", "window"] = "auto"
        """How the daemon gets at the tensors."""

    def __init__(self, config: Config, **arguments: Any) -> None:
        self._daemon, self._transfer = config.daemon, config.transfer
        super().__init__(config, **arguments)
        if self.enable:
            self.stager = KeepstepAsyncStager()

    @torch.no_grad()
    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future[Any] | AsyncSaveResponse | None:
        if to_hf:
            done: None = super().dcp_save(state_dict, checkpoint_id, async_mode, enable_garbage_collection, to_hf)
            return done
        writer = KeepstepStorageWriter(checkpoint_id, daemon=self._daemon, transfer=self._transfer)
        if async_mode == AsyncMode.DISABLED:
            save(state_dict, storage_writer=writer)
            return None
        response = async_save(state_dict, storage_writer=writer, process_group=self.pg, async_stager=self.stager)
        assert isinstance(response, AsyncSaveResponse)
        if async_mode == AsyncMode.ASYNC_WITH_PINNED_MEM:
            return response
        response.staging_completion.result()
        return response.upload_completion

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        if from_hf or not _is_committed(checkpoint_id):
            super().dcp_load(state_dict, checkpoint_id, from_hf, from_quantized)
            return
        reader = KeepstepStorageReader(checkpoint_id, daemon=self._daemon, transfer=self._transfer)
        load(state_dict, storage_reader=reader)
        if "model" in self.states:
            self.states["model"].load_state_dict(state_dict)

    def _find_load_step(self, folder: str = "") -> int:
        folder = folder or self.folder
        ours = [step for step, path in _steps(folder) if _is_committed(path)]
        theirs: int = super()._find_load_step(folder)
        return max([*ours, theirs])

    def _wait_for_saving(self) -> None:
        super()._wait_for_saving()
        self._purge_stale_checkpoints()  # it is committed only now

    def _purge_stale_checkpoints(self) -> None:
        if not self._should_purge():
            return
        found = _steps(self.folder)
        whole = [step for step, path in found if _is_committed(path) or os.path.exists(os.path.join(path, ".metadata"))]
        if len(whole) >= self.keep_latest_k:
            oldest = whole[-self.keep_latest_k]
            for step, path in found:
                if step < oldest:
                    self.purge_queue.put(path)


def _steps(folder: str) -> list[tuple[int, str]]:
    """Step and path of every `step-N`, ascending."""
    if not os.path.isdir(folder):
        return []
    named = [(_STEP.fullmatch(name), os.path.join(folder, name)) for name in os.listdir(folder)]
    return sorted((int(match.group(1)), path) for match, path in named if match is not None)


def _is_committed(path: str) -> bool:
    return bool(_directory.committed(path))
