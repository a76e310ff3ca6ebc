"""What this machine allows, measured in the same run as the figures that are held against it."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

DATA = "fio.data"  # beneath the directory measured
_BLOCK = 1 << 20
Options = tuple[str, ...]
WRITES: tuple[Options, ...] = (
    ("--bs=8m", "--iodepth=4"),
    ("--bs=4m", "--iodepth=16"),
    ("--bs=1m", "--iodepth=32"),
)
READS: tuple[Options, ...] = (
    ("--direct=1", "--bs=8m", "--iodepth=4"),
    ("--direct=1", "--bs=8m", "--iodepth=16"),
    ("--direct=1", "--bs=1m", "--iodepth=32"),
    ("--direct=0", "--bs=1m", "--iodepth=1"),
    ("--direct=0", "--bs=8m", "--iodepth=4"),
)


def _fio(directory: Path, size_bytes: int, operation: str, *options: str) -> float:
    """Bytes a second of one fio run over one file beneath `directory`."""
    command = ["fio", "--name=limit", f"--filename={directory}/{DATA}", f"--size={size_bytes}", f"--rw={operation}",
               "--ioengine=io_uring", "--output-format=json", *options]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return float(result["jobs"][0][operation]["bw_bytes"])


def disk_write(directory: Path, size_bytes: int, options: Options = WRITES[0]) -> float:
    """O_DIRECT with a final flush, over what a write before has left, if one has. Leaves the file."""
    return _fio(directory, size_bytes, "write", "--direct=1", "--end_fsync=1", *options)


def new_file_write(directory: Path, size_bytes: int, options: Options) -> float:
    """The same into a file that is not there yet, as every save writes: its space has to be found too."""
    (directory / DATA).unlink(missing_ok=True)
    return disk_write(directory, size_bytes, options)


def best_write(directory: Path, size_bytes: int) -> Options:
    """The size and depth that write new files fastest here. Leaves the file."""
    return max(WRITES, key=lambda options: new_file_write(directory, size_bytes, options))


def disk_read(directory: Path, size_bytes: int) -> float:
    """Cold, of the file that disk_write left: the best of O_DIRECT and buffered readahead over sizes and depths."""
    rates = []
    for options in READS:
        drop_caches()
        rates.append(_fio(directory, size_bytes, "read", *options))
    return max(rates)


def drop_caches() -> None:
    """Empties the page cache (needs root)."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def memory_copy(size_bytes: int, threads: int, *, digest: bool) -> float:
    """Bytes a second of memcpy, and of XXH3-128 over the copy's blocks when asked, on so many threads."""
    source = np.ones(size_bytes // threads, np.uint8)
    targets = [np.ones(size_bytes // threads, np.uint8) for _ in range(threads)]

    def work(target: np.ndarray) -> None:  # type: ignore[type-arg]
        for begin in range(0, target.size, _BLOCK):
            block = target[begin : begin + _BLOCK]
            np.copyto(block, source[begin : begin + _BLOCK])
            if digest:
                xxhash.xxh3_128_digest(block)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, targets))  # the first pass faults the pages in
        begin = time.perf_counter()
        list(pool.map(work, targets))
        return float(size_bytes / (time.perf_counter() - begin))
