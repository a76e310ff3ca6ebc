"""The wheel, installed in an empty virtual environment on a machine that has none of the libraries in it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import keepstep
import pytest

from tests.harness.daemon import REPOSITORY
from tests.operations.bare_root import LEFT_TO_THE_SYSTEM, loaded, stem
from tests.operations.conftest import PROGRAMS

USE = """
import sys
import numpy as np
import keepstep
assert keepstep.__file__.startswith(sys.prefix), keepstep.__file__
w = np.arange(100_000, dtype=np.float32)
with keepstep.Checkpointer(sys.argv[1], rank=0, world_size=1) as ck:
    ck.register(model={"w": w})
    ck.save(7).result(60)
    w[:] = 0
    assert ck.load() == 7 and w[-1] == 99_999
assert keepstep.open(sys.argv[1]).tensor("w")[3] == 3
print("used")
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the tests' NumPy, and nothing else."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-deps",
                    str(wheel)], check=True, capture_output=True)
    packages = Path(subprocess.run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                                   capture_output=True, text=True, check=True).stdout.strip())
    for name in ("numpy", "numpy.libs"):
        (packages / name).symlink_to(Path(sysconfig.get_path("platlib")) / name)
    return home


def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", REPOSITORY / "deploy/wheel/licences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_says_what_it_is_and_under_which_terms(wheel: Path) -> None:
    assert re.fullmatch(r"keepstep-[\d.]+-py3-none-manylinux_2_\d+_\w+\.whl", wheel.name)
    tools = licences()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        assert Parser().parsestr(archive.read(metadata).decode())["Version"] == keepstep.__version__
    assert {"keepstep/py.typed", "keepstep/torch/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "conftest")) or "__pycache__" in name]
    bundled = {stem(Path(name).name) for name in names if name.startswith("keepstep.libs/")}
    assert {"libgrpc", "libprotobuf", "librocksdb", "libxxhash", "liburing"} <= bundled
    assert not bundled & LEFT_TO_THE_SYSTEM
    texts = {Path(name).stem for name in names if "/licences/" in name}
    assert any(name.endswith("/LICENSE") for name in names)
    for library, package in tools.packages(tools.libraries([str(program) for program in PROGRAMS])).items():
        assert stem(library.name) not in bundled or package in texts, library


def test_what_it_loads_is_its_own(installed: Path) -> None:
    [package] = installed.glob("lib/python3*/site-packages/keepstep")
    for program in [*(package / "bin").iterdir(), package / "libkeepstep.so"]:
        for name, path in loaded(program).items():
            own = str(package.parent) in os.path.realpath(path)
            assert own or stem(name) in LEFT_TO_THE_SYSTEM, f"{name} is {path}"
        assert ".debug_info" not in subprocess.run(["readelf", "-S", str(program)], capture_output=True, text=True,
                                                   check=True).stdout


def test_it_saves_and_loads_where_the_libraries_are_missing(installed: Path, home: Path) -> None:
    hidden = [str(path.resolve()) for path in licences().libraries([str(program) for program in PROGRAMS])
              if stem(path.name) not in LEFT_TO_THE_SYSTEM]
    hide = "".join(f"mount --bind /dev/null {path} && " for path in hidden)
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        hide = ""  # not allowed here; the test above has looked at what is loaded
    environment = {"PATH": f"{installed}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home),
                   "XDG_RUNTIME_DIR": str(home), "KEEPSTEP_STATE_DIR": str(home / "state"),
                   "KEEPSTEP_CONFIG": "/dev/null"}
    script = (f"{hide} python -c '{USE}' {home}/job && keepstep verify {home}/job/7 && keepstepd --version; "
              "result=$?; keepstep down; exit $result")
    command = ["unshare", "-m", "sh", "-c", script] if hide else ["sh", "-c", script]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("used\n") and "is down" in done.stdout, done.stdout
    if hide:
        system = subprocess.run(["unshare", "-m", "sh", "-c", f"{hide} {PROGRAMS[0]} --version"], capture_output=True,
                                text=True, check=False)
        assert system.returncode != 0, "the libraries of the system are really hidden"
