"""Keeps an optimizer from changing tensors that a save still has to copy: torch's global step pre-hook.

1. One hook for the whole process, installed with the first gate. It runs before each `Optimizer.step`, also of the
   inner optimizers of an optimizer-in-backward, and asks the gates of that optimizer; any other costs one look-up.
   Another one runs after it, and tells the gates of crash flush that the update is queued.
2. Overlap needs certainty that the hook will run. So a gate is ready for a save only if its optimizers are of a tested
   kind (or the caller says so), and each has passed the hook since the save before: under a CUDA graph, or inside a
   compiled step, it does not, and then the save returns after the copy.
3. The hook is never compiled. While a CUDA graph is being captured it does not wait, and its optimizer never overlaps
   again.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from keepstep._state import Asked

_log = logging.getLogger("keepstep")

# Whose `step` changes tensors nowhere else than inside the hooked call: each is in tests/torch/test_gate.py.
TESTED: frozenset[type[Optimizer]] = frozenset(
    getattr(torch.optim, name)
    for name in (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop",
        "Rprop", "SGD",
    )
    if hasattr(torch.optim, name)
)  # fmt: skip


class _Stepper:
    """What the hook knows of one optimizer."""

    def __init__(self) -> None:
        self.fired = False  # since the last save that asked
        self.asked = False
        self.captured = False
        self.gates: list[weakref.ref[StepGate]] = []


# A load makes optimizer state by a step of its own, which says nothing of how the program steps.
_making_state: contextvars.ContextVar[bool] = contextvars.ContextVar("keepstep_making_state", default=False)


@contextlib.contextmanager
def making_state() -> Iterator[None]:
    """Steps within pass no gate. The caller has seen that no save is being copied."""
    token = _making_state.set(True)
    try:
        yield
    finally:
        _making_state.reset(token)


_steppers: weakref.WeakKeyDictionary[Optimizer, _Stepper] = weakref.WeakKeyDictionary()
os.register_at_fork(after_in_child=_steppers.clear)  # a fork trains on copies of its own


class StepGate:
    """The gate of one group, asked by the steps of its optimizers. Used by the thread that trains."""

    def __init__(
        self, group: int, shown: str, optimizers: Sequence[Optimizer], inner: Sequence[Optimizer], overlap: bool | None
    ) -> None:
        """`inner` do the updates of `optimizers`. `overlap` None: only if each of them is of a tested kind."""
        self.group = group
        self._shown = shown
        self._steppers = [_stepper(optimizer) for optimizer in optimizers]
        self._pass: Asked | None = None
        self._done: Asked | None = None
        untested = {type(optimizer) for optimizer in inner} - TESTED
        self.overlaps = not untested if overlap is None else overlap
        if untested and overlap is None:
            _say_once(
                f"{shown}: {', '.join(sorted(kind.__name__ for kind in untested))} is not among the tested optimizers, "
                "so save() returns after the copy; overlap=True if its step() alone changes its tensors"
            )
        for stepper in self._steppers:
            stepper.gates = [known for known in stepper.gates if known() is not None]
            stepper.gates.append(weakref.ref(self))

    def attach(self, before_update: Asked, after_update: Asked | None = None) -> None:
        """`before_update()(group)` returns when the tensors of the group may change; None: nobody asks any more."""
        self._pass, self._done = before_update, after_update

    def detach(self) -> None:
        self._pass = self._done = None

    def announces(self) -> bool:
        return self.overlaps and not any(stepper.captured for stepper in self._steppers)

    def ready(self) -> bool:
        """Whether the next step of each optimizer is sure to pass the hook. Asked once for each save."""
        silent = [stepper for stepper in self._steppers if not stepper.fired or stepper.captured]
        first = not all(stepper.asked for stepper in self._steppers)
        for stepper in self._steppers:
            stepper.fired, stepper.asked = False, True
        if self.overlaps and silent and not first:
            _say_once(
                f"{self._shown}: its step was not seen since the save before (a CUDA graph, a compiled step, or no "
                "step at all), so save() returns after the copy"
            )
        return self.overlaps and not silent

    def passed(self) -> None:
        before_update = None if self._pass is None else self._pass()
        if before_update is not None:
            before_update(self.group)


    def stepped(self) -> None:
        after_update = None if self._done is None else self._done()
        if after_update is not None:
            after_update(self.group)


class CallerGate:
    """The gate of a group that the program itself guards, by `Checkpointer.before_update(keyword)`."""

    def __init__(self, group: int) -> None:
        self.group = group

    def attach(self, before_update: Asked, after_update: Asked | None = None) -> None:
        """Nothing: the program asks."""

    def detach(self) -> None:
        """Nothing."""

    def ready(self) -> bool:
        return True

    def announces(self) -> bool:
        return False


def _stepper(optimizer: Optimizer) -> _Stepper:
    _install()
    found = _steppers.get(optimizer)
    if found is None:
        found = _steppers[optimizer] = _Stepper()
    return found


@functools.cache
def _install() -> None:
    register_optimizer_step_pre_hook(torch.compiler.disable(_before_step))  # type: ignore[no-untyped-call]
    register_optimizer_step_post_hook(torch.compiler.disable(_after_step))  # type: ignore[no-untyped-call]


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepper = _steppers.get(optimizer)
    if stepper is None or not stepper.gates or _making_state.get():
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return
    for reference in stepper.gates:
        gate = reference()
        if gate is not None:
            gate.stepped()


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepper = _steppers.get(optimizer)
    if stepper is None or _making_state.get():
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        stepper.captured = True
        return
    stepper.fired = True
    for reference in stepper.gates:
        gate = reference()
        if gate is not None:
            gate.passed()


@functools.lru_cache(maxsize=256)
def _say_once(told: str) -> None:
    _log.warning("keepstep: %s", told)
