"""The wheel, made once for all that looks at it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.harness.daemon import BUILT, REPOSITORY

# What wheel and bundle are made of.
PROGRAMS = [BUILT / "daemon/keepstepd", BUILT / "client/command/keepstep", BUILT / "client/libkeepstep.so"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(program.exists() for program in PROGRAMS):
        pytest.fail("not built: bazel build //daemon:keepstepd //client/command:keepstep //client:libkeepstep.so")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([str(REPOSITORY / "deploy/wheel.sh"), "--built", str(out)], capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = out.iterdir()
    assert wheel.name in done.stdout and "MiB installed" in done.stderr
    return wheel
