"""Run by test_errors in a mount namespace: fills a small file system by saving, and checks what is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keepstep
import numpy as np

from tests.harness.daemon import Daemon

DISK_BYTES = 64 << 20


def main(home: Path) -> None:
    disk = home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
    value = np.arange(10 << 20, dtype=np.uint32)  # 40 MiB
    with Daemon(home) as daemon:
        with keepstep.Checkpointer(
            disk / "job", daemon=daemon.address, rank=0, world_size=1, rng=False
        ) as checkpointer:
            checkpointer.register(model={"value": value})
            checkpointer.save(1).result(60)
            used = disk_used(disk)
            checkpointer.before_update()
            value += 1
            try:
                checkpointer.save(2).result(60)
            except keepstep.KeepstepError as error:
                assert error.code == "RESOURCE_EXHAUSTED", (error.code, error)
                assert "space" in str(error).lower(), error
            else:
                raise AssertionError("the second save cannot fit")
            assert disk_used(disk) <= used + (1 << 20), "the failed attempt's space did not come back"
        assert daemon.alive()
        checkpoint = keepstep.open(disk / "job")
        assert checkpoint.step == 1
        assert np.array_equal(checkpoint.tensor("value")[:], value - 1)
    print("ok")


def disk_used(disk: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in disk.rglob("*") if file.is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
