"""The bundle: moved to a path with spaces, in a root file system that has none of the libraries inside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keepstep
import pytest

from tests.harness.daemon import BUILT, REPOSITORY
from tests.operations.bare_root import LEFT_TO_THE_SYSTEM, BareRoot, loaded, stem

LIMIT_BYTES = 60 << 20
# Ubuntu 22.04: glibc 2.35, and GCC 12's libstdc++ and libgcc.
UBUNTU_22_04 = {"GLIBC": "2.35", "GLIBCXX": "3.4.30", "CXXABI": "1.3.13", "GCC": "12.0.0", "ZLIB": "1.2.9"}

USE = """
import sys
import numpy as np
import keepstep
w = np.arange(100_000, dtype=np.float32)
with keepstep.Checkpointer(sys.argv[1], rank=0, world_size=1, daemon="system") as ck:
    ck.register(model={"w": w})
    ck.save(7).result(60)
    w[:] = 0
    assert ck.load() == 7 and w[-1] == 99_999
print("used")
"""

PROGRAM = """
#include <keepstep/keepstep.hpp>
#include <cstdio>
int main() {
  keepstep::Checkpointer checkpointer;
  const keepstep::Error error = checkpointer.Open(keepstep::OpenOptions("/nowhere"));
  std::printf("ABI %d, %s\\n", static_cast<int>(ks_abi_version()), error ? error.reason : "open");
}
"""


@dataclass(frozen=True)
class Bundle:
    folder: Path
    said: dict[str, Any]  # what bundle.sh printed

    def files(self) -> list[Path]:
        return sorted(file for file in self.folder.rglob("*") if file.is_file())

    def programs(self) -> list[Path]:
        """What a user starts or loads."""
        return [*sorted((self.folder / "bin").iterdir()), self.folder / "lib/libkeepstep.so"]

    def images(self) -> list[Path]:
        """Every file that the loader maps."""
        return [file for file in self.files() if file.read_bytes()[:4] == b"\x7fELF"]


@pytest.fixture(scope="module")
def bundle(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle")
    done = subprocess.run([str(REPOSITORY / "deploy/bundle.sh"), "--built", "--wheel", str(wheel), "--json", str(out)],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    [folder] = out.iterdir()
    assert said["folder"] == str(folder)
    return Bundle(folder.rename(out / "moved with spaces"), said)


@pytest.fixture(scope="module")
def root(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> BareRoot:
    """The bundle at "/opt/some where", a Python with NumPy and the bundle's wheel, the libraries of every system."""
    if not BareRoot.possible():
        pytest.skip("mount namespaces need root")
    packages = tmp_path_factory.mktemp("packages")
    [wheel] = (bundle.folder / "python").iterdir()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(packages),
                    str(wheel)], check=True, capture_output=True)
    shared = {"/opt/some where": bundle.folder, "/packages": packages, "/home": tmp_path_factory.mktemp("home")}
    for name in ("numpy", "numpy.libs"):
        (packages / name).mkdir()
        shared[f"/packages/{name}"] = Path(sysconfig.get_path("platlib")) / name
    library = sysconfig.get_path("stdlib")
    python = Path(sys.executable).resolve()
    [ctypes] = Path(library, "lib-dynload").glob("_ctypes.*.so")
    base = [Path(path) for program in bundle.programs() for name, path in loaded(program).items()
            if stem(name) in LEFT_TO_THE_SYSTEM and path]
    return BareRoot(tmp_path_factory.mktemp("root"), [python, ctypes, *sorted(set(base))],
                    {**shared, library: Path(library)})


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def asked(programs: list[Path]) -> dict[str, str]:
    """The newest version of each family of symbols that the programs ask of the system's libraries."""
    listed = subprocess.run(["readelf", "-V", *map(str, programs)], capture_output=True, text=True, check=True).stdout
    newest: dict[str, str] = {}
    of_system = False
    for line in listed.splitlines():
        if needed := re.search(r"Version: \d+  File: (\S+)", line):
            of_system = stem(needed[1]) in LEFT_TO_THE_SYSTEM
        elif (name := re.search(r"Name: ([A-Z]+)_([\d.]+)  Flags", line)) and of_system:
            newest[name[1]] = max(newest.get(name[1], "0"), name[2], key=number)
    return newest


def test_it_holds_what_it_says(bundle: Bundle) -> None:
    names = {str(file.relative_to(bundle.folder)) for file in bundle.files()}
    assert {"README", "VERSION", "SHA256SUMS", "bin/keepstepd", "bin/keepstep", "lib/libkeepstep.so",
            "include/keepstep/keepstep.h", "include/keepstep/keepstep.hpp", "licences/keepstep.txt"} <= names
    [wheel] = (bundle.folder / "python").iterdir()
    assert wheel.name.startswith(f"keepstep-{keepstep.__version__}-py3-none-manylinux")
    assert (bundle.folder / "VERSION").read_text().splitlines()[0] == bundle.said["version"] == keepstep.__version__
    assert "@" not in (bundle.folder / "README").read_text()
    for library in ("libgrpc", "librocksdb", "libabsl", "libssl"):
        assert [text for text in (bundle.folder / "licences").iterdir() if text.name.startswith(library)], library
    assert not [file for file in bundle.folder.rglob("*") if file.is_symlink()]
    sums = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=bundle.folder, check=False)
    listed = (bundle.folder / "SHA256SUMS").read_text().splitlines()
    assert sums.returncode == 0 and {line[66:] for line in listed} == names - {"SHA256SUMS"}
    size = sum(file.stat().st_size for file in bundle.files())
    assert size == bundle.said["bytes"] == sum(bundle.said["parts"].values())
    assert size < LIMIT_BYTES == bundle.said["limit_bytes"]
    print(f"bundle: {size / (1 << 20):.1f} MiB, {len(names)} files")


