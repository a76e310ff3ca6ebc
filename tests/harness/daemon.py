"""A keepstepd of one test's own: its sockets, its state, its log, in one directory."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Where the programs under test are; tests/sanitize.sh names another build of them.
BUILT = Path(os.environ.get("KEEPSTEP_TEST_BIN", REPOSITORY / "bazel-bin"))
KEEPSTEPD = BUILT / "daemon/keepstepd"
KEEPSTEP = BUILT / "client/command/keepstep"
READY = b"ready"


class DaemonFailed(RuntimeError):
    """The daemon ended, or was not ready in time; the message holds the end of its log."""


class Daemon:
    """Starts `keepstepd` beneath `home`, and ends just that process.

    Args:
        home: An existing directory for sockets (short paths: 108 bytes at most), state, root and log.
        arguments: Further flags.
        environment: Added to the daemon's environment.
        wrapper: A command that runs the daemon in its own place (`setpriv`).
        program: Another build of keepstepd.
    """

    def __init__(self, home: Path, *arguments: str, environment: dict[str, str] | None = None,
                 wrapper: Sequence[str] = (), program: Path = KEEPSTEPD) -> None:
        self.home = home
        self.root = home / "root"
        self.log = home / "keepstepd.log"
        self.address = f"unix://{home}/keepstep.sock"
        self.http = ""  # http://127.0.0.1:PORT once started, if it was told to listen
        self._arguments = arguments
        # What the machine's own daemon is told in /etc is no concern of a test's.
        self._environment = {"KEEPSTEP_CONFIG": "/dev/null", **(environment or {})}
        self._wrapper = list(wrapper)
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, timeout_seconds: float = 60.0) -> Daemon:
        """Starts it and returns once it serves."""
        self.root.mkdir(exist_ok=True)
        command = [*self._wrapper, str(self._program), "--socket-dir", str(self.home),
                   "--state-dir", str(self.home / "state"), "--root", str(self.root), *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log,
                                             env={**os.environ, **self._environment})
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_seconds
        line = b""
        while READY not in line:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            chunk = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not chunk:
                self.kill()
                raise DaemonFailed(f"keepstepd was not ready: {self.tail()}")
            line += chunk
        self.http = next((word for word in line.decode().split() if word.startswith("http://")), "")
        return self

    def stop(self, timeout_seconds: float = 60.0) -> int:
        """SIGTERM, which drains; returns the exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonFailed(f"keepstepd did not end on SIGTERM: {self.tail()}") from None
        finally:
            self._close()

    def ended(self, timeout_seconds: float) -> int:
        """Waits until it has ended by itself; returns the exit status."""
        assert self._process is not None, "not started"
        status = self._process.wait(timeout_seconds)
        self._close()
        return status

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def stop_running(self) -> None:
        """SIGSTOP; returns when every thread has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tail(self, lines: int = 20) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def command(self, *arguments: str, timeout_seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs the `keepstep` command against this daemon."""
        return subprocess.run([str(KEEPSTEP), "--address", self.address, *arguments], capture_output=True, text=True,
                              timeout=timeout_seconds, check=False)

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.alive():
            self.stop()
