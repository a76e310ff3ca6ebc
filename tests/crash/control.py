"""Failpoints of `keepstepd_failpoints` from outside: their names, and the block that arms and counts them."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

from tests.harness.daemon import BUILT

KEEPSTEPD_FAILPOINTS = BUILT / "tests/crash/keepstepd_failpoints"
# armed, left, action, fired, error, most bytes, forever, drop: as failpoints.cc has it
_HEAD = struct.Struct("<IIIIIIII")
_END, _STOP, _FAIL = range(3)
ANY = -1  # every point that changes something
CHANGING = ("mkdir", "create", "reserve", "write", "truncate", "sync", "close", "link", "rename", "unlink", "send")


def points() -> list[str]:
    """Every point's name; its place is its number."""
    listed = subprocess.run([str(KEEPSTEPD_FAILPOINTS)], env={"KEEPSTEP_FAILPOINT": "list"}, capture_output=True,
                            text=True, check=True)
    return [line.split(" ", 1)[1] for line in listed.stdout.splitlines()]


class Control:
    """The control block, a file that the daemon maps."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = names
        self.armings = 0
        path.write_bytes(bytes(_HEAD.size + 4 * len(names)))
        with path.open("r+b") as file:
            self._block = mmap.mmap(file.fileno(), 0)

    def arm(self, point: int, nth: int, *, stop: bool = False) -> None:
        """At the nth pass of the point from now on; ANY counts the passes of all."""
        self._arm(point, nth, _STOP if stop else _END)

    def fail(
        self, point: int, nth: int, error: int, *, most_bytes: int = 0, forever: bool = False, drop: bool = False
    ) -> None:
        """The nth pass fails with `error`, or (error 0) moves at most so many bytes; if `forever`, later ones too."""
        self._arm(point, nth, _FAIL, error, most_bytes, int(forever), int(drop))

    def disarm_from(self, arming: int) -> None:
        """From another thread, unless it has been armed anew since."""
        if self.armings == arming:
            self.disarm()

    def _arm(self, point: int, nth: int, action: int, *how: int) -> None:
        self.armings += 1
        self._block[: _HEAD.size] = _HEAD.pack(0, nth, action, 0, *(how or (0, 0, 0, 0)))
        self._block[0:4] = struct.pack("<I", 1 if point == ANY else 2 + point)

    def disarm(self) -> None:
        self._block[0:4] = bytes(4)

    def fails(self) -> bool:
        """Whether calls are, or were last, made to fail."""
        return int(struct.unpack_from("<I", self._block, 8)[0]) == _FAIL

    def has_fired(self) -> bool:
        return self._block[12:16] != bytes(4)

    def take_fired(self) -> str | None:
        """The point that fired, once."""
        number = int(struct.unpack_from("<I", self._block, 12)[0])
        self._block[12:16] = bytes(4)
        return self.names[number - 1] if number else None

    def passes(self) -> dict[str, int]:
        """How often each point was passed since `forget`."""
        counts = struct.unpack_from(f"<{len(self.names)}I", self._block, _HEAD.size)
        return {name: count for name, count in zip(self.names, counts, strict=True) if count}

    def forget(self) -> None:
        self._block[_HEAD.size :] = bytes(4 * len(self.names))

    def close(self) -> None:
        self.armings += 1  # a timer that comes late finds itself overtaken
        self._block.close()
