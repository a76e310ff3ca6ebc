"""licences.py DESTINATION PROGRAM…: the licences of the libraries that the programs load, as their packages state them.

One file a Debian package. What the system itself has (SYSTEM), so that wheel and bundle do not hold it, is left out.
Fails where a library belongs to no package: nobody could say under which terms it is passed on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

# On every Debian and Ubuntu system: glibc's libraries, those of its compiler, zlib. auditwheel leaves these outside.
SYSTEM = re.compile(r"(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libz)\.so\.\d+")


def libraries(programs: list[str]) -> set[Path]:
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    missing = re.findall(r"^\s+(\S+) => not found", listed, re.MULTILINE)
    if missing:
        sys.exit(f"licences: not found: {', '.join(missing)}")
    return {Path(path) for path in re.findall(r"=> (/\S+)", listed) if not SYSTEM.fullmatch(Path(path).name)}


def packages(libraries: set[Path]) -> dict[Path, str]:
    """The package of each."""
    names = {}
    for library in libraries:
        real = library.resolve()
        names |= {str(path): library for path in (library, real, Path("/", *real.parts[2:]))}  # /usr/lib is /lib, too
    answer = subprocess.run(["dpkg-query", "-S", *names], capture_output=True, text=True, check=False).stdout
    found = {names[path]: owner for owner, path in re.findall(r"^([^:,\s]+)[^/\n]*: (/.*)$", answer, re.MULTILINE)}
    if missing := libraries - found.keys():
        sys.exit(f"licences: of no package: {', '.join(map(str, missing))}")
    return found


def put(destination: Path, programs: list[str]) -> None:
    """Writes them into a new directory."""
    destination.mkdir(parents=True)
    for package in sorted(set(packages(libraries(programs)).values())):
        shutil.copyfile(f"/usr/share/doc/{package}/copyright", destination / f"{package}.txt")


if __name__ == "__main__":
    put(Path(sys.argv[1]), sys.argv[2:])
