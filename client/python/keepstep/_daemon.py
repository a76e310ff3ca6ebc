"""Which daemon a `Checkpointer` talks to, and the start of one where none runs (docs/install.md).

    1. daemon=ADDRESS, or $KEEPSTEP_ADDR: that one. Nothing is started: somebody else looks after it.
    2. "system": the one that listens at a usual place. Nothing is started.
    3. "auto": the same, and if nobody listens `keepstep up --on-demand` starts one for this user. However many ranks
       do so at once, one daemon comes of it: `up` takes a lock. It ends when nobody has needed it for half an hour.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from keepstep import _ffi, _files
from keepstep._client import Client
from keepstep.errors import DaemonUnavailable, KeepstepError

Opened = TypeVar("Opened")
_log = logging.getLogger("keepstep")
_NOBODY = frozenset({"NO_DAEMON", "NO_ACCESS"})  # no daemon, or only one that is not for this user
_ATTEMPTS = 3  # one that answers `up` may end before it is reached
_UP_SECONDS = 180  # `up` has shorter limits of its own
_LOOK_SECONDS, _LOOK_MOST_SECONDS = 0.5, 60.0  # whether it is still there; doubled while none can be started
_NOT_FOUND = 4  # exit status of keepstep


def connect(daemon: str, open_at: Callable[[str], Opened]) -> tuple[Opened, str | None]:
    """What `open_at` gives for the address that `daemon` means; and that address, if the daemon there is this user's
    own, so that `keep` may start another one there when it has gone.

    Raises:
        DaemonUnavailable: nobody listens (NO_DAEMON), there is nothing to start (NO_PROGRAM), or it did not start
            (NOT_STARTED, with the end of its log).
        KeepstepError: FORKED, a fork of a process that had a client open.
    """
    if daemon not in ("auto", "system"):
        return open_at(daemon), None
    address = _ffi.default_address()
    if daemon == "system" or os.environ.get("KEEPSTEP_ADDR"):
        return open_at(address), None
    for _ in range(_ATTEMPTS - 1):
        try:
            return open_at(address), address if _is_own(address) else None
        except KeepstepError as error:
            if error.reason not in _NOBODY:
                raise
        address = start()
    return open_at(address), address


def _is_own(address: str) -> bool:
    """Whether `start` once started it: that leaves a lock beside the socket."""
    lock = os.path.join(os.path.dirname(address.removeprefix("unix://")), "start.lock")
    try:
        return os.lstat(lock).st_uid == os.geteuid()
    except OSError:
        return False


def keep(client: Client, address: str) -> None:
    """Starts another daemon whenever this user's own has ended, until the client is closed or forgotten.

    The client reconnects by itself, to whatever listens there.
    """
    threading.Thread(target=_keep, args=(weakref.ref(client), address), name="keepstep-daemon", daemon=True).start()


def _keep(reference: weakref.ref[Client], address: str) -> None:
    pause = _LOOK_SECONDS
    while True:
        time.sleep(pause)
        client = reference()
        if client is None or client.closed:
            return
        pause = min(2 * pause, _LOOK_MOST_SECONDS)
        try:
            if not client.connected():
                start(address)
            pause = _LOOK_SECONDS
        except DaemonUnavailable as error:
            _log.warning("keepstep: the daemon has ended: %s", error)
        except KeepstepError:
            return  # closed
        del client


def start(address: str | None = None) -> str:
    """Starts a daemon for this user, there or at the usual place, unless one runs; returns its address.

    Raises as `connect`.
    """
    command = _files.program("keepstep", "client/command/keepstep", "KEEPSTEP_COMMAND")
    if command is None:
        raise _unavailable(
            "NO_PROGRAM",
            "no daemon listens, and the keepstep command is neither in this package nor on $PATH to start one; install "
            "the wheel, start keepstepd yourself, or name the command with KEEPSTEP_COMMAND.",
        )
    daemon = _files.program("keepstepd", "daemon/keepstepd", "KEEPSTEPD")
    environment = {**os.environ, **({} if daemon is None else {"KEEPSTEPD": str(daemon)})}
    try:
        done = subprocess.run(
            [str(command), *([] if address is None else ["--address", address]), "up", "--on-demand", "--json"],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_UP_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable("NOT_STARTED", f"no daemon listens, and none could be started: {error}") from error
    if done.returncode != 0:
        reason = "NO_PROGRAM" if done.returncode == _NOT_FOUND else "NOT_STARTED"
        raise _unavailable(reason, f"no daemon listens, and none could be started:\n{done.stderr.strip()}")
    answer = json.loads(done.stdout)
    if answer["started"]:
        _log.info(
            "keepstep: started keepstepd %s, pid %d, at %s; log %s",
            answer["version"], answer["pid"], answer["address"], answer["log"],
        )  # fmt: skip
    return str(answer["address"])


def _unavailable(reason: str, message: str) -> DaemonUnavailable:
    return DaemonUnavailable(message, code="UNAVAILABLE", reason=reason)
