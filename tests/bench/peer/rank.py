"""One rank of one library: does what its standard input says, answers each line with a line of JSON.

    steps COUNT               → seconds of each step, with no save
    save DIRECTORY COUNT      a save with so many steps after it → call, gate, steps, durable: seconds
    reference COUNT           steps beside one thread that copies and digests as much as a save → steps
    digest | zero | io        → of the state; of this process
    settle                    waits until a load can begin at once
    load DIRECTORY            → seconds
What fails is answered with {"error": ...}: the rank is then of no further use.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import resource
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch.distributed.device_mesh import init_device_mesh

from tests.bench.peer.api import ENTRIES, Entry, Peer
from tests.bench.peer.files import flush
from tests.bench.peer.workload import Compute, Trained, step, workload


class Rank:
    def __init__(self, entry: Entry, peer: Peer, trained: Trained, compute: Compute) -> None:
        self.entry, self.peer, self.trained, self.compute = entry, peer, trained, compute

    def steps(self, count: int) -> dict[str, Any]:
        return {"steps": [step(self.trained, self.compute, lambda: None)[0] for _ in range(count)]}

    def save(self, directory: Path, count: int) -> dict[str, Any]:
        dist.barrier()
        begin = time.perf_counter()
        self.peer.save(directory)
        call = time.perf_counter() - begin
        took = [step(self.trained, self.compute, self.peer.before_update) for _ in range(count)]
        self.peer.wait()
        if not self.entry.flushes and self.trained.rank == 0:
            flush(directory)
        dist.barrier()
        return {"call": call, "gate": sum(waited for _, waited in took), "steps": [whole for whole, _ in took],
                "durable": time.perf_counter() - begin}

    def reference(self, count: int) -> dict[str, Any]:
        """The least that a save in the background costs a machine whose cores are all busy.

        What it copied to is given back to the system: it counts for no library's memory.
        """
        sources = list(self.trained.named().values())
        targets = [torch.empty_like(source) for source in sources]
        dist.barrier()

        def copy() -> None:
            for source, target in zip(sources, targets, strict=True):
                target.copy_(source)
                xxhash.xxh3_128_digest(target.view(torch.uint8).numpy())

        thread = threading.Thread(target=copy)
        thread.start()
        answer = self.steps(count)
        thread.join()
        targets.clear()
        ctypes.CDLL(None).malloc_trim(0)
        return answer

    def load(self, directory: Path) -> dict[str, Any]:
        dist.barrier()
        begin = time.perf_counter()
        self.peer.load(directory)
        dist.barrier()
        return {"seconds": time.perf_counter() - begin}

    def answer(self, words: list[str]) -> dict[str, Any]:
        match words:
            case ["steps", count]:
                return self.steps(int(count))
            case ["save", directory, count]:
                return self.save(Path(directory), int(count))
            case ["reference", count]:
                return self.reference(int(count))
            case ["load", directory]:
                return self.load(Path(directory))
            case ["digest"]:
                return {"digest": self.trained.digest()}
            case ["settle"]:
                getattr(self.peer, "settle", lambda: None)()
                return {}
            case ["zero"]:
                self.trained.zero()
                return {}
            case ["io"]:
                fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
                return {"read_bytes": int(fields["read_bytes"])}
        raise ValueError(words)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=ENTRIES)
    parser.add_argument("workload")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--rendezvous", required=True)
    parser.add_argument("--address", default="")
    arguments = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ |= {"RANK": str(arguments.rank), "WORLD_SIZE": str(arguments.world), "LOCAL_RANK": str(arguments.rank),
                   "LOCAL_WORLD_SIZE": str(arguments.world), "MASTER_ADDR": "127.0.0.1"}
    host, port = arguments.rendezvous.split(":")
    os.environ["MASTER_PORT"] = port
    dist.init_process_group("gloo", init_method=f"tcp://{host}:{port}", rank=arguments.rank,
                            world_size=arguments.world, timeout=timedelta(seconds=300))
    shape = workload(arguments.workload, arguments.quick)
    mesh = init_device_mesh("cpu", (arguments.world,)) if shape.world > 1 else None
    entry = ENTRIES[arguments.peer]
    try:
        trained = Trained(shape, mesh, arguments.rank, arguments.world)
        rank = Rank(entry, entry.build(trained, arguments.address), trained, Compute(shape.compute_seconds))
        print(json.dumps({"tensors": len(trained.named())}), file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(rank.answer(line.split())), file=out, flush=True)
        rank.peer.close()
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:400]}), file=out, flush=True)
        os._exit(1)
    os._exit(0)  # some leave threads behind that never end


if __name__ == "__main__":
    main()
