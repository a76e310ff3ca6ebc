"""A daemon that comes back between two ranks' saves of one step: one rank missed it, the other was in time."""

from __future__ import annotations

import keepstep
import numpy as np

from tests.harness.daemon import Daemon


def test_ranks_agree_again_at_the_next_save(daemon: Daemon) -> None:
    """Saves are told apart by counting calls, so a call that reached nobody counts too."""
    ranks = [
        keepstep.Checkpointer(daemon.root / "job", daemon=daemon.address, rank=rank, world_size=2, rng=False,
                              gated=True, max_failures=100)
        for rank in range(2)]
    for rank, checkpointer in enumerate(ranks):
        checkpointer.register(model={f"w{rank}": np.zeros(8)})
    first = [checkpointer.save(1) for checkpointer in ranks]
    assert [handle.result(60) for handle in first] == [1, 1]
    daemon.kill()
    assert ranks[0].save(2).exception(0) is not None
    daemon.start()
    missed = ranks[1].save(2)
    third = [checkpointer.save(3) for checkpointer in ranks]
    assert [handle.result(60) for handle in third] == [3, 3]
    failure = missed.exception(60)
    assert failure is not None and failure.step == 2
    for checkpointer in ranks:
        checkpointer.close()
