"""A proxy on a Unix socket between a client and its daemon, which holds the daemon's answers back or cuts them off.

The handoff socket beside it is the daemon's own: its frames carry descriptors, which no proxy passes on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

from tests.harness.daemon import Daemon


class Proxy:
    """Listens in `home`, an existing directory. Use as a context."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.address = f"unix://{home}/keepstep.sock"
        os.symlink(daemon.home / "keepstep-handoff.sock", home / "keepstep-handoff.sock")
        self._target = str(daemon.home / "keepstep.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(home / "keepstep.sock"))
        self._listener.listen()
        self._answers = threading.Event()
        self._answers.set()
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """From now on nothing that the daemon says arrives."""
        self._answers.clear()

    def release(self) -> None:
        """What was held arrives, in order."""
        self._answers.set()

    def cut(self) -> None:
        """Ends every connection; what was held is lost. New ones work."""
        links, self._links = self._links, []
        for link in links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._answers.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._links += [client, server]
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers:
                    self._answers.wait()
                target.sendall(data)
        for link in (source, target):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
