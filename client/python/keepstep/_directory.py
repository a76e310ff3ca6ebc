"""What a job's directory holds, by the rules of docs/formats.md: attempts, decisions, and which one is the latest.

An attempt counts iff its DECISION is a COMMIT of that step and attempt and it has no DELETING marker. "Latest" is the
newest commit of the newest epoch, else what its PARENT names, else the same of the epoch before.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from keepstep import _records
from keepstep.errors import CheckpointNotFound, DataLoss, KeepstepError

_ATTEMPT = re.compile(r"e(0|[1-9][0-9]*)-a(0|[1-9][0-9]*)-([0-9a-f]{16})")
_STEP = re.compile(r"[0-9]{12}")
_EPOCH = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Attempt:
    """A decided attempt that is not being deleted. `damage`: why its decision, maybe a commit, cannot be read."""

    order: tuple[int, int, int, int]  # epoch, step, counter, random: later attempts are greater
    path: str
    decision: _records.Decision | None
    damage: KeepstepError | None = None

    def readable(self) -> tuple[str, _records.Decision]:
        """Path and decision; raises the damage."""
        if self.decision is None:
            assert self.damage is not None
            raise self.damage
        return self.path, self.decision


def committed(directory: str) -> list[tuple[str, _records.Decision]]:
    """Path and decision of every checkpoint, oldest first; those that cannot be read are left out."""
    return [(entry.path, entry.decision) for entry in _attempts(directory) if entry.decision is not None]


def newest_epoch(directory: str) -> int:
    """The highest epoch that was claimed; 0 when there is none."""
    return max((int(name) for name in _names(os.path.join(directory, "epochs"), _EPOCH)), default=0)


def choose(directory: str, step: int | None) -> tuple[str, _records.Decision]:
    """The highest committed attempt of `step`, or the latest checkpoint.

    CheckpointNotFound says what there is. DataLoss: the attempt that may be the answer is damaged.
    """
    if not os.path.isdir(directory):
        raise _not_found(f"{directory} is no directory; name the directory that was given to Checkpointer.")
    entries = _attempts(directory)
    if step is None:
        chosen = _latest(directory, entries)
    else:
        matching = [entry for entry in entries if entry.order[1] == step]
        chosen = matching[-1] if matching else None
    if chosen is None:
        steps = sorted({entry.order[1] for entry in entries})
        wanted = "no committed checkpoint" if step is None else f"no committed step {step}"
        raise _not_found(f"{directory} holds {wanted}; committed are: {', '.join(map(str, steps[-10:])) or 'none'}.")
    return chosen.readable()


def _attempts(directory: str) -> list[Attempt]:
    found = []
    for step_name in _names(directory, _STEP):
        for attempt in _names(os.path.join(directory, step_name), _ATTEMPT):
            entry = _read(os.path.join(directory, step_name, attempt), int(step_name), attempt)
            if entry is not None:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.order)


def _latest(directory: str, entries: list[Attempt]) -> Attempt | None:
    newest = {entry.order[0]: entry for entry in entries}
    claimed = {int(name) for name in _names(os.path.join(directory, "epochs"), _EPOCH)}
    for epoch in sorted(claimed | set(newest), reverse=True):
        if epoch in newest:
            return newest[epoch]
        path = os.path.join(directory, "epochs", str(epoch), "PARENT")
        data = _bytes(path)
        if data is None:
            continue
        parent = _records.decode_epoch_step(data, path)
        if parent is None:
            return None
        for entry in entries:
            if (entry.order[1], os.path.basename(entry.path)) == parent:
                return entry
    return None


def _read(path: str, step: int, attempt: str) -> Attempt | None:
    data = _bytes(os.path.join(path, "DECISION"))
    if data is None or os.path.exists(os.path.join(path, "DELETING")):
        return None
    match = _ATTEMPT.fullmatch(attempt)
    assert match is not None
    order = (int(match.group(1)), step, int(match.group(2)), int(match.group(3), 16))
    try:
        decision = _records.decode_decision(data, os.path.join(path, "DECISION"))
        if (decision.step, decision.attempt) != (step, attempt):
            raise DataLoss(f"{path}/DECISION is of another attempt, {decision.attempt}", blob="DECISION")
    except KeepstepError as damage:
        return Attempt(order, path, None, damage)
    return Attempt(order, path, decision) if decision.commit else None


def _names(directory: str, pattern: re.Pattern[str]) -> list[str]:
    try:
        # As the daemon: what leads elsewhere is no part of the job.
        return sorted(
            entry.name for entry in os.scandir(directory) if pattern.fullmatch(entry.name) and not entry.is_symlink()
        )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _not_found(message: str) -> CheckpointNotFound:
    return CheckpointNotFound(message, code="NOT_FOUND", reason="CHECKPOINT_NOT_FOUND")
