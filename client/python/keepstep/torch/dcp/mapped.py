"""Files mapped one after the other into one range of addresses, so that a tensor may have boxes in any of them.

Mapped pages are the kernel's own copies of the files: they take memory while there is some, and are dropped when not.
"""

from __future__ import annotations

import ctypes as c
import mmap
import os
from collections.abc import Sequence
from types import TracebackType

_PROT_NONE, _PROT_READ = 0, 1
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 0x1, 0x2, 0x10, 0x20, 0x4000
_FAILED = c.c_void_p(-1).value


class MappedFiles:
    """Use as a context. `begins` and `sizes` are by path, in bytes: the file begins at address `base` + begin.

    OSError: a file cannot be opened or mapped. A file that is cut while it is mapped ends the process (SIGBUS).
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.base = 0
        self.begins: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.size_bytes = 0
        for path in dict.fromkeys(paths):
            self.begins[path] = self.size_bytes
            self.sizes[path] = os.stat(path).st_size
            self.size_bytes += -(-self.sizes[path] // mmap.PAGESIZE) * mmap.PAGESIZE

    def __enter__(self) -> MappedFiles:
        self.base = _mmap(None, max(self.size_bytes, 1), _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE, -1)
        try:
            for path, begin in self.begins.items():
                if self.sizes[path]:
                    with open(path, "rb") as file:
                        flags = _MAP_SHARED | _MAP_FIXED
                        _mmap(self.base + begin, self.sizes[path], _PROT_READ, flags, file.fileno())
        except BaseException:
            self._unmap()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unmap()

    def _unmap(self) -> None:
        _libc().munmap(c.c_void_p(self.base), c.c_size_t(max(self.size_bytes, 1)))


def _libc() -> c.CDLL:
    libc = c.CDLL(None, use_errno=True)
    libc.mmap.restype = c.c_void_p
    libc.mmap.argtypes = [c.c_void_p, c.c_size_t, c.c_int, c.c_int, c.c_int, c.c_int64]
    return libc


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    found = _libc().mmap(address, size, protection, flags, descriptor, 0)
    if found == _FAILED or found is None:
        raise OSError(c.get_errno(), os.strerror(c.get_errno()))
    return int(found)
