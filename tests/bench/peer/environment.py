"""The Python that peers run in: .venv's packages, and beside them what peer/requirements.txt lists."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.harness.daemon import REPOSITORY

HOME = REPOSITORY / ".venv-peers"
PYTHON = HOME / "bin/python"
_LIST = Path(__file__).with_name("requirements.txt")
_NAMES = ("torch", "numpy", "safetensors", "bytecheckpoint", "torch-checkpointing", "megatron-core", "orbax-checkpoint",
          "jax")


def prepare() -> dict[str, str]:
    """Installs what is missing; returns what could not be installed, with the reason."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
        [packages] = HOME.glob("lib/python3*/site-packages")
        (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    failed = {}
    for line in _LIST.read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        stamp = HOME / f"installed-{words[-1]}"
        if stamp.exists():
            continue
        options = ["--no-deps"] if words[0] == "nodeps" else []
        print(f"peers: installing {words[-1]}", file=sys.stderr)
        done = subprocess.run([str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", *options,
                               words[-1]], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            stamp.touch()
        else:
            errors = [text for text in done.stderr.splitlines() if text.startswith("ERROR")]
            failed[words[-1]] = (errors or done.stderr.splitlines())[-1]
    return failed


def versions() -> dict[str, str]:
    program = ("import json, importlib.metadata as m\nout = {}\n"
               f"for name in {_NAMES!r}:\n"
               "    try: out[name] = m.version(name)\n"
               "    except m.PackageNotFoundError: pass\n"
               "print(json.dumps(out))")
    listed = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(listed))
