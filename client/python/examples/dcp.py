"""A program that uses torch.distributed.checkpoint: one argument more, and the rest stays.

    torchrun --nproc-per-node 2 dcp.py /tmp/checkpoint
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from keepstep.torch.dcp import KeepstepAsyncStager, KeepstepStorageReader, KeepstepStorageWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {"weight": distribute_tensor(torch.arange(64.0).reshape(8, 8), mesh, [Shard(0)]), "step": 3}

    saving = dcp.async_save(state, storage_writer=KeepstepStorageWriter(arguments.directory),
                            async_stager=KeepstepAsyncStager())
    saving.staging_completion.result()  # from here on the tensors may change
    saving.upload_completion.result()  # and here they are durable

    loaded = {"weight": distribute_tensor(torch.zeros(8, 8), mesh, [Shard(1)]), "step": 0}  # the other dimension
    dcp.load(loaded, storage_reader=KeepstepStorageReader(arguments.directory))
    assert torch.equal(loaded["weight"].full_tensor(), torch.arange(64.0).reshape(8, 8))
    if dist.get_rank() == 0:
        print(f"loaded step {loaded['step']}, split by columns")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
