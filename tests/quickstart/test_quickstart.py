"""The quickstart is the promise that a newcomer tests first."""

from __future__ import annotations

import subprocess
import sys

from tests.harness.daemon import REPOSITORY


def test_everything_is_identical() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.quickstart.main_job"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "everything identical" in ran.stdout
