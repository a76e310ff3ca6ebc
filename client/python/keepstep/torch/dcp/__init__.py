"""PyTorch's distributed checkpoint (DCP) over Keepstep: one argument in an unchanged program.

    dcp.save(state, storage_writer=KeepstepStorageWriter("/ckpt/step-100"))
    dcp.load(state, storage_reader=KeepstepStorageReader("/ckpt/step-100"))
    dcp.async_save(state, storage_writer=KeepstepStorageWriter("/ckpt/step-100"), async_stager=KeepstepAsyncStager())

docs/dcp.md says what is guaranteed, and where it differs from DCP's own storage.
"""

from __future__ import annotations

from keepstep.torch.dcp.reader import KeepstepStorageReader
from keepstep.torch.dcp.stager import KeepstepAsyncStager
from keepstep.torch.dcp.writer import KeepstepStorageWriter

__all__ = ["KeepstepAsyncStager", "KeepstepStorageReader", "KeepstepStorageWriter"]
