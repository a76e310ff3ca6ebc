"""Imports PyTorch once, then forks a process for each line that it reads: a rank is there in a moment.

A line is JSON: a module, a function of it and its arguments; the answer is the process id. Nothing has started a
thread by then, and libkeepstep is not loaded. What a child prints goes to the log.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback

import keepstep.torch  # noqa: F401
import torch
import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp

from tests.torch import layouts  # noqa: F401


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if child:
            os.write(answers, f"{child}\n".encode())
            continue
        status = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(answers)
            getattr(importlib.import_module(told["module"]), told["function"])(**told["arguments"])
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    main()
