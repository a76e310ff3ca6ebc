"""Random generators as extra state: Python's, and those of NumPy and PyTorch where they were imported.

Their states are some 10 KB, of which most saves find most unmoved; what has not moved is not encoded again.
"""

from __future__ import annotations

import array
import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from keepstep import extras


class Generators:
    """The generators of this process, for the saves of one registration. One thread at a time."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Any, bytes]] = {}  # what each was at the last save, and that encoded
        self._packed = extras.Packed(())

    def extra(self) -> extras.Extra:
        """All of them as one piece of extra state."""
        return extras.Extra(rng_state, set_rng_state, packed=self.packed)

    def packed(self) -> extras.Packed:
        """``extras.pack(rng_state())``, for less."""
        moved = self._take("python", state := random.getstate(), state)
        if "numpy.random" in sys.modules:
            legacy = np.random.get_state(legacy=True)
            # A tuple, unless the program put another bit generator than MT19937 there: then it counts as moved.
            now = (legacy[0], legacy[1].tobytes(), *legacy[2:]) if isinstance(legacy, tuple) else object()
            moved |= self._take("numpy", now, legacy)
        if "torch" in sys.modules:
            from keepstep.torch import values

            of_torch = values.rng_state()
            seen = of_torch["cpu"].tobytes(), [(at, told.tobytes()) for at, told in of_torch.get("cuda", {}).items()]
            moved |= self._take("torch", seen, of_torch)
        if moved:
            members = [f'"{name}":'.encode() + encoded for name, (_, encoded) in self._parts.items()]
            self._packed = extras.Packed((b"{" + b",".join(members) + b"}",))
        return self._packed

    def _take(self, name: str, seen: Any, state: Any) -> bool:
        """Whether the generator has moved: `seen` is its state as what compares by value."""
        known = self._parts.get(name)
        if known is not None and known[0] == seen:
            return False
        self._parts[name] = seen, extras.encode(_of_python(state) if name == "python" else state)
        return True


def _of_python(state: tuple[Any, ...]) -> tuple[Any, ...]:
    version, words, gauss = state
    return version, np.frombuffer(array.array("I", words), np.uint32), gauss


def rng_state() -> dict[str, Any]:
    """What `set_rng_state` takes."""
    state: dict[str, Any] = {"python": _of_python(random.getstate())}
    if "numpy.random" in sys.modules:
        state["numpy"] = np.random.get_state(legacy=True)
    if "torch" in sys.modules:
        from keepstep.torch import values

        state["torch"] = values.rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Gives back what rng_state returned; generators of what this process has not imported are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    if "torch" in state and "torch" in sys.modules:
        from keepstep.torch import values

        values.set_rng_state(state["torch"])
