"""torch.distributed.checkpoint over GPU memory: `python -m tests.device.dcp_trainer - - ADDRESS DIRECTORY` prints JSON.

PyTorch here has no CUDA. So each tensor is one on the CPU that stands for memory of the GPU: where it lies is asked in
one place (any_memory), and told to be there. What its own memory holds is never to be saved, nor to change.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from keepstep._device import DeviceArray
from keepstep.torch import tensors
from keepstep.torch.dcp import KeepstepAsyncStager, KeepstepStorageReader, KeepstepStorageWriter, items, targets

from tests.device.tensors import F32, MIB, GpuTensor, State, differing, update
from tests.fake_cuda.cuda import Gpu

UNTOUCHED = 7.0


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)
    sys.stdin.readline()


def main() -> int:
    address, directory = sys.argv[3:]
    gpu = Gpu()
    block, pieces = gpu.alloc(8 * MIB), gpu.alloc_pieces([2 * MIB] * 4)
    there: State = {"model.w": GpuTensor(block, 4096, (1024, 1500), F32),
                    "optim.m": GpuTensor(pieces, 2 * MIB - 4000, (1024, 1024), F32)}
    here = {name: torch.full(tensor.shape, UNTOUCHED) for name, tensor in there.items()}
    places = {here[name].data_ptr(): tensor for name, tensor in there.items()}

    def any_memory(tensor: torch.Tensor) -> Any:
        place = places.get(tensor.data_ptr())
        if place is None:
            return tensors.any_memory(tensor)
        strides = tuple(stride * F32.itemsize for stride in tensor.stride())
        return DeviceArray(place.memory.pointer + place.offset_bytes, tuple(tensor.shape), strides, F32, place)

    items.any_memory = any_memory
    targets.any_memory = any_memory
    found, stager = {}, KeepstepAsyncStager()
    for step in (1, 2):
        path = f"{directory}-{step}"
        update(there, step)
        writer = KeepstepStorageWriter(path, daemon=address)
        if step == 1:
            dcp.save(here, storage_writer=writer, no_dist=True)
        else:
            response: Any = dcp.async_save(here, storage_writer=writer, async_stager=stager, no_dist=True)
            response.staging_completion.result()
            update(there, 99)  # from here on they may change
            response.upload_completion.result()
        update(there, 98)
        dcp.load(here, storage_reader=KeepstepStorageReader(path, daemon=address), no_dist=True)
        found[step] = differing(there, step)
    untouched = all(bool((tensor == UNTOUCHED).all()) for tensor in here.values())
    say({"differing": found, "untouched": untouched})
    return 0


if __name__ == "__main__":
    sys.exit(main())
