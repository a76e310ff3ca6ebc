"""Fixtures of the cross-folder tests: a daemon of the test's own, in a directory with a short path."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import KEEPSTEPD, REPOSITORY, Daemon

sys.path.insert(0, str(REPOSITORY / "client/python"))


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory whose path leaves room for a socket's name; gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="ks-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def daemon(home: Path) -> Iterator[Daemon]:
    """A running daemon, killed afterwards if the test has not ended it."""
    if not KEEPSTEPD.exists():
        pytest.fail(f"{KEEPSTEPD} is not built: bazel build //daemon:keepstepd")
    daemon = Daemon(home).start()
    yield daemon
    daemon.kill()
