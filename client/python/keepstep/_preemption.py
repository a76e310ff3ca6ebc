"""SIGTERM as a wish to save: what Slurm, Kubernetes and spot markets send some time before they kill.

The handler only notes the signal, and calls the handler that was there before. `should_save` passes the wish on, so
that every rank answers yes at the same step, and nothing is called from within a handler. A second SIGTERM does what it
would have done without Keepstep.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_noticed = threading.Event()
_before: Any = None
_installed = False


def listen() -> None:
    """Notes SIGTERM from now on. Does nothing where that cannot be: only the main thread may set handlers."""
    global _before, _installed
    if _installed or threading.current_thread() is not threading.main_thread():
        return
    _before = signal.signal(signal.SIGTERM, _on_signal)
    _installed = True


def noticed() -> bool:
    """Whether the signal has come since the program began."""
    return _noticed.is_set()


def _on_signal(number: int, frame: FrameType | None) -> None:
    _noticed.set()
    signal.signal(signal.SIGTERM, signal.SIG_DFL if _before is None else _before)
    if callable(_before):
        _before(number, frame)
