"""keep_last and keep_every: checked here, passed on as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_library import FakeLibrary

import keepstep
from keepstep import _ffi


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    fake = FakeLibrary()
    monkeypatch.setattr(_ffi, "library", lambda: fake)
    yield fake


@pytest.mark.parametrize(
    ("options", "passed"), [({}, (0, 0)), ({"keep_last": 3}, (3, 0)), ({"keep_last": 3, "keep_every": 1000}, (3, 1000))]
)
def test_reach_the_daemon(library: FakeLibrary, options: dict[str, int], passed: tuple[int, int]) -> None:
    with keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, **options):  # type: ignore[arg-type]
        assert library.retention == passed


@pytest.mark.parametrize(
    "options",
    [{"keep_last": 0}, {"keep_last": -1}, {"keep_every": 10}, {"keep_last": 2, "keep_every": 0}],
)
def test_values_that_mean_nothing_are_refused(library: FakeLibrary, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="keep_"):
        keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, **options)  # type: ignore[arg-type]


def test_a_reader_deletes_nothing(library: FakeLibrary) -> None:
    with pytest.raises(ValueError, match="reader"):
        keepstep.Checkpointer("/ckpt/job", rank=0, world_size=1, read_only=True, keep_last=1)
