"""Reads the counters file of the fake driver: what every living process holds (the layout is in counters.h)."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

COPIED = ("host_to_device_bytes", "device_to_host_bytes", "device_to_device_bytes")
NAMES = ("contexts", "imports", "vmm_mappings", "vmm_handles", "allocations", "allocated_bytes", "registered_bytes",
         *COPIED, "streams", "events", "reserved_bytes")

_MAGIC = b"KSFCUDA1"
_HEAD_BYTES = 4096
_SLOT_BYTES = 512
_SLOTS = 256
_FLOCK = struct.Struct("hhqqi4x")


@dataclass(frozen=True)
class Process:
    """One process that has called cuInit.

    Attributes:
        pid: As the process itself sees it.
        alive: Whether it still has the driver open. What a dead one held is gone; its counts are those of its end.
        counts: By the names in NAMES.
    """

    pid: int
    alive: bool
    counts: dict[str, int]


class Counters:
    """The counters of all processes that were given `path`; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def processes(self) -> list[Process]:
        """All of them, the dead too as long as nobody has taken their place."""
        if not self.path.exists():
            return []
        with self.path.open("rb+") as file:
            bytes_ = file.read()
            if not bytes_:
                return []
            if bytes_[:8] != _MAGIC:
                raise ValueError(f"{self.path} is not a counters file")
            return [process for slot in range(_SLOTS) if (process := self._process(file.fileno(), bytes_, slot))]

    def _process(self, fd: int, bytes_: bytes, slot: int) -> Process | None:
        offset = _HEAD_BYTES + slot * _SLOT_BYTES
        pid, *values = struct.unpack_from(f"<q{len(NAMES)}q", bytes_, offset)
        if pid == 0:
            return None
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        held = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))[0] != fcntl.F_UNLCK
        return Process(pid, held, dict(zip(NAMES, values, strict=True)))

    def total(self, name: str) -> int:
        """The sum of one count over the living."""
        return sum(process.counts[name] for process in self.processes() if process.alive)

    def held(self, pid: int | None = None) -> dict[str, int]:
        """What the living hold, or the one with `pid`: the counts that are not 0. Bytes copied are not held."""
        found: dict[str, int] = {}
        for process in self.processes():
            if not process.alive or pid not in (None, process.pid):
                continue
            for name, count in process.counts.items():
                if count and name not in COPIED:
                    found[name] = found.get(name, 0) + count
        return found
