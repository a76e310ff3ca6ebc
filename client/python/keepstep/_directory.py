"""What a job's directory holds, by the rules of docs/formats.md: attempts, decisions, and which one is the latest.

An attempt counts iff its DECISION is a COMMIT of that step and attempt and it has no DELETING marker. "Latest" is the
newest commit of the newest epoch, else what its PARENT names, else the same of the epoch before.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from keepstep import _records
from keepstep.errors import CheckpointNotFound, DataLoss

_ATTEMPT = re.compile(r"e(0|[1-9][0-9]*)-a(0|[1-9][0-9]*)-([0-9a-f]{16})")
_STEP = re.compile(r"[0-9]{12}")
_EPOCH = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Committed:
    """A decided, readable attempt; `order` sorts by epoch, step, attempt."""

    order: tuple[int, int, int, int]
    path: str
    decision: _records.Decision


def committed(directory: str) -> list[Committed]:
    """Every checkpoint, oldest first. DataLoss: a decision is damaged, so that what is committed is not known."""
    found = []
    for step_name in _names(directory, _STEP):
        for attempt in _names(os.path.join(directory, step_name), _ATTEMPT):
            path = os.path.join(directory, step_name, attempt)
            entry = _read(path, int(step_name), attempt)
            if entry is not None:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.order)


def choose(directory: str, step: int | None) -> Committed:
    """The highest committed attempt of `step`, or the latest checkpoint. CheckpointNotFound says what there is."""
    if not os.path.isdir(directory):
        raise _not_found(f"{directory} is no directory; name the directory that was given to Checkpointer.")
    entries = committed(directory)
    if step is None:
        chosen = _latest(directory, entries)
    else:
        matching = [entry for entry in entries if entry.decision.step == step]
        chosen = matching[-1] if matching else None
    if chosen is None:
        steps = sorted({entry.decision.step for entry in entries})
        wanted = "no committed checkpoint" if step is None else f"no committed step {step}"
        raise _not_found(f"{directory} holds {wanted}; committed are: {', '.join(map(str, steps[-10:])) or 'none'}.")
    return chosen


def _latest(directory: str, entries: list[Committed]) -> Committed | None:
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
            if (entry.decision.step, entry.decision.attempt) == parent:
                return entry
    return None


def _read(path: str, step: int, attempt: str) -> Committed | None:
    data = _bytes(os.path.join(path, "DECISION"))
    if data is None or os.path.exists(os.path.join(path, "DELETING")):
        return None
    decision = _records.decode_decision(data, os.path.join(path, "DECISION"))
    if not decision.commit:
        return None
    if (decision.step, decision.attempt) != (step, attempt):
        raise DataLoss(f"{path}/DECISION is of another attempt: {decision.step}/{decision.attempt}", blob="DECISION")
    match = _ATTEMPT.fullmatch(attempt)
    assert match is not None
    epoch, counter, _ = match.groups()
    return Committed((int(epoch), step, int(counter), int(match.group(3), 16)), path, decision)


def _names(directory: str, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if pattern.fullmatch(name))
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
