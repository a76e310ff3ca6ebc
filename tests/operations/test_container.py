"""The container recipe, as far as it can be shown without an engine: docs/container.md says what was built and run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.harness.daemon import KEEPSTEP, KEEPSTEPD, REPOSITORY

CONTAINER = REPOSITORY / "deploy/container"
CALLS = {"io_uring_enter", "io_uring_register", "io_uring_setup"}


def allowed(profile: dict[str, list[dict[str, object]]]) -> set[str]:
    """Calls that the profile allows whatever their arguments and capabilities."""
    names: set[str] = set()
    for rule in profile["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args") and not rule.get("includes"):
            assert isinstance(rule["names"], list)
            names |= set(rule["names"])
    return names


def test_the_seccomp_profile_adds_three_calls_and_nothing_else(home: Path) -> None:
    base = {"defaultAction": "SCMP_ACT_ERRNO", "archMap": [], "syscalls": [
        {"names": ["read", "process_vm_readv"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["io_uring_setup", "bpf"], "action": "SCMP_ACT_ERRNO", "args": [], "errnoRet": 1},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    ]}
    file = home / "base.json"
    file.write_text(json.dumps(base))
    made = json.loads(subprocess.run([sys.executable, str(CONTAINER / "seccomp.py"), str(file)], check=True,
                                     capture_output=True, text=True).stdout)
    assert allowed(made) - allowed(base) == CALLS and allowed(base) <= allowed(made)
    assert (made["defaultAction"], made["archMap"]) == ("SCMP_ACT_ERRNO", [])
    refused = [rule["names"] for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO"]
    assert refused == [["bpf"]], "what was refused stays refused"
    page = (REPOSITORY / "docs/container.md").read_text()
    delta = page.split("```json\n")[1].split("```")[0]
    assert json.loads(delta) == made["syscalls"][-1], "the page shows the difference as it is"


def test_the_images_configuration_is_valid() -> None:
    checked = subprocess.run([str(KEEPSTEPD), "--check", "--config", str(CONTAINER / "keepstep.yaml")],
                             capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_image_installs_every_library_that_the_programs_name() -> None:
    listed = {line for line in (CONTAINER / "packages.txt").read_text().splitlines() if not line.startswith("#")}
    named: set[str] = set()
    for program in (KEEPSTEPD, KEEPSTEP):
        dynamic = subprocess.run(["readelf", "-d", str(program)], check=True, capture_output=True, text=True).stdout
        named |= {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    installed = subprocess.run(["dpkg", "-L", *listed], capture_output=True, text=True, check=False).stdout
    paths = subprocess.run(["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
                            "--no-breaks", "--no-replaces", "--no-enhances", *listed], capture_output=True, text=True,
                           check=False).stdout
    packages = {line.strip() for line in paths.splitlines() if line and not line.startswith(" ")} | listed
    owned = subprocess.run(["dpkg", "-L", *sorted(package for package in packages if "<" not in package)],
                           capture_output=True, text=True, check=False).stdout
    files = {Path(line).name for line in (installed + owned).splitlines()}
    assert named <= files, f"deploy/container/packages.txt lacks what brings {sorted(named - files)}"
