"""FSDP2: the policy's parameters spread over the data-parallel processes."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from masa_lightning.models.policy import Policy


def shard(policy: Policy, mesh: DeviceMesh, *, compute_dtype: torch.dtype | None = None) -> None:
    """Shards a policy in place, layer by layer, and deals out the weights of the first process, one at a time.

    The other processes need no weights of their own (`load_model(empty=True)`), so that the first process's memory alone
    ever holds all of them, on the CPU.

    Args:
        policy: On the CPU.
        mesh: Lightning's device mesh (`ModelParallelStrategy`), of which "data_parallel" is used.
        compute_dtype: What weights are gathered and computed in, where it differs from what is kept and updated.

    Raises:
        ValueError: If the mesh is of more than data-parallel processes: replicas of the policy would drift apart.
        RuntimeError: If the processes have different models.
    """
    if mesh["data_parallel"].size() != mesh.size():
        raise ValueError(
            f"the device mesh has {mesh['data_parallel'].size()} data-parallel of {mesh.size()} processes; expected all. "
            "Give ModelParallelStrategy data_parallel_size=<all processes> and tensor_parallel_size=1: its defaults are "
            "tensor parallel within a node, which the policy is not"
        )
    processes = mesh["data_parallel"]
    precision = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=None if compute_dtype is None else torch.float32
    )
    weights = {name: p.detach() for name, p in policy.named_parameters()}
    _check_alike(weights)
    blocks = [m for m in policy.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    for layer in blocks[0] if blocks else []:
        fully_shard(layer, mesh=processes, mp_policy=precision)
    fully_shard(policy, mesh=processes, mp_policy=precision)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            assert isinstance(p, DTensor)
            dealt = distribute_tensor(weights.pop(name).to(p.device), processes, p.placements)
            p.to_local().copy_(dealt.to_local())
        for buffer in policy.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _check_alike(weights: dict[str, torch.Tensor]) -> None:
    mine = [(name, tuple(weight.shape), str(weight.dtype)) for name, weight in weights.items()]
    everyones: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyones, mine)
    for rank, theirs in enumerate(everyones):
        for first, other in zip_longest(everyones[0], theirs):
            if first != other:
                raise RuntimeError(
                    f"process {rank} has a model with {other}, where the first process has {first}; expected the same "
                    "model and settings in all processes"
                )
