"""The refusals of sharding; that it trains alike is shown in tests/callbacks/test_expert_sft_processes.py."""

import pytest
from torch import nn

from masa_lightning.models.sharding import shard


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
