"""Fixtures of the attack suite: generated code on sys.path, and a channel with it to the test's daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.api import Api, generate
from tests.harness.daemon import Daemon


@pytest.fixture(scope="session", autouse=True)
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the generated code, importable while the session lasts."""
    into = tmp_path_factory.mktemp("generated")
    generate(into)
    sys.path.insert(0, str(into))
    yield into
    sys.path.remove(str(into))


@pytest.fixture
def api(daemon: Daemon, generated: Path) -> Iterator[Api]:
    """A channel without a session to the test's daemon."""
    with Api(daemon.address) as api:
        yield api
