"""What is saved of random generators, without encoding again what has not moved."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.random  # imported lazily otherwise, and then there is no state to keep
import pytest

from keepstep import _generators, extras


def draw_from_torch() -> object:
    return pytest.importorskip("torch").rand(1)


DRAWS: dict[str, Callable[[], object]] = {
    "python": random.random,
    "python's kept half of a pair": lambda: random.gauss(0, 1),
    "numpy": np.random.random,
    "numpy's kept half of a pair": np.random.standard_normal,
    "torch": draw_from_torch,
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_generator_that_moved_is_encoded_again(name: str) -> None:
    draw = DRAWS[name]
    draw()  # torch is imported
    generators = _generators.Generators()
    before = generators.packed()
    assert generators.packed() is before, "nothing has moved"
    for _ in range(2):  # the second of a pair moves no word of the state
        draw()
        after = generators.packed()
        assert after is not before and after == extras.pack(_generators.rng_state())
        before = after


def test_they_go_on_where_they_were() -> None:
    stored = _generators.Generators().packed()
    drawn = random.random(), np.random.random()
    _generators.set_rng_state(stored.value())
    assert (random.random(), np.random.random()) == drawn
