"""Arrays of a GPU as the package describes them to the library. No GPU, no driver: nothing reads their memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import keepstep
from keepstep import _ffi, shards
from keepstep._device import DeviceArray, Streams, _DLTensor, dense_strides, device_array, is_device_array
from keepstep._registration import Spec, marshal, resolve

ADDRESS = 0x7F0000001000


class GpuArray:
    """As CuPy's: an address that no test may read."""

    def __init__(self, shape: tuple[int, ...], typestr: str = "<f4", **more: Any) -> None:
        self.__cuda_array_interface__ = {
            "version": 3, "shape": shape, "typestr": typestr, "data": (ADDRESS, False), "strides": None, **more
        }  # fmt: skip


class DlpackArray:
    def __init__(self, device_type: int, code: int, bits: int, shape: tuple[int, ...],
                 strides: tuple[int, ...] | None = None, offset: int = 0) -> None:
        self.shape = (ctypes.c_int64 * max(1, len(shape)))(*shape)
        self.strides = (ctypes.c_int64 * len(strides))(*strides) if strides else None
        self.tensor = _DLTensor(
            data=ADDRESS, device_type=device_type, device_id=0, ndim=len(shape), code=code, bits=bits, lanes=1,
            shape=self.shape, strides=self.strides, byte_offset=offset,
        )  # fmt: skip
        self.device = (device_type, 0)
        self.asked: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.asked.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


def resolved(value: Any) -> Spec:
    return resolve("w", value, "model")


def test_an_array_of_the_interface_is_gpu_memory() -> None:
    spec = resolved(GpuArray((3, 4)))
    assert (spec.data, spec.data_bytes, spec.dtype, spec.on_device) == (ADDRESS, 48, "F32", True)
    assert spec.writeable and spec.source is None
    shard = marshal([spec, resolve("h", np.zeros(4, np.float32), "model")])
    assert [shard[0][index].memory for index in range(2)] == [_ffi.CUDA, _ffi.HOST]
    assert shard[0][0].data == ADDRESS


def test_a_strided_view_names_the_bytes_that_it_spans() -> None:
    spec = resolved(GpuArray((3, 2), strides=(16, 4)))
    assert (spec.data, spec.data_bytes) == (ADDRESS, 2 * 16 + 4 + 4)
    shards_, keep = marshal([spec])
    box = shards_[0].boxes[0]
    assert [box.strides_bytes[dim] for dim in range(2)] == [16, 4]
    del keep


def test_what_cannot_be_stored_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="w: strides"):
        resolved(GpuArray((3, 2), strides=(0, 4)))
    with pytest.raises(TypeError, match="w: a masked array"):
        resolved(GpuArray((3,), mask=GpuArray((3,), "|b1")))
    with pytest.raises(TypeError, match="w: arrays of"):
        resolved(GpuArray((3,), ">f4"))
    with pytest.raises(TypeError, match="DLPack type 2 with 4 bits"):
        resolved(DlpackArray(2, 2, 4, (8,)))


def test_a_read_only_array_is_not_loaded_into() -> None:
    assert not resolved(GpuArray((3,), data=(ADDRESS, True))).writeable


def test_dlpack_of_a_cuda_device_is_described_without_a_stream() -> None:
    value = DlpackArray(2, 4, 16, (5, 3), (6, 1), offset=64)
    array = device_array(value)
    assert (array.address, array.shape, array.strides) == (ADDRESS + 64, (5, 3), (12, 2))
    assert (array.element, array.itemsize) == ("BF16", 2)
    assert value.asked == [-1], "no stream is made to wait"
    assert resolved(value).dtype == "BF16"
    assert device_array(DlpackArray(2, 5, 64, ())).dtype == np.complex64
    assert device_array(DlpackArray(2, 12, 8, (4,))).element == "F8_E5M2"


def test_dlpack_of_the_cpu_is_no_gpu_memory() -> None:
    assert not is_device_array(DlpackArray(1, 2, 32, (4,)))
    assert not is_device_array(np.zeros(3))
    assert not is_device_array(object())


def test_shards_of_gpu_arrays() -> None:
    array = GpuArray((384, 96), "<u2")
    piece = shards.piece(array, (384, 384), np.s_[:, 0:96], dtype="BF16")
    spec = resolved(piece)
    assert (spec.dtype, spec.data_bytes, spec.boxes) == (
        "BF16", 384 * 96 * 2, (shards.Box((0, 0), (384, 96), 0, (192, 2)),)
    )  # fmt: skip
    flat = resolved(shards.flat(GpuArray((100,)), (20, 10), begin=50))
    assert flat.on_device and flat.source is not None and flat.source.flat == (50, 150)
    placed = resolved(shards.placed(GpuArray((4, 4)), (8, 4), [keepstep.Shard(0)]))
    assert placed.on_device
    assert shards.replica(array, range(2)).replicated_over == (0, 1)


def test_dense_strides_of_empty_and_scalar_arrays() -> None:
    assert dense_strides((), 4) == ()
    assert DeviceArray(0, (0, 3), (12, 4), np.dtype("f4"), None).flags.c_contiguous
    assert DeviceArray(0, (), (), np.dtype("f4"), None).size == 1
    assert not DeviceArray(0, (3, 3), (4, 12), np.dtype("f4"), None).flags.c_contiguous


def test_streams_are_pytorchs_current_ones_and_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    current = {0: 0, 1: 77}
    cuda = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=current[device]))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    def on(device: int | None, stream: int | None = None) -> DeviceArray:
        return DeviceArray(ADDRESS, (1,), (4,), np.dtype("f4"), None, stream=stream, torch_device=device)

    assert Streams([on(0), on(1), on(1), np.zeros(3)]).now() == [0, 77]
    assert Streams([on(None, 5), on(None)]).now([9, 5]) == [5, 9]
    assert Streams([np.zeros(3)]).now() == []
    current[1] = 78
    assert Streams([on(1)]).now() == [78]


def test_torch_tensors_on_cuda_are_gpu_memory() -> None:
    torch = pytest.importorskip("torch")
    from keepstep.torch import tensors

    # A CUDA tensor's face: the PyTorch of the tests makes none.
    tensor: Any = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), dtype=torch.bfloat16, layout=torch.strided, shape=(4, 2),
        is_conj=lambda: False, is_neg=lambda: False, stride=lambda: (2, 1), element_size=lambda: 2, numel=lambda: 8,
        data_ptr=lambda: ADDRESS, untyped_storage=lambda: "storage", get_device=lambda: 3,
    )  # fmt: skip
    array = tensors.any_memory(tensor)
    assert isinstance(array, DeviceArray)
    assert (array.address, array.strides, array.element, array.owner) == (ADDRESS, (4, 2), "BF16", "storage")
    assert array.torch_device == 3
    with pytest.raises(TypeError, match="neither CPU nor CUDA"):
        tensors.memory(tensor)


# A data loader's workers, and every program without a GPU, import the package: none may touch CUDA.
def test_importing_the_package_loads_no_driver_and_no_torch() -> None:
    source = "import sys, keepstep; print('libcuda' in open('/proc/self/maps').read(), 'torch' in sys.modules)"
    package = Path(keepstep.__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", source], cwd=package, check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["False", "False"]
