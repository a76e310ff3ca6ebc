"""Whether what is saved comes back bit for bit: tests/device through the driver alone, and PyTorch's tensors.

Every check is a child of its own, so that what one does to a context harms no other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu.installed import Installed
from tests.gpu.setting import SOURCES, child_environment
from tests.harness.daemon import Daemon

LIMIT_SECONDS = 600
LAYOUTS = {
    "one_each": "one tensor in each allocation",
    "many": "200 tensors of any size in one segment",
    "segment": "an expandable segment of 2 MiB pieces",
    "views": "columns, a transposed matrix, every third row",
    "pool": "memory of the driver's pool, which has no handle",
    "mixed": "all of these and host memory",
}
QUICK_LAYOUTS = ("many", "segment", "views")
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@dataclass(frozen=True)
class Check:
    """`wrong` is empty where all was right; `note` says what else is worth knowing."""

    name: str
    wrong: str
    note: str = ""


@dataclass(frozen=True)
class Place:
    """Where checks run: a daemon, and the variables that lead to the driver."""

    daemon: Daemon
    installed: Installed
    variables: dict[str, str]
    directory: Path  # for jobs

    def run(self, module: str, *arguments: str, lines: int = 0, **variables: str) -> Any:
        """The first line that the child prints, as JSON, or the words of one that fails. It reads `lines` newlines."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments], cwd=SOURCES, capture_output=True, text=True, check=False,
                input="\n" * lines, timeout=LIMIT_SECONDS,
                env=child_environment({**self.variables, **variables}, self.installed.client))
        except subprocess.TimeoutExpired:
            return f"it had not ended after {LIMIT_SECONDS} s"
        if done.returncode or not done.stdout:
            return f"status {done.returncode}: {done.stderr.strip()[-600:]}"
        return json.loads(done.stdout.splitlines()[0])


def _layouts(place: Place, quick: bool) -> Iterator[Check]:
    for layout, words in LAYOUTS.items():
        if quick and layout not in QUICK_LAYOUTS:
            continue
        job = str(place.directory / f"round-trip-{layout}")
        told = place.run("tests.device.trainer", "round_trip", layout, place.daemon.address, job, lines=2)
        name = f"saved and loaded twice: {words}"
        if isinstance(told, str):
            yield Check(name, told)
            continue
        wrong = [f"{tensor} of step {step}" for step, tensors in told["differing"].items() for tensor in tensors]
        yield Check(name, ", ".join(wrong), told["paths"])


def _order(place: Place, quick: bool) -> Iterator[Check]:
    for layout in ("one_each",) if quick else ("one_each", "segment"):
        job = str(place.directory / f"ordered-{layout}")
        told = place.run("tests.device.trainer", "ordered", layout, place.daemon.address, job, lines=2)
        name = f"work queued before the save, an update as soon as the gate opens: {LAYOUTS[layout]}"
        if isinstance(told, str):
            yield Check(name, told)
        else:
            early = ["the stream ran before it was let"] if told["waited"] else []
            yield Check(name, ", ".join([*told["wrong"], *early]), f"save took {told['seconds'] * 1e3:.2f} ms")


def _reuse(place: Place) -> Iterator[Check]:
    job = str(place.directory / "reused")
    told = place.run("tests.device.trainer", "reused", "views", place.daemon.address, job, lines=2)
    name = "memory freed and allocated again between saves"
    if isinstance(told, str):
        yield Check(name, told)
    else:
        yield Check(name, ", ".join(told["differing"]), f"{told['addresses']} addresses for 6 tensors")


def _torch(place: Place, device: str) -> Iterator[Check]:
    allocators: dict[str, dict[str, str]] = {"caching allocator": {}}
    if device != "cpu":
        allocators["expandable segments"] = EXPANDABLE
    for allocator, variables in allocators.items():
        job = str(place.directory / f"torch-{allocator.split()[0]}")
        told = place.run("tests.gpu.torch_cases", job, place.daemon.address, device, **variables)
        if isinstance(told, str):
            yield Check(f"PyTorch, {allocator}", told)
            continue
        for case, wrong in told["cases"].items():
            yield Check(f"PyTorch on {device}, {allocator}: {case}", wrong, told["paths"])


def checks(place: Place, *, quick: bool, torch_device: str) -> Iterator[Check]:
    """Each as soon as it is done. `torch_device`: "cuda", or "cpu", which tries the cases alone, or "" for none."""
    yield from _layouts(place, quick)
    yield from _order(place, quick)
    yield from _reuse(place)
    if torch_device:
        yield from _torch(place, torch_device)
