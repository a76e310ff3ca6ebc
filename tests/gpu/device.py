"""Which GPU a process finds: `python -m tests.gpu.device` prints it as JSON. Run as a child: a context costs memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.gpu.setting import SOURCES, child_environment


@dataclass(frozen=True)
class Device:
    """`missing` says why there is none; the rest is then empty."""

    missing: str = ""
    name: str = ""
    uuid: str = ""
    driver: str = ""
    count: int = 0
    fake: bool = False

    def __str__(self) -> str:
        if self.missing:
            return f"no GPU: {self.missing}"
        if self.fake:
            return f"the fake driver of tests/fake_cuda ({self.driver}). No figure below is a GPU's"
        return f"a real GPU: {self.name}, GPU-{self.uuid}, {self.driver}; {self.count} in this machine"


def look() -> Device:
    """In this process."""
    try:
        from tests.fake_cuda.cuda import CudaError, Gpu, device_count, driver_version
    except ImportError as error:
        return Device(missing=str(error))
    try:
        count = device_count()
        if count == 0:
            return Device(missing="the driver shows no device")
        gpu = Gpu()
        version = driver_version()
        return Device(name=gpu.name, uuid=gpu.uuid.hex(), count=count, fake=gpu.name.startswith("Keepstep fake"),
                      driver=f"driver for CUDA {version // 1000}.{version % 1000 // 10}, {kernel_driver()}")
    except (OSError, CudaError) as error:
        return Device(missing=str(error))


def kernel_driver() -> str:
    """The version of NVIDIA's kernel module, as it tells it."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "no NVIDIA kernel module"
    return next((word for word in first.split() if word[0].isdigit() and "." in word), first)


def found(variables: dict[str, str]) -> Device:
    """What a child with these variables finds."""
    done = subprocess.run([sys.executable, "-m", "tests.gpu.device"], cwd=SOURCES, capture_output=True, text=True,
                          check=False, env=child_environment(variables, SOURCES))
    if done.returncode:
        return Device(missing=f"looking for one ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return Device(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(look())))
