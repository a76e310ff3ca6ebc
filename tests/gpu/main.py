"""What tests/gpu/run.sh runs: finds the GPU, checks, measures, tells."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.bench.machine import machine
from tests.bench.row import Row, table
from tests.fake_cuda.environment import LIBRARY, MISSING, environment
from tests.gpu.checks import Check, Place, checks
from tests.gpu.device import Device, found
from tests.gpu.figures import FULL, QUICK, figures
from tests.gpu.installed import Installed, find
from tests.harness.daemon import Daemon

FAKE_GBPS, FAKE_COPY_US, FAKE_D2D_GBPS = 2.0, 2.0, 20.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__)
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="what deploy/bundle.sh has made (default: what "
                        "this checkout has built, else the newest bundle beneath dist)")
    parser.add_argument("--fake", action="store_true", help=f"on the fake driver, at {FAKE_GBPS:g} GB/s")
    parser.add_argument("--quick", action="store_true", help="small and few: seconds")
    parser.add_argument("--only", choices=["checks", "figures"], help="half of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it all there too")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where checkpoints go for the time of the run "
                        "(default: a temporary directory)")
    return parser.parse_args()


def torch_device(device: Device) -> str:
    """Where PyTorch's cases run: "" without PyTorch, or where it has no CUDA on a real GPU."""
    look = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    if done.returncode:
        return ""
    has = done.stdout.strip()
    return "cpu" if device.fake else "cuda" if has == "cuda" else ""


def say_check(check: Check) -> None:
    note = f" ({check.note})" if check.note else ""
    print(f"  {'WRONG' if check.wrong else 'right'}  {check.name}{note}", flush=True)
    if check.wrong:
        print(f"         {check.wrong}", flush=True)


class Run:
    """One run of it all on one device."""

    def __init__(self, given: argparse.Namespace, device: Device, installed: Installed, variables: dict[str, str],
                 home: Path) -> None:
        self._given = given
        self._device = device
        self._installed = installed
        self._variables = variables
        self._home = home

    def _daemon(self, name: str) -> Daemon:
        home = self._home / name
        home.mkdir()
        return Daemon(home, "--gpu", "on", environment=self._variables, program=self._installed.daemon)

    def checks(self) -> list[Check]:
        torch = torch_device(self._device)
        words = {"": "PyTorch is not looked at: it is not here, or has no CUDA.",
                 "cpu": "PyTorch's cases run on CPU tensors: the fake driver has no kernels.", "cuda": ""}[torch]
        print("\nBit for bit, against copies on the host:" + (f" ({words})" if words else ""))
        out = []
        with self._daemon("checks") as daemon:
            place = Place(daemon, self._installed, self._variables, daemon.root)
            for check in checks(place, quick=self._given.quick, torch_device=torch):
                say_check(check)
                out.append(check)
        return out

    def figures(self) -> list[Row]:
        where = "fake GPU" if self._device.fake else "GPU"
        with self._daemon("figures") as daemon:
            rows = list(figures(daemon, self._installed, self._variables, daemon.root / "job",
                                scale=QUICK if self._given.quick else FULL, where=where))
        print("\n" + table(rows))
        return rows


def main() -> int:
    given = arguments()
    variables: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ks-", dir=given.directory) as stage:
        home = Path(stage)
        if given.fake:
            if not LIBRARY.exists():
                print(f"skipped: {MISSING}")
                return 0
            variables = environment(d2h_gbps=FAKE_GBPS, h2d_gbps=FAKE_GBPS, d2d_gbps=FAKE_D2D_GBPS,
                                    copy_us=FAKE_COPY_US, counters=home / "cuda-counters")
        device = found(variables)
        if device.missing:
            print(f"skipped: {device}")
            if given.json:
                given.json.write_text(json.dumps({"skipped": str(device)}, indent=2))
            return 0
        installed = find(given.bundle, home)
        print(f"On {device}.\n{machine()}, load {os.getloadavg()[0]:.1f}\nKeepstep: {installed.version}")
        run = Run(given, device, installed, variables, home)
        checked = run.checks() if given.only != "figures" else []
        measured = run.figures() if given.only != "checks" else []
        if given.json:
            given.json.write_text(json.dumps({
                "device": asdict(device), "machine": machine(), "keepstep": installed.version,
                "checks": [asdict(check) for check in checked], "figures": [asdict(line) for line in measured],
            }, indent=2, ensure_ascii=False))
        wrong = [check for check in checked if check.wrong]
        if checked:
            print(f"\n{len(checked) - len(wrong)} of {len(checked)} checks were right, on {device}.")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
