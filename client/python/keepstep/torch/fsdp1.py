"""FullyShardedDataParallel (FSDP1): a FlatParameter is the concatenation of many parameters, cut into equal ranges.

So each original parameter is on this rank a range of its own flattening, or nothing. With `use_orig_params=True` the
module shows the originals as one-dimensional views of that range; without it only the FlatParameter. Both give the same
parts, and the optimizer's state lies as the tensor that the optimizer was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from keepstep.torch.parts import FlatPart
from keepstep.torch.replication import Ranks


@dataclass
class Flat:
    """One FlatParameter: the tensor whose memory is registered, and the parts in it by identity of what shows them."""

    prefix: str  # of the names in it
    handle: Any
    replicas: Ranks
    shard_ranks: list[int]

    @property
    def tensor(self) -> torch.Tensor:
        return self.handle.flat_param  # type: ignore[no-any-return]

    def parts(self) -> Iterator[tuple[torch.Tensor, FlatPart]]:
        """Each part with the tensor by which module and optimizer know it: the FlatParameter, or the original."""
        flat = self.handle.flat_param
        originals = flat._params if self.handle._use_orig_params else None
        local_size = flat.numel()
        chunk = flat._sharded_size.numel()
        sharded = self.handle.uses_sharded_strategy
        offsets = self.handle._get_flat_param_offsets()
        for index, (fqn, shape) in enumerate(zip(flat._fqns, flat._shapes, strict=True)):
            first, last = offsets[index]
            if sharded:
                info = flat._shard_param_infos[index]
                size = info.numel_in_shard if info.in_shard else 0
                begin = info.intra_param_start_idx if info.in_shard else 0
                offset = info.offset_in_shard if info.in_shard else 0
                holders = [
                    rank for at, rank in enumerate(self.shard_ranks) if at * chunk <= last and (at + 1) * chunk > first
                ]
            else:
                begin, size, offset, holders = 0, last - first + 1, first, self.shard_ranks
            known = flat if originals is None else originals[index]
            view = originals is not None
            yield known, FlatPart(
                name=self.prefix + _clean(fqn),
                shape=tuple(shape),
                begin=begin,
                size=size,
                offset=0 if view else offset,
                local_size=size if view else local_size,
                replicas=self.replicas if sharded else _several(self.shard_ranks),
                holders=_over(holders, self.shard_ranks, self.replicas),
            )

    def aliases(self) -> dict[str, str]:
        """Further names of parameters in it (tied weights), where the modules do not show them."""
        return {
            self.prefix + _clean(f"{info.module_name}.{info.param_name}" if info.module_name else info.param_name):
            self.prefix + _clean(
                f"{info.prim_module_name}.{info.prim_param_name}" if info.prim_module_name else info.prim_param_name
            )
            for info in self.handle.flat_param._shared_param_infos
        }  # fmt: skip


def flats(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Flat]:
    """The FlatParameters of these modules, each given with the prefix of its names; outermost first."""
    for prefix, module in modules:
        if isinstance(module, FullyShardedDataParallel) and module._handle is not None:
            yield Flat(prefix, module._handle, between_nodes(module), shard_ranks(module))


def shard_ranks(module: FullyShardedDataParallel) -> list[int]:
    """The ranks over which it cuts its flat parameters, in the order of the ranges."""
    return dist.get_process_group_ranks(module.process_group)


def between_nodes(module: FullyShardedDataParallel) -> Ranks:
    """The ranks that hold this rank's range too (HYBRID_SHARD); empty: none."""
    group = getattr(module, "_inter_node_pg", None)
    return () if group is None else _several(dist.get_process_group_ranks(group))


def data_parallel_ranks(module: FullyShardedDataParallel) -> Ranks:
    """Every rank that runs the same module: what it does not shard (buffers) is the same there."""
    return _over(shard_ranks(module), shard_ranks(module), between_nodes(module))


def _over(holders: Iterable[int], shard_group: list[int], replicas: Ranks) -> Ranks:
    """The same places in every copy of the shard group, which HYBRID_SHARD lays out as consecutive ranks."""
    if not replicas:
        return _several(holders)
    size, first = len(shard_group), min(shard_group)
    if sorted(shard_group) != list(range(first, first + size)):
        raise ValueError("HYBRID_SHARD whose shard group is no run of consecutive ranks; use fully_shard (FSDP2)")
    return _several(rank - first + base // size * size for rank in holders for base in replicas)


def _several(ranks: Iterable[int]) -> Ranks:
    found = tuple(sorted(set(ranks)))
    return found if len(found) > 1 else ()


def _clean(fqn: str) -> str:
    wrappers = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")
    return ".".join(word for word in fqn.split(".") if word not in wrappers)
