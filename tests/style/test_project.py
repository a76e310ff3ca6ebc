"""What holds for the whole project: every error reason is explained, and the Python is typed and clean."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.harness.daemon import REPOSITORY

REASON = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"')
# Upper-case words in quotes that are not reasons: names of codes, of the environment, of constants.
NOT_REASONS = re.compile(
    r"(KEEPSTEP|NOTIFY|WATCHDOG|XDG|SO|F|GRPC|LD|TEST|WORLD|BUILD)_.*|.*_ARGUMENT|NOT_FOUND|ALREADY_EXISTS|PERMISSION_DENIED|OUT_OF_RANGE|"
    r"DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|DATA_LOSS|F8_.*|E[0-9]M[0-9].*|IN_FLIGHT|LAST_COMMIT"
)


def reasons() -> set[str]:
    """Every reason that some source names."""
    found = set()
    for folder in ("client", "daemon", "storage", "proto"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix not in (".cc", ".h", ".py") or "test" in file.name or "fake" in file.name:
                continue
            found |= {word for word in REASON.findall(file.read_text()) if not NOT_REASONS.fullmatch(word)}
    return found


def test_every_reason_has_an_entry() -> None:
    page = (REPOSITORY / "docs/errors.md").read_text()
    missing = {reason for reason in reasons() if f"`{reason}`" not in page}
    assert not missing, f"docs/errors.md lacks {sorted(missing)}"


def run(*command: str) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_python_is_clean() -> None:
    run("ruff", "check", "--no-cache", "client/python", "tests")


def test_the_package_is_typed() -> None:
    run("mypy", "--config-file", "client/python/pyproject.toml", "client/python/keepstep")
