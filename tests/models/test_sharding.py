"""What sharding leaves in each process; that it trains alike is shown in tests/modules/test_two_processes.py."""

import pytest
import torch
import two_processes
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.models.sharding import shard
from masa_lightning.sampling.transformers import TransformersSampler


class Mesh:
    """The sizes of a device mesh: a real one needs that many processes."""

    def __init__(self, **sizes):
        self.sizes = sizes

    def __getitem__(self, name):
        return Mesh(**{name: self.sizes[name]})

    def size(self):
        total = 1
        for size in self.sizes.values():
            total *= size
        return total


def test_tensor_parallel_meshes_are_refused():
    """Lightning's defaults: without an error every process would train a replica of its own."""
    with pytest.raises(ValueError, match=r"has 1 data-parallel of 2 processes.*data_parallel_size=<all processes>"):
        shard(nn.Linear(1, 1), Mesh(data_parallel=1, tensor_parallel=2))


def _work(rank, checkpoint):
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    whole = loading.load_model(checkpoint, "float32")
    policy = Policy(loading.load_model(checkpoint, "float32", empty=rank > 0))
    if rank > 0:
        assert not torch.equal(policy.model.model.embed_tokens.weight, whole.model.embed_tokens.weight)
    assert policy.model.generation_config.to_dict() == whole.generation_config.to_dict()
    assert not any(m.training for m in policy.model.modules())
    shard(policy, mesh)
    parts = dict(policy.model.named_parameters())
    assert parts.keys() == dict(whole.named_parameters()).keys()
    for name, p in whole.named_parameters():
        assert parts[name].to_local().numel() == p.numel() // 2, name
        assert torch.equal(parts[name].full_tensor(), p), name
    for got, expected in zip(policy.model.buffers(), whole.buffers(), strict=True):
        assert torch.equal(got, expected)
    with pytest.raises(TypeError, match="spread over processes"):
        TransformersSampler().setup(policy.model, "unused", max_model_length=9, stop_token_ids=[1])
    other = Policy(loading.load_model(checkpoint, "bfloat16" if rank else "float32"))
    with pytest.raises(RuntimeError, match=r"process 1 has a model with .*bfloat16.*, where the first .*float32"):
        shard(other, mesh)


def test_each_process_gets_its_part_of_the_first_ones_weights(tiny_checkpoint):
    two_processes.run(_work, str(tiny_checkpoint))
