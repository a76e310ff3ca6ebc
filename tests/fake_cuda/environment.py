"""What makes a process find the fake driver, and how a test sets it up (the variables are explained in options.h)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.harness.daemon import BUILT

LIBRARY = BUILT / "tests/fake_cuda/libcuda.so.1"
MISSING = f"{LIBRARY} is not there: bazel build //tests/fake_cuda:libcuda.so.1, which needs the header of CUDA 13"

_PREFIX = "KEEPSTEP_FAKE_CUDA_"


def _numbers(value: float | Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in ([value] if isinstance(value, float | int) else value))


def environment(*, devices: int = 1, uuids: Sequence[str] = (), counters: Path | None = None,
                memory_bytes: int | None = None, h2d_gbps: float | Sequence[float] = 0,
                d2h_gbps: float | Sequence[float] = 0, d2d_gbps: float | Sequence[float] = 0, copy_us: float = 0,
                host_numa_ids: float | Sequence[float] = -1, off: Sequence[str] = (), dirty: bool = False,
                exclusive: bool = False, faults: Sequence[str] = ()) -> dict[str, str]:
    """Variables to add to a child's environment.

    Args:
        devices: How many GPUs; as many as `uuids`, if there are some.
        uuids: 32 hexadecimal digits each.
        counters: The file for `Counters`; all processes that share it share the GPUs' memory and compute mode.
        memory_bytes: Memory of each GPU.
        h2d_gbps, d2h_gbps, d2d_gbps: Bandwidths, one for all GPUs or one each; 0 is as fast as memory is.
        copy_us: What each copy takes besides, in microseconds.
        host_numa_ids: The NUMA node that each GPU is near; -1 is none.
        off: Of "ipc", "vmm", "posix_fd", "stream_memory_operations", "pools", "host_numa_id", "outliving".
        dirty: New memory holds 0xDB rather than zeroes.
        exclusive: Compute mode EXCLUSIVE_PROCESS.
        faults: Calls that fail, "cuMemAlloc:3:2", "cuStreamSynchronize:1:hang:once".
    """
    path = os.environ.get("LD_LIBRARY_PATH")
    variables = {
        "LD_LIBRARY_PATH": f"{LIBRARY.parent}:{path}" if path else str(LIBRARY.parent),
        f"{_PREFIX}DEVICES": str(len(uuids) or devices),
        f"{_PREFIX}UUIDS": ",".join(uuids),
        f"{_PREFIX}H2D_GBPS": _numbers(h2d_gbps),
        f"{_PREFIX}D2H_GBPS": _numbers(d2h_gbps),
        f"{_PREFIX}D2D_GBPS": _numbers(d2d_gbps),
        f"{_PREFIX}COPY_US": _numbers(copy_us),
        f"{_PREFIX}HOST_NUMA_IDS": _numbers(host_numa_ids),
        f"{_PREFIX}OFF": ",".join(off),
        f"{_PREFIX}DIRTY": "1" if dirty else "",
        f"{_PREFIX}EXCLUSIVE": "1" if exclusive else "",
        f"{_PREFIX}FAULTS": ";".join(faults),
        f"{_PREFIX}COUNTERS": str(counters) if counters else "",
    }
    if memory_bytes is not None:
        variables[f"{_PREFIX}MEMORY_BYTES"] = str(memory_bytes)
    return variables
