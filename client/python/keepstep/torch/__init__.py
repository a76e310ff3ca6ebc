"""What Keepstep knows of PyTorch. Importing this package imports torch; `import keepstep` alone does not.

`tensors` describes one tensor's memory, `placement` the pure geometry of placements on a mesh.
"""

from __future__ import annotations

from keepstep.torch.pool import empty_state, memory_pool
from keepstep.torch.tensors import dtype_name, flat_shard, memory, shard

__all__ = ["dtype_name", "empty_state", "flat_shard", "memory", "memory_pool", "shard"]
