"""FSDP2: the policy's parameters spread over the data-parallel processes."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from masa_lightning.models.policy import Policy


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Shards a policy in place, layer by layer.

    Args:
        policy: With its full weights.
        mesh: Lightning's device mesh (`ModelParallelStrategy`), of which "data_parallel" is used.

    Raises:
        ValueError: If the mesh is of more than data-parallel processes: replicas of the policy would drift apart.
    """
    if mesh["data_parallel"].size() != mesh.size():
        raise ValueError(
            f"the device mesh has {mesh['data_parallel'].size()} data-parallel of {mesh.size()} processes; expected all. "
            "Give ModelParallelStrategy data_parallel_size=<all processes> and tensor_parallel_size=1: its defaults are "
            "tensor parallel within a node, which the policy is not"
        )
    processes = mesh["data_parallel"]
    blocks = [m for m in policy.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    for layer in blocks[0] if blocks else []:
        fully_shard(layer, mesh=processes)
    fully_shard(policy, mesh=processes)
