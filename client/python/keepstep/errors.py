"""What can go wrong, as exceptions that a program can match and a person can act on.

Every error carries the canonical gRPC code (`.code`, for example "NOT_FOUND") and a reason (`.reason`), which is an
entry of docs/errors.md; `.rank` and `.stage` say whom and what to blame, where somebody is to blame. The classes are
chosen from the reason where one has a class of its own, else from the code.
"""

from __future__ import annotations

import re
from typing import Any

CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class KeepstepError(Exception):
    """Any failure that Keepstep reports; `str(error)` says what to do next."""

    def __init__(
        self, message: str, *, code: str = "UNKNOWN", reason: str = "", rank: int | None = None, stage: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.rank = rank
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        # As torch.distributed sends it from rank to rank: the subclasses' keywords come back with the attributes.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[KeepstepError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> KeepstepError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


class DaemonUnavailable(KeepstepError, ConnectionError):
    """No daemon listens at the address, or it is draining or recovering: try again, or start one."""


class CheckpointNotFound(KeepstepError, FileNotFoundError):
    """No such step or job, or the step was never committed."""


class MissingTensors(KeepstepError):
    """The checkpoint lacks registered tensors; `.names` lists those that the daemon named."""

    def __init__(
        self,
        message: str,
        *,
        names: tuple[str, ...] = (),
        code: str = "NOT_FOUND",
        reason: str = "MISSING_TENSORS",
        rank: int | None = None,
        stage: str = "",
    ) -> None:
        super().__init__(message, code=code, reason=reason, rank=rank, stage=stage)
        self.names = names


class ShapeMismatch(KeepstepError):
    """Same name, but another global shape or dtype than the stored tensor's."""


class DataLoss(KeepstepError):
    """Stored bytes are not those that were written. `.tensor`, `.blob` and `.offset_bytes` are set where known."""

    def __init__(
        self,
        message: str,
        *,
        tensor: str | None = None,
        blob: str | None = None,
        offset_bytes: int | None = None,
        code: str = "DATA_LOSS",
        reason: str = "DATA_LOSS",
        rank: int | None = None,
        stage: str = "",
    ) -> None:
        super().__init__(message, code=code, reason=reason, rank=rank, stage=stage)
        self.tensor = tensor
        self.blob = blob
        self.offset_bytes = offset_bytes


class SaveFailed(KeepstepError):
    """A save ended without being committed; earlier checkpoints are intact. `.step` names it."""

    def __init__(
        self,
        message: str,
        *,
        step: int,
        state: str = "FAILED",
        host: str | None = None,
        code: str = "ABORTED",
        reason: str = "",
        rank: int | None = None,
        stage: str = "",
    ) -> None:
        super().__init__(message, code=code, reason=reason, rank=rank, stage=stage)
        self.step = step
        self.state = state
        self.host = host


class SaveTimeout(KeepstepError, TimeoutError):
    """The wait ended before the save did; it may still finish, so ask the same handle again."""


_MISSING = frozenset({"MISSING_TENSORS", "MISSING_TENSOR", "TENSOR_NOT_FOUND"})
_MISMATCH = frozenset({"SHAPE_MISMATCH", "DTYPE_MISMATCH"})


def _listed(message: str) -> tuple[str, ...]:
    """The names in "… are not in the checkpoint: a, b (stored: c?), … Use rename=…" """
    found = re.search(r"not in the checkpoint: (.*?)(?: Use rename=|$)", message, re.DOTALL)
    entries = [] if found is None else found[1].rstrip(".").split(", ")
    return tuple(entry.split(" (stored: ")[0] for entry in entries if entry and not entry.startswith(("…", "and ")))


def from_status(
    code: int, reason: str, message: str, *, rank: int | None = None, stage: str = ""
) -> KeepstepError:
    """The exception for a status of the library or the daemon. Never called with OK."""
    name = CODES[code] if 0 <= code < len(CODES) else f"CODE_{code}"
    text = message or f"{name} {reason}".strip()
    if reason in _MISSING:
        return MissingTensors(text, names=_listed(text), code=name, reason=reason, rank=rank, stage=stage)
    kind: type[KeepstepError] = KeepstepError
    if reason in _MISMATCH:
        kind = ShapeMismatch
    elif name == "DATA_LOSS":
        kind = DataLoss
    elif name == "UNAVAILABLE":
        kind = DaemonUnavailable
    elif name == "NOT_FOUND":
        kind = CheckpointNotFound
    return kind(text, code=name, reason=reason, rank=rank, stage=stage)
