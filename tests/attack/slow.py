"""A daemon on slow storage within a memory limit, both of the kernel's making: control groups (v1) of a test's own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
GONE_WITHIN_SECONDS = 10.0


class Slow:
    """Use as a context. A process started through `wrapper` is killed by the kernel beyond `memory_bytes` (page cache
    is reclaimed first), and writes at most `write_bytes` a second to the device that holds `directory`."""

    def __init__(self, directory: Path, memory_bytes: int, write_bytes: int) -> None:
        self._groups: list[Path] = []
        self._directory = directory
        self._memory_bytes, self._write_bytes = memory_bytes, write_bytes

    @staticmethod
    def possible() -> bool:
        return all(os.access(GROUPS / kind / "cgroup.procs", os.W_OK) for kind in ("memory", "blkio"))

    def __enter__(self) -> Slow:
        for kind in ("memory", "blkio"):
            self._groups.append(Path(tempfile.mkdtemp(prefix="keepstep-test-", dir=GROUPS / kind)))
        memory, blkio = self._groups
        (memory / "memory.limit_in_bytes").write_text(str(self._memory_bytes))
        device = os.stat(self._directory).st_dev
        throttle = f"{os.major(device)}:{os.minor(device)} {self._write_bytes}"
        (blkio / "blkio.throttle.write_bps_device").write_text(throttle)
        return self

    @property
    def wrapper(self) -> Sequence[str]:
        join = "".join(f"echo $$ > {group}/cgroup.procs && " for group in self._groups)
        return ["sh", "-c", f'{join}exec "$@"', "sh"]

    def peak_bytes(self) -> int:
        """The most that the group was charged with, page cache included."""
        return int((self._groups[0] / "memory.max_usage_in_bytes").read_text())

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + GONE_WITHIN_SECONDS
        for group in self._groups:
            while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            group.rmdir()
