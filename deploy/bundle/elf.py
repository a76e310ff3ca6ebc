"""Program files of the bundle: what they ask of the system that runs them, and other names for the libraries inside."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection
from licences import SYSTEM

VERSION = re.compile(r"([A-Z]+)_(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Needs:
    versions: dict[str, str]  # the newest of each family: {"GLIBC": "2.34", …}
    libraries: list[str]      # names of the system's libraries


def is_elf(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"\x7fELF"


def newer(one: str, other: str) -> str:
    return max(one, other, key=lambda version: [int(number) for number in version.split(".")])


def needs(files: list[Path]) -> Needs:
    """Of all files together. Ends the program where one asks for a library that is neither among them nor in SYSTEM."""
    inside = {file.name for file in files}
    versions: dict[str, str] = {}
    libraries: set[str] = set()
    for file in files:
        with file.open("rb") as opened:
            image = ELFFile(opened)
            for section in image.iter_sections():
                if isinstance(section, DynamicSection):
                    outside = {tag.needed for tag in section.iter_tags("DT_NEEDED")} - inside
                    if missing := [name for name in sorted(outside) if not SYSTEM.fullmatch(name)]:
                        sys.exit(f"bundle: {file.name} needs {', '.join(missing)}, which is not inside")
                    libraries |= outside
                if isinstance(section, GNUVerNeedSection):
                    for library, symbols in section.iter_versions():
                        for symbol in symbols if library.name not in inside else ():
                            if known := VERSION.fullmatch(symbol.name):
                                family, version = known.groups()
                                versions[family] = newer(versions.get(family, version), version)
    return Needs(dict(sorted(versions.items())), sorted(libraries))


def rename(file: Path, names: dict[str, str]) -> None:
    """Writes libraries' new names over the old ones, of the same length, wherever the file names itself or what it loads.

    In place, so that no byte is added: patchelf would leave the old table of strings in the file and write it anew for
    each change, a quarter of a large C++ library. Ends the program where a symbol's name shares the changed bytes.
    """
    with file.open("r+b") as opened:
        image = ELFFile(opened)
        table = image.get_section_by_name(".dynstr")
        symbols = image.get_section_by_name(".dynsym")
        assert isinstance(symbols, SymbolTableSection)
        used = {symbol.entry.st_name for symbol in symbols.iter_symbols()}
        changes = {offset: names[name] for offset, name in library_names(image) if name in names}
        for offset, name in changes.items():
            old = table.get_string(offset)
            assert len(name) == len(old), f"{old} and {name} differ in length"
            differs = [offset + i for i, (one, other) in enumerate(zip(old, name, strict=True)) if one != other]
            if used & set(range(offset, max(differs) + 1)):
                sys.exit(f"bundle: in {file.name} a symbol's name lies in that of {old}")
            opened.seek(table["sh_offset"] + offset)
            opened.write(name.encode())


def library_names(image: ELFFile) -> Iterator[tuple[int, str]]:
    """Each place in the table of strings where the file has a library's name, its own too."""
    for section in image.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag in ("DT_NEEDED", "DT_SONAME"):
                    yield tag.entry.d_val, getattr(tag, "needed", None) or tag.soname
        elif isinstance(section, GNUVerNeedSection):
            for library, _ in section.iter_versions():
                yield library.entry.vn_file, library.name
