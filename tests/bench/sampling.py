"""Looks at something again and again while something else happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sampled(period_seconds: float, look: Callable[[], object]) -> Iterator[None]:
    """Calls `look` once a period, on a thread of its own, until the block ends."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(period_seconds):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
