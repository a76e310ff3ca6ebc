"""One daemon and one set of ranks for every case of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import REPOSITORY, Daemon
from tests.torch.world import World


@pytest.fixture(scope="package")
def shared_daemon() -> Iterator[Daemon]:
    home = Path(tempfile.mkdtemp(prefix="ks-"))
    daemon = Daemon(home).start()
    yield daemon
    daemon.kill()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="package")
def world(shared_daemon: Daemon) -> Iterator[World]:
    world = World(shared_daemon, shared_daemon.home)
    yield world
    world.close()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client tests' library of one process: remembers what it is asked, and copies nothing."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "client/python/tests"))
    from fake_library import installed

    yield from installed(monkeypatch)
