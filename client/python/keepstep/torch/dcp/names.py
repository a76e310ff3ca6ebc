"""What a dcp.save is called in a Keepstep checkpoint.

model.w                     a tensor that the ranks together hold whole: its fqn
model.w@rank2               … of a save without collectives: what rank 2 has under that fqn, a tensor of its own
model.w@rank2[0,4]          … or the part of it that begins at (0, 4)
model.w@[0,4]               … a part of a tensor of which one plan alone holds some, and nobody the rest
keepstep.dcp.bytes.2        the items of rank 2 that are no tensors, one after the other
keepstep.dcp.metadata       DCP's Metadata (record.py); keepstep.dcp.metadata.2: that of rank 2, without collectives
"""

from __future__ import annotations

from collections.abc import Sequence

from keepstep.shards import Component

PREFIX = "keepstep.dcp."


def metadata(rank: int | None) -> str:
    """Of the tensor that holds the Metadata; `rank` None: of all ranks together."""
    return f"{PREFIX}metadata" if rank is None else f"{PREFIX}metadata.{rank}"


def byte_items(rank: int) -> str:
    """Of the tensor that holds what of this rank is no tensor."""
    return f"{PREFIX}bytes.{rank}"


def own(fqn: str, rank: int | None, offsets: Sequence[int] | None) -> str:
    """Of a tensor that is one rank's affair; `offsets` None: it is whole."""
    where = "" if offsets is None else f"[{','.join(map(str, offsets))}]"
    return f"{fqn}@{'' if rank is None else f'rank{rank}'}{where}"


def component(fqn: str) -> Component:
    """Which blob a tensor goes to: `optim.…` and `optimizer.…` are the optimizer's, all else is the model's."""
    return "optimizer" if fqn.split(".", 1)[0].lower().startswith("optim") else "model"
