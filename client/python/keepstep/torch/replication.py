"""Which ranks hold the same content as this one, for tensors that do not say so themselves.

Nothing is guessed from names or shapes: pipeline stages whose modules have the same local names look like replicas and
are none. Four things declare replicas, and the daemon compares a sample of each before it believes them:

1. a DTensor, by its mesh and placements (tensors.py);
2. DistributedDataParallel, by its process group;
3. a module that holds DTensors: it is one module over the whole mesh of theirs, so a plain parameter in it (a norm that
   the tensor-parallel plan leaves alone) is the same everywhere on that mesh, and so is a plain buffer, up to its
   statistics; a DTensor on some dimensions of that mesh (cut by FSDP, left alone by tensor parallelism) is the same
   along the others;
4. the caller: `register(replicated=...)`, ranks, a process group or a mesh, for data parallelism without a wrapper.

Several of them together span a grid: the ranks of the job's mesh that differ from this one along their dimensions only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from keepstep.torch.tensors import replicas

Ranks = tuple[int, ...]  # ascending; empty: this rank alone


@dataclass(frozen=True)
class Holders:
    """What is declared for one module, or for a tensor registered by itself."""

    declared: Ranks = ()  # by DDP or the caller: other ranks of data parallelism
    mesh: DeviceMesh | None = None  # of the module's DTensors: the widest

    def of(self, tensor: torch.Tensor) -> Ranks:
        """Ranks that hold the same content as this rank's part of `tensor`, this one included.

        Raises:
            ValueError: a mesh and a declaration that span no grid.
        """
        if isinstance(tensor, DTensor):
            return self._combined(self._along_the_rest(tensor), tensor.device_mesh)
        return self.whole()

    def _along_the_rest(self, tensor: DTensor) -> Ranks:
        """The replicas of a DTensor, and the same along those dimensions of the module's mesh that its own lacks."""
        own, here = replicas(tensor), tensor.device_mesh.mesh.flatten().tolist()
        if self.mesh is None or len(here) == self.mesh.size():
            return own
        grid = self.mesh.mesh
        sharing = _dims_along(grid, here)
        if sharing is None:
            return own  # experts on a mesh of another shape: the caller has to say
        along = _dims_along(grid, own) or set()
        return _ranks_along(grid, along | (set(range(grid.dim())) - sharing))

    def whole(self) -> Ranks:
        """The same for what every rank of the module holds whole."""
        if self.mesh is None:
            return self.declared
        return self._combined(_ranks(self.mesh), self.mesh)

    def _combined(self, own: Ranks, mesh: DeviceMesh) -> Ranks:
        if not self.declared or set(self.declared) <= set(own):
            return own
        if not own:
            return self.declared
        grid = _root(mesh).mesh
        along, further = _dims_along(grid, own), _dims_along(grid, self.declared)
        if along is None or further is None:
            raise ValueError(
                f"replicas on ranks {list(own)} and {list(self.declared)} are no rows and columns of the mesh "
                f"{grid.tolist()}; make data, tensor and pipeline parallelism dimensions of one init_device_mesh(...)"
            )
        return _ranks_along(grid, along | further)


def declared(value: Any) -> Ranks:
    """What `replicated=` was given, as ranks. TypeError or ValueError: it is none of the four, or without this rank."""
    if value is None:
        return ()
    if isinstance(value, DeviceMesh):
        ranks = value.mesh.flatten().tolist()
    elif isinstance(value, dist.ProcessGroup):
        ranks = dist.get_process_group_ranks(value)
    elif isinstance(value, Iterable):
        ranks = [int(rank) for rank in value]
    else:
        raise TypeError(f"replicated={value!r}; pass ranks, a process group or a device mesh")
    if dist.is_initialized() and dist.get_rank() not in ranks:
        raise ValueError(f"replicated={sorted(ranks)} lacks this rank, {dist.get_rank()}; name every holder")
    return _alone_is_none(ranks)


def widest_mesh(tensors: Iterable[torch.Tensor]) -> DeviceMesh | None:
    """The mesh that spans most ranks among those of DTensors; None when there are none."""
    meshes = {tensor.device_mesh for tensor in tensors if isinstance(tensor, DTensor)}
    return max(meshes, key=lambda mesh: mesh.size(), default=None)


def _ranks(mesh: DeviceMesh) -> Ranks:
    return _alone_is_none(mesh.mesh.flatten().tolist())


def _alone_is_none(ranks: Iterable[int]) -> Ranks:
    found = tuple(sorted(set(ranks)))
    return found if len(found) > 1 else ()


def _root(mesh: DeviceMesh) -> DeviceMesh:
    found = mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else None
    return mesh if found is None else found


def _dims_along(grid: torch.Tensor, ranks: Iterable[int]) -> set[int] | None:
    """The dimensions of the grid along which `ranks`, this one among them, lie; None: they are no sub-grid of it."""
    places = [(grid == rank).nonzero().tolist() for rank in (dist.get_rank(), *ranks)]
    if not all(places):
        return None
    dims = {dim for place in places for dim, at in enumerate(place[0]) if at != places[0][0][dim]}
    return dims if math.prod(grid.shape[dim] for dim in dims) == max(1, len(places) - 1) else None


def _ranks_along(grid: torch.Tensor, dims: set[int]) -> Ranks:
    here = (grid == dist.get_rank()).nonzero()[0].tolist()
    index = tuple(slice(None) if dim in dims else at for dim, at in enumerate(here))
    return _alone_is_none(grid[index].flatten().tolist())
