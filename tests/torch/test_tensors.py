"""A tensor's part as Keepstep describes it, against torch's own idea of which elements a rank holds."""

from __future__ import annotations

import gc
import itertools
import math
import random
import weakref

import numpy as np
import pytest
import torch
from keepstep import dtypes, shards
from keepstep._registration import resolve
from keepstep.torch import dtype_name, flat_shard, memory, shard
from keepstep.torch.placement import held
from keepstep.torch.tensors import _DTYPES, ranks_along
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import Partial, _StridedShard

from tests.torch.ranks import each_rank


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


def bytes_at(address: int, strides: tuple[int, ...], shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Elements read at an address as the daemon reads them."""
    holder = type("Memory", (), {"__array_interface__": {
        "version": 3, "typestr": kind, "shape": shape, "strides": strides, "data": (address, True)}})()
    return np.array(np.asarray(holder))


@pytest.mark.parametrize("dtype", sorted(_DTYPES, key=str), ids=str)
def test_every_dtype_is_the_same_bytes_in_place(dtype: torch.dtype) -> None:
    raw = torch.arange(64, dtype=torch.uint8).remainder(2)
    tensor = raw.view(dtype)
    array = memory(tensor)
    assert array.ctypes.data == tensor.data_ptr() and array.tobytes() == bytes(raw.tolist())
    assert array.itemsize == dtypes.item_bytes(dtype_name(dtype))
    array.view(np.uint8)[:] = 1
    assert raw.sum() == 64


def test_views_and_odd_shapes_keep_their_strides() -> None:
    base = numbered(6, 8)
    for tensor in (base.t(), base[1:4, 2:7], base[::2], base[:, ::3], base[3, 4], base[0:0], numbered(1)[0:1, None]):
        array = memory(tensor)
        assert array.shape == tuple(tensor.shape) and np.array_equal(array, tensor.numpy())
        assert tensor.numel() == 0 or array.ctypes.data == tensor.data_ptr()


def test_a_parameter_needs_no_detaching_and_stays_alive_and_resizable() -> None:
    parameter = torch.nn.Parameter(numbered(4, 4))
    told = shard(parameter, replicated_over=[2, 0])
    assert told is not None and told.replicated_over == (0, 2)
    gone = weakref.ref(parameter)
    del parameter
    gc.collect()
    assert gone() is None and told.array[3, 3] == 15
    other = torch.zeros(4)
    memory(other)
    other.untyped_storage().resize_(0)  # FSDP does, between forward and backward
    with pytest.raises(TypeError, match="freed"):
        memory(other)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.empty(2, device="meta"), "to_empty"),
        (torch.eye(2).to_sparse(), "indices and values"),
        (torch.zeros(1).expand(4), "contiguous"),
        (torch.zeros(2, dtype=torch.complex64).conj(), "resolve_conj"),
        (torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.quint8), "quint8"),
    ],
)
def test_memory_that_cannot_be_saved_is_refused_with_what_to_do(tensor: torch.Tensor, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        memory(tensor)


def holds(tensor: DTensor, whole: torch.Tensor) -> None:
    """What the daemon would read at each box's address is that box of the whole tensor."""
    told = shard(tensor)
    assert told is not None and told.boxes is not None and told.global_shape == tuple(whole.shape)
    spec = resolve("w", told, "model")
    elements = 0
    for box in told.boxes:
        elements += math.prod(box.shape)
        if not math.prod(box.shape):
            continue
        index = tuple(slice(begin, begin + size) for begin, size in zip(box.origin, box.shape, strict=True))
        assert box.strides_bytes is not None
        found = bytes_at(spec.data + box.offset_bytes, box.strides_bytes, box.shape, "<f4")
        assert np.array_equal(found, whole[index].numpy())
    assert elements == tensor._local_tensor.numel()


@pytest.mark.parametrize("mesh_shape", [(4,), (2, 2), (2, 3), (2, 2, 2)], ids=str)
def test_placements_are_those_of_torch(mesh_shape: tuple[int, ...]) -> None:
    """Every combination of Replicate and Shard, on even, uneven, tiny and empty shapes; torch cuts, we compare."""
    shapes = [(8, 8), (5, 7), (1, 3), (0, 4), (3,)]
    for _rank in each_rank(math.prod(mesh_shape)):
        mesh = init_device_mesh("cpu", mesh_shape)
        for shape in shapes:
            whole = numbered(*shape)
            choices = [Replicate(), *(Shard(dim) for dim in range(len(shape)))]
            for placements in itertools.product(choices, repeat=len(mesh_shape)):
                holds(distribute_tensor(whole, mesh, placements, src_data_rank=None), whole)


def test_replicas_are_the_ranks_that_differ_in_replicated_dimensions() -> None:
    for rank in each_rank(6):
        mesh = init_device_mesh("cpu", (2, 3), mesh_dim_names=("dp", "tp"))
        whole = numbered(6, 6)
        told = shard(distribute_tensor(whole, mesh, [Replicate(), Shard(0)], src_data_rank=None))
        assert told is not None and told.replicated_over == (rank % 3, rank % 3 + 3)
        told = shard(distribute_tensor(whole, mesh["tp"], [Replicate()], src_data_rank=None))
        assert told is not None and told.replicated_over == tuple(range(rank // 3 * 3, rank // 3 * 3 + 3))
        assert ranks_along(mesh, frozenset({0, 1})) == (0, 1, 2, 3, 4, 5)


class Two(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = torch.nn.Linear(4, width)
        self.down = torch.nn.Linear(width, 4)
        for parameter in self.parameters():
            parameter.data = numbered(*parameter.shape)


@pytest.mark.parametrize("width", [8, 12, 6])
def test_strided_shards_of_fsdp2_over_tensor_parallelism(width: int) -> None:
    """fully_shard on a tensor-parallel module makes _StridedShard; elements say where they come from."""
    strided = 0
    for _rank in each_rank(4):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        model = Two(width)
        whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        parallelize_module(model, mesh["tp"], {
            "up": ColwiseParallel(), "down": RowwiseParallel()}, src_data_rank=None)
        fully_shard(model, mesh=mesh["dp"])
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            strided += any(isinstance(placement, _StridedShard) for placement in parameter.placements)
            holds(parameter, whole[name])
    assert strided == 8


def test_strided_shards_whose_factor_is_no_mesh_dimension_are_cut_as_torch_cuts() -> None:
    """Left to right: split_factor pieces, this coordinate's chunk of each."""
    random_ = random.Random(5)
    for _ in range(200):
        extent, count, factor = random_.randint(0, 40), random_.randint(1, 5), random_.randint(2, 7)
        whole = torch.arange(extent)
        for at in range(count):
            place = held((extent,), (count,), (at,), (shards.StridedShard(0, factor),))
            expected, _ = _StridedShard(0, split_factor=factor)._split_tensor(whole, count, with_padding=False)
            mine = [value for (begin,), (size,), _ in place.boxes for value in range(begin, begin + size)]
            assert mine == expected[at].tolist()


def test_ranks_outside_the_mesh_hold_nothing_and_pending_sums_are_refused() -> None:
    for rank in each_rank(4):
        mesh = init_device_mesh("cpu", (4,))
        pending = DTensor.from_local(numbered(2), mesh, [Partial()], run_check=False)
        with pytest.raises(TypeError, match="redistribute"):
            shard(pending)
        half = torch.distributed.DeviceMesh("cpu", [1, 2])
        told = shard(distribute_tensor(numbered(4), half, [Shard(0)], src_data_rank=None))
        assert (told is None) == (rank in (0, 3))


def test_flat_ranges() -> None:
    told = flat_shard(numbered(10), (6, 8), 20, component="optimizer")
    assert told.flat == (20, 30) and told.global_shape == (6, 8) and told.dtype == "F32"
    with pytest.raises(ValueError, match="one dimension"):
        flat_shard(numbered(2, 5), (6, 8), 0)
