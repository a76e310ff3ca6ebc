"""Where the parts that are not Python are: beside the package in a wheel, in bazel-bin of a checkout, or on $PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def candidates(packaged: str, built: str, variable: str) -> list[Path]:
    """Places to look at, the best first; just the one that the environment's `variable` names, if it does.

    Args:
        packaged: relative to the package.
        built: relative to bazel-bin.
    """
    named = os.environ.get(variable)
    if named:
        return [Path(named)]
    return [_PACKAGE / packaged, *(above / "bazel-bin" / built for above in _PACKAGE.parents)]


def program(name: str, built: str, variable: str) -> Path | None:
    """A program of Keepstep's, or None."""
    for path in candidates(f"bin/{name}", built, variable):
        if os.access(path, os.X_OK) and path.is_file():
            return path
    found = None if os.environ.get(variable) else shutil.which(name)
    return Path(found) if found else None
