"""tests/gpu/run.sh itself, on the fake driver, with a bundle; and where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.gpu.checks import Place, checks
from tests.gpu.installed import of_checkout
from tests.harness.daemon import BUILT, KEEPSTEPD, REPOSITORY, Daemon

on_the_fake = pytest.mark.skipif(not LIBRARY.exists(), reason=MISSING)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(REPOSITORY / "tests/gpu/run.sh"), *arguments], capture_output=True, text=True,
                          check=False, timeout=300, env={**os.environ, **variables})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As much of a bundle as run.sh needs: a daemon, and a wheel with the library inside."""
    folder = tmp_path / "a bundle"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/keepstepd").symlink_to(KEEPSTEPD)
    (folder / "python").mkdir()
    package = REPOSITORY / "client/python"
    with zipfile.ZipFile(folder / "python/keepstep-0-py3-none-any.whl", "w") as wheel:
        for source in sorted(package.glob("keepstep/**/*.py")):
            wheel.write(source, source.relative_to(package))
        wheel.write(BUILT / "client/libkeepstep.so", "keepstep/libkeepstep.so")
    return folder


@on_the_fake
def test_it_checks_and_measures_on_the_fake_driver_and_says_so(bundle: Path, tmp_path: Path) -> None:
    done = run("--fake", "--quick", "--bundle", str(bundle), "--json", str(tmp_path / "told.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["device"]["fake"] and "No figure below is a GPU's" in done.stdout
    assert "the bundle a bundle" in told["keepstep"]
    assert len(told["checks"]) >= 5 and not [check for check in told["checks"] if check["wrong"]]
    assert any("allocation by ipc" in check["note"] for check in told["checks"])
    figures = {line["figure"]: line for line in told["figures"]}
    assert figures["fake GPU: contexts of the daemon"]["value"] == 1
    for name in ("longest save call", "GPU to host, save", "host to GPU, load"):
        assert figures[f"fake GPU, one of 64 MiB: {name}"]["value"] > 0
    assert figures["fake GPU, one of 64 MiB: GPU to host, save"]["target"] == "≥ 0.95 × reference"
    assert "fake GPU: extra time of a step beside a save" in figures
    assert not [name for name in figures if not name.startswith("fake GPU")], "a figure that reads like a GPU's"


def test_without_a_gpu_it_says_why_and_is_content(tmp_path: Path) -> None:
    done = run("--json", str(tmp_path / "told.json"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0 and done.stdout.startswith("skipped: no GPU: "), done.stdout + done.stderr
    assert json.loads((tmp_path / "told.json").read_text())["skipped"].startswith("no GPU: ")


@on_the_fake
def test_a_check_can_fail(home: Path) -> None:
    """Copies that the driver refuses: every round trip is wrong, and says by what."""
    variables = environment(faults=["cuMemcpyDtoHAsync:*:1"])
    with Daemon(home, "--gpu", "on", environment=variables) as daemon:
        place = Place(daemon, of_checkout(), variables, daemon.root)
        found = list(checks(place, quick=True, torch_device=""))
    assert all(check.wrong for check in found), found
    assert any("GPU-" in check.wrong for check in found), found
