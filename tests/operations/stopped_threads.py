"""Stops single threads of another process, as nothing but a tracer can: SIGSTOP stops all of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace of thread {thread}")


@contextlib.contextmanager
def stopped_threads(pid: int, name: str) -> Iterator[int]:
    """Holds every thread of `pid` that is called `name`; gives how many. They go on afterwards."""
    threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()
               if (task / "comm").read_text().strip() == name]
    held = []
    try:
        for thread in threads:
            _ptrace(PTRACE_ATTACH, thread)
            held.append(thread)
            os.waitpid(thread, WALL)
        yield len(held)
    finally:
        for thread in held:
            _ptrace(PTRACE_DETACH, thread)
