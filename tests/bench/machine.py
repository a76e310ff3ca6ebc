"""What the figures of a run were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from tests.harness.daemon import REPOSITORY


def machine() -> str:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True,
                            check=False).stdout.strip()
    model = next((line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (f"{os.cpu_count()} × {model}, {memory_gib:.0f} GiB (pool limit {memory_gib / 4:.1f} GiB), "
            f"Linux {platform.release()}, commit {commit or 'unknown'}")
