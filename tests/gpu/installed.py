"""Which Keepstep is looked at: a bundle, else what this checkout has built."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.setting import SOURCES
from tests.harness.daemon import KEEPSTEPD


@dataclass(frozen=True)
class Installed:
    """`client` is where Python finds the keepstep package."""

    daemon: Path
    client: Path
    version: str


def of_bundle(folder: Path, stage: Path) -> Installed:
    """Unpacks its wheel beneath `stage`: nothing is installed, and pip is not asked for."""
    daemon, wheels = folder / "bin/keepstepd", sorted((folder / "python").glob("keepstep-*.whl"))
    if not daemon.exists() or not wheels:
        sys.exit(f"tests/gpu/run.sh: {folder} is no bundle: it needs bin/keepstepd and python/keepstep-*.whl")
    client = stage / "client"
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(client)
    version = folder / "VERSION"
    told = ", ".join(version.read_text().splitlines()) if version.exists() else wheels[-1].name
    return Installed(daemon.resolve(), client, f"the bundle {folder.name} ({told})")


def of_checkout() -> Installed:
    if not KEEPSTEPD.exists():
        sys.exit("tests/gpu/run.sh: nothing is built here; name a bundle (--bundle FOLDER), or\n"
                 "  bazel build //daemon:keepstepd //client:libkeepstep.so")
    return Installed(KEEPSTEPD, SOURCES / "client/python", "what this checkout has built")


def newest_bundle() -> Path | None:
    """Of those that deploy/bundle.sh has left here."""
    made = [folder for folder in SOURCES.glob("dist/keepstep-*-linux-*") if (folder / "bin/keepstepd").exists()]
    return max(made, key=lambda folder: folder.stat().st_mtime, default=None)


def find(bundle: Path | None, stage: Path) -> Installed:
    chosen = bundle or (None if KEEPSTEPD.exists() else newest_bundle())
    return of_bundle(chosen, stage) if chosen else of_checkout()
