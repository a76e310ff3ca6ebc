"""One line that shows how far training is: on a terminal alone, on standard error."""

from __future__ import annotations

import sys

_WIDTH = 40


class Progress:
    """A context manager: the line is gone at its end."""

    def __init__(self, title: str, steps: int) -> None:
        self._title, self._steps = title, steps
        self._shown = sys.stderr.isatty()

    def show(self, step: int, note: str) -> None:
        if self._shown:
            done = round(_WIDTH * step / self._steps)
            bar = "█" * done + "·" * (_WIDTH - done)
            print(f"\r\x1b[K{self._title} {bar} {step}/{self._steps}  {note}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
