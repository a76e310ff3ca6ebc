"""A torch world of a few processes that stays up while many cases run in it: torch takes seconds to import.

A case is a function of one module, called on every rank at once with the same arguments; what it returns, or a line
about what it raised, comes back rank by rank.
"""

from __future__ import annotations

import faulthandler
import importlib
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch.multiprocessing as mp

from tests.harness.daemon import REPOSITORY

_ANSWER_SECONDS = 40.0


class Ranks:
    """Use as a context; `run` may be called any number of times."""

    def __init__(self, size: int, module: str = "tests.torch_dcp.cases") -> None:
        self.size = size
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = mp.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, port, module, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, case: str, *arguments: Any) -> list[Any]:
        """What the case returned on each rank. AssertionError: it raised somewhere, with every traceback."""
        for pipe in self._pipes:
            pipe.send((case, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(_ANSWER_SECONDS):
                raise AssertionError(f"{case}: rank {rank} did not answer")
            answers.append(pipe.recv())
        failed = [f"rank {rank}: {text}" for rank, (good, text) in enumerate(answers) if not good]
        assert not failed, f"{case}\n" + "\n".join(failed)
        return [value for _, value in answers]

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(rank: int, size: int, port: int, cases: str, pipe: Connection) -> None:
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "client/python")]
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    module = importlib.import_module(cases)
    while True:
        try:
            case, arguments = pipe.recv()
        except (EOFError, OSError):
            break
        faulthandler.dump_traceback_later(_ANSWER_SECONDS - 10)  # says where a case hangs
        try:
            pipe.send((True, getattr(module, case)(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()
