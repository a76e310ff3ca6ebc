"""The ctypes structs against client/keepstep.h itself: a compiler says where every field lies."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from keepstep import _ffi

HEADER = Path(__file__).resolve().parents[2] / "keepstep.h"
STRUCTS = {
    "ks_error": _ffi.Error, "ks_open_options": _ffi.OpenOptions, "ks_placement": _ffi.Placement, "ks_box": _ffi.Box,
    "ks_shard": _ffi.Shard, "ks_extra": _ffi.Extra, "ks_save_options": _ffi.SaveOptions,
    "ks_save_status": _ffi.SaveStatus, "ks_load_options": _ffi.LoadOptions, "ks_load_report": _ffi.LoadReport,
    "ks_info": _ffi.Info,
}  # fmt: skip
CONSTANTS = {
    "KS_ABI_VERSION": _ffi.ABI_VERSION, "KS_DEADLINE_EXCEEDED": _ffi.DEADLINE_EXCEEDED, "KS_READ": _ffi.READ,
    "KS_PLACED": _ffi.PLACED, "KS_FLAT": _ffi.FLAT, "KS_SUPERSEDE": _ffi.ON_BUSY["supersede"],
    "KS_TRANSFER_WINDOW": _ffi.TRANSFERS["window"], "KS_EXTRA": _ffi.COMPONENTS["extra"],
    "KS_FAILED": _ffi.STATES.index("FAILED"), "KS_COMMITTED": _ffi.COMMITTED, "KS_SNAPSHOTTED": _ffi.SNAPSHOTTED,
}  # fmt: skip


def expected() -> dict[str, int]:
    told = dict(CONSTANTS)
    for name, struct in STRUCTS.items():
        told[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            told[f"offsetof({name}, {field})"] = getattr(struct, field).offset
    return told


# A field added to the header and not here would make the library read garbage.
def test_every_field_lies_where_the_header_says(tmp_path: Path) -> None:
    names = list(expected())
    prints = "\n".join(f'  printf("%ld\\n", (long)({name}));' for name in names)
    source = tmp_path / "layout.c"
    source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{\n{prints}\n  return 0;\n}}\n')
    subprocess.run(["cc", "-o", str(tmp_path / "layout"), str(source)], check=True)
    told = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout.split()
    assert dict(zip(names, map(int, told), strict=True)) == expected()


def test_every_function_of_the_header_has_a_prototype() -> None:
    lines = [line for line in HEADER.read_text().splitlines() if line.startswith("KS_API ")]
    assert {line.split("(")[0].split()[-1].lstrip("*") for line in lines} == set(_ffi._PROTOTYPES)
