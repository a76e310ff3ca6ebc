"""A service manager's side of systemd's notification protocol: a datagram socket whose messages are read one by one."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

Message = dict[str, str]


class NotifyListener:
    def __init__(self, home: Path, watchdog_seconds: float) -> None:
        self.path = home / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self.environment = {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))}

    def receive(self, timeout_seconds: float = 20.0) -> Message | None:
        """The next message as a dictionary; None after the time-out."""
        self._socket.settimeout(timeout_seconds)
        try:
            text = self._socket.recv(4096).decode()
        except TimeoutError:
            return None
        return dict(line.split("=", 1) for line in text.splitlines())

    def until(self, wanted: Callable[[Message], bool], timeout_seconds: float = 30.0) -> Message:
        """The first message that is wanted; those before it are dropped. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_seconds
        last: Message | None = None
        while (left := deadline - time.monotonic()) > 0:
            message = self.receive(left)
            if message is not None and wanted(message):
                return message
            last = message or last
        raise TimeoutError(f"the last message was {last}")

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> NotifyListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
