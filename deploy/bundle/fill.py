"""fill.py [--json] --commit COMMIT WHEEL DIRECTORY: makes the bundle of what was built and the wheel, in DIRECTORY.

    bin/            keepstepd, keepstep
    lib/            libkeepstep.so; beneath keepstep/ the libraries that these three load
    include/        the library's headers
    python/         the wheel
    licences/       of Keepstep and of each library inside
    README, VERSION, SHA256SUMS

What holds:
  1. Programs and libkeepstep find the libraries by a path relative to themselves ($ORIGIN), and so do the libraries each
     other: it is an RPATH, which counts for whatever is loaded on the way, before LD_LIBRARY_PATH.
  2. The libraries have names that no other copy in a trainer's process has: ks-crypto.so.3 for libcrypto.so.3.
  3. What is not inside is in licences.SYSTEM, and all files together have at most LIMIT_BYTES.
  4. The same programs and wheel give the same bytes: files are written in the order of their names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import elf
import licences

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BUILT = REPOSITORY / "bazel-bin"
PROGRAMS = {"bin/keepstep": "client/command/keepstep", "bin/keepstepd": "daemon/keepstepd",
            "lib/libkeepstep.so": "client/libkeepstep.so"}
RPATHS = {"bin": "$ORIGIN/../lib/keepstep", "lib": "$ORIGIN/keepstep"}
HEADERS = ("client/keepstep.h", "client/keepstep.hpp")
LIMIT_BYTES = 60 << 20


def put(source: Path, destination: Path, mode: int = 0o644) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
    destination.chmod(mode)


def own_name(library: str) -> str:
    if not library.startswith("lib"):
        sys.exit(f"bundle: {library} does not begin with lib")
    return f"ks-{library[3:]}"


def lay_out(wheel: Path, folder: Path) -> None:
    """Everything but what `describe` adds."""
    built = [str(BUILT / program) for program in PROGRAMS.values()]
    libraries = sorted(licences.libraries(built))
    names = {library.name: own_name(library.name) for library in libraries}
    for library in libraries:
        put(library, folder / "lib/keepstep" / names[library.name])
        elf.rename(folder / "lib/keepstep" / names[library.name], names)
    for place, program in PROGRAMS.items():
        here = folder / place
        put(BUILT / program, here, 0o755)
        subprocess.run(["strip", "-s", str(here)], check=True)
        elf.rename(here, names)
        rpath = RPATHS[here.parent.name]
        subprocess.run(["patchelf", "--force-rpath", "--set-rpath", rpath, str(here)], check=True)
    for header in HEADERS:
        put(REPOSITORY / header, folder / "include/keepstep" / Path(header).name)
    licences.put(folder / "licences", built)
    put(REPOSITORY / "LICENSE", folder / "licences/keepstep.txt")
    put(wheel, folder / "python" / wheel.name)


def describe(folder: Path, version: str, commit: str, needs: elf.Needs) -> None:
    """README, VERSION and, last, the digests of all."""
    built_on = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    asks = " ".join(f"{family}_{newest}" for family, newest in needs.versions.items())
    (folder / "VERSION").write_text(
        f"{version}\ncommit {commit}\nbuilt on {built_on}, {platform.machine()}\nneeds {asks}\n")
    words = {"VERSION": version, "GLIBC": needs.versions["GLIBC"], "GLIBCXX": needs.versions["GLIBCXX"],
             "LIBRARIES": ", ".join(needs.libraries), "BUILT_ON": built_on}
    text = (HERE / "README.in").read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    (folder / "README").write_text(text)
    for name in ("VERSION", "README"):
        (folder / name).chmod(0o644)
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n" for file in files(folder)]
    (folder / "SHA256SUMS").write_text("".join(sums))
    (folder / "SHA256SUMS").chmod(0o644)


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each part: a folder at the top, or "texts" for the files there."""
    parts: dict[str, int] = {}
    for file in files(folder):
        place = file.relative_to(folder).parts
        part = place[0] if len(place) > 1 else "texts"
        parts[part] = parts.get(part, 0) + file.stat().st_size
    return dict(sorted(parts.items()))


def tell(folder: Path, version: str, needs: elf.Needs, as_json: bool) -> None:
    parts = sizes(folder)
    total = sum(parts.values())
    if as_json:
        json.dump({"folder": str(folder), "version": version, "bytes": total, "limit_bytes": LIMIT_BYTES,
                   "parts": parts, "needs": needs.versions, "system_libraries": needs.libraries}, sys.stdout, indent=1)
        print()
        return
    print(folder)
    for part, size in [*parts.items(), ("all", total)]:
        print(f"bundle: {part:<10} {size / (1 << 20):6.1f} MiB", file=sys.stderr)
    print("bundle: needs", " ".join(f"{family}_{newest}" for family, newest in needs.versions.items()), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="fill.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--commit", required=True)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    version = given.wheel.name.split("-")[1]
    name = f"keepstep-{version}-linux-{platform.machine()}"
    destination = given.directory.resolve() / name
    if destination.exists():
        sys.exit(f"bundle: {destination} is there already; move it away first")
    # Beside its destination, so that a folder of this name is never half a bundle.
    with tempfile.TemporaryDirectory(dir=given.directory, prefix=".keepstep-") as stage:
        folder = Path(stage) / name
        lay_out(given.wheel, folder)
        needs = elf.needs([file for file in files(folder) if elf.is_elf(file)])
        describe(folder, version, given.commit, needs)
        if (total := sum(sizes(folder).values())) > LIMIT_BYTES:
            tell(folder, version, needs, as_json=False)
            sys.exit(f"bundle: {total} bytes, more than the {LIMIT_BYTES} that it may have")
        for place in [folder, *folder.rglob("*/")]:
            place.chmod(0o755)
        folder.rename(destination)
    tell(destination, version, needs, given.json)


if __name__ == "__main__":
    main()
