"""A session with the daemon for one save or one load."""

from __future__ import annotations

from keepstep import _daemon
from keepstep._client import Client


def open_session(
    directory: str,
    *,
    daemon: str,
    transfer: str,
    read_only: bool,
    rank: int = 0,
    world_size: int = 1,
    keep_last: int = 0,
) -> Client:
    """`daemon` and `keep_last` as in `Checkpointer`; 0 keeps all.

    KeepstepError: the daemon cannot be reached, or may not write there.
    """

    def open_at(address: str) -> Client:
        return Client(
            directory,
            address=address,
            label=None,
            run=None,
            read_only=read_only,
            rank=rank,
            world_size=world_size,
            mesh=None,
            transfer=transfer,
            keep_last=keep_last,
        )

    return _daemon.connect(daemon, open_at)[0]