def test_what_it_loads_is_inside_or_on_every_system(bundle: Bundle) -> None:
    libraries = bundle.folder / "lib/keepstep"
    inside, of_system = set(), set()
    for program in bundle.programs():
        for name, path in loaded(program).items():
            if stem(name) in LEFT_TO_THE_SYSTEM:
                of_system.add(name)
            else:
                assert os.path.realpath(path) == str(libraries / name), f"{program.name}: {name} is {path}"
                inside.add(name)
    assert inside == {file.name for file in libraries.iterdir()}
    assert set(bundle.said["system_libraries"]) == of_system - {"linux-vdso.so.1"}


def test_no_path_leads_out_and_no_name_is_another_librarys(bundle: Bundle) -> None:
    for image in bundle.images():
        dynamic = subprocess.run(["readelf", "-Wd", str(image)], capture_output=True, text=True, check=True).stdout
        paths = re.findall(r"\(RPATH\).*\[(.*)\]", dynamic)
        # A library with a RUNPATH of its own would not look where its program's RPATH leads.
        assert "(RUNPATH)" not in dynamic and len(paths) == (image in bundle.programs()), image
        for path in paths:
            place = os.path.normpath(path.replace("$ORIGIN", str(image.parent)))
            assert path.startswith("$ORIGIN/") and place == str(bundle.folder / "lib/keepstep"), f"{image}: {path}"
        for name in re.findall(r"\(SONAME\).*\[(.*)\]", dynamic):
            assert name == image.name and (name.startswith("ks-") or name == "libkeepstep.so"), image


def test_it_asks_for_no_newer_system_than_it_says(bundle: Bundle) -> None:
    newest = asked(bundle.images())
    assert newest == bundle.said["needs"]
    needs = next(line for line in (bundle.folder / "VERSION").read_text().splitlines() if line.startswith("needs "))
    assert needs.split()[1:] == [f"{family}_{version}" for family, version in sorted(newest.items())]
    if "bookworm" not in Path("/etc/os-release").read_text():
        return  # another release's libraries ask for its own
    assert not {family: version for family, version in newest.items()
                if number(version) > number(UBUNTU_22_04[family])}
    page = (REPOSITORY / "docs/install.md").read_text()
    for family, version in newest.items():
        assert f"`{family}_{version}`" in page, f"docs/install.md does not name {family}_{version}"


def test_a_program_in_cpp_is_built_with_it(bundle: Bundle, home: Path) -> None:
    (home / "program.cc").write_text(PROGRAM)
    subprocess.run(["g++", "-std=c++17", f"-I{bundle.folder}/include", "program.cc", f"-L{bundle.folder}/lib",
                    "-lkeepstep", f"-Wl,-rpath,{bundle.folder}/lib", "-o", "program"], cwd=home, check=True)
    done = subprocess.run([str(home / "program")], env={"KEEPSTEP_ADDR": f"unix://{home}/nobody.sock"},
                          capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"ABI [1-9]\d*, [A-Z_]+\n", done.stdout), done.stdout


def test_it_runs_where_nothing_was_installed(bundle: Bundle, root: BareRoot) -> None:
    environment = {"HOME": "/home", "XDG_RUNTIME_DIR": "/home", "KEEPSTEP_CONFIG": "/dev/null",
                   "PYTHONPATH": "/packages", "KEEPSTEP_ADDR": "unix:///home/keepstep.sock", "LANG": "C.UTF-8"}
    python = f"'{Path(sys.executable).resolve()}' -S"
    script = f"""
cd '/opt/some where/bin' || exit 1
set -e
./keepstepd --version
./keepstepd --check
./keepstepd --print-config >/home/config
./keepstep up -- --state-dir /home/state --root /home
ended() {{ ./keepstep down; }}
trap ended EXIT
./keepstep doctor
{python} -c '{USE}' /home/wheel
export KEEPSTEP_LIBRARY='/opt/some where/lib/libkeepstep.so'
{python} -c '{USE}' /home/bundle
./keepstep verify /home/wheel/7
./keepstep verify /home/bundle/7
"""
    done = root.run(script, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{keepstep.__version__}\n"), done.stdout
    assert done.stdout.splitlines().count("used") == 2 and "is down" in done.stdout, done.stdout


def test_the_root_has_none_of_its_libraries(root: BareRoot) -> None:
    done = root.run(f"'{BUILT.resolve()}/daemon/keepstepd' --version", {})
    assert done.returncode == 127, "nothing of the machine is seen in it"
    names = {stem(file.name) for file in root.path.rglob("*.so*")}
    assert not names & {"libgrpc", "libprotobuf", "librocksdb", "libcrypto", "libxxhash"}
