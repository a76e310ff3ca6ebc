"""A root file system with what every Linux has and nothing of Keepstep's, for what says that it runs by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

# glibc's libraries, those of its compiler, zlib: what bundle and wheel leave to the system.
LEFT_TO_THE_SYSTEM = {"libc", "libm", "libpthread", "libdl", "librt", "libstdc++", "libgcc_s", "libz", "linux-vdso",
                      "ld-linux-x86-64", "ld-linux-aarch64"}


def stem(library: str) -> str:
    """`libgrpc-0a1b2c3d.so.29` and `libgrpc.so.29` are both `libgrpc`."""
    return re.split(r"(?:-[0-9a-f]{8})?\.so", library)[0]


def loaded(program: Path) -> dict[str, str]:
    """The path of each library that the program loads, by its name; "" where it is missing."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True,
                            env={"PATH": "/usr/bin:/bin"})
    found = {}
    for line in listed.stdout.splitlines():
        if "statically linked" in line:
            continue
        name, arrow, path = line.strip().partition(" => ")
        path = re.sub(r" \(0x[0-9a-f]+\)$", "", path if arrow else name)
        name = Path(re.sub(r" \(0x[0-9a-f]+\)$", "", name)).name
        found[name] = path if path.startswith("/") else ""
    return found


class BareRoot:
    """Copies of `programs` and of the libraries they load, each at its own path beneath `path`.

    Args:
        path: An empty directory.
        programs: Programs and libraries; a shell is always among them.
        shared: Directories of this machine by their path in the root; /proc and /dev are always among them.
    """

    def __init__(self, path: Path, programs: Iterable[Path], shared: Mapping[str, Path]) -> None:
        self.path = path
        self._shared = {"/proc": Path("/proc"), "/dev": Path("/dev"), **shared}
        for program in [Path("/bin/sh"), *programs]:
            for file in [str(program), *loaded(program).values()]:
                if file:
                    self._copy(Path(file))
        for place in self._shared:
            self._place(place).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def possible() -> bool:
        """Whether this user may make one: root with mount namespaces."""
        tried = subprocess.run(["unshare", "-m", "chroot", "/", "true"], capture_output=True, check=False)
        return tried.returncode == 0

    def run(self, script: str, environment: Mapping[str, str], timeout_seconds: float = 120,
            ) -> subprocess.CompletedProcess[str]:
        """The script by the root's own shell; its mounts end with it."""
        mounts = [f"mount --rbind '{source}' '{self._place(place)}'" for place, source in self._shared.items()]
        outer = " && ".join([*mounts, f'exec chroot "{self.path}" /bin/sh -c "$0"'])
        return subprocess.run(["unshare", "-m", "sh", "-c", outer, script], capture_output=True, text=True,
                              env={**environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, timeout=timeout_seconds,
                              check=False)

    def _place(self, path: str) -> Path:
        return self.path / path.lstrip("/")

    def _copy(self, file: Path) -> None:
        destination = self._place(str(file))
        destination.parent.mkdir(parents=True, exist_ok=True)
        if not destination.exists():
            shutil.copy(file, destination)
