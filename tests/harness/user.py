"""A user for whom no daemon runs: what a program starts in this environment is its own, and is found again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.daemon import KEEPSTEP, KEEPSTEPD, REPOSITORY

GONE_SECONDS = 30.0


class User:
    """The environment of a user for whom no daemon runs, and the daemons that were started in it."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.log = home / "state/keepstepd.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KEEPSTEP_A")}
        self.environment = {**kept, "PYTHONPATH": str(REPOSITORY / "client/python"), "XDG_RUNTIME_DIR": str(home),
                            "KEEPSTEP_CONFIG": "/dev/null", "KEEPSTEP_STATE_DIR": str(home / "state"),
                            "KEEPSTEP_COMMAND": str(KEEPSTEP), "KEEPSTEPD": str(KEEPSTEPD), **settings}

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], env=self.environment,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                cwd=REPOSITORY)

    def daemons(self, folder: Path | None = None) -> list[int]:
        """Pids of those whose sockets are in the folder."""
        wanted = b"--socket-dir\0" + os.fsencode(folder or self.home / "keepstep") + b"\0"
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has just ended
        return found

    def kill_daemons(self) -> None:
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)

    def await_end(self, pid: int) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while pid in self.daemons():
            assert time.monotonic() < deadline, f"keepstepd {pid} still runs"
            time.sleep(0.02)
