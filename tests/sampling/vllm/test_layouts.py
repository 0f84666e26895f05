"""What a sleeping engine would lose."""

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM

from masa_lightning.sampling.vllm import VLLMSampler
from masa_lightning.sampling.vllm.layouts import state_beside


class Kernel:
    """As vLLM's kernels of attention, which are no modules."""

    __module__ = "vllm.anything"

    def __init__(self, **tensors):
        self.__dict__.update(tensors)


def test_tensors_beside_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].view = model[0].weight.detach().T
    model[0].empty, model[0].scale, model[0].elsewhere = (
        torch.tensor([]),
        torch.tensor(1.0),
        torch.ones(2, device="meta"),
    )
    assert not [*state_beside(model)]
    model[0].plain = torch.ones(2)
    model[1].listed = {"a": [torch.ones(3)]}
    model[1].kernel = Kernel(slopes=torch.ones(2), model=model)
    assert [*state_beside(model)] == ["0.plain", "1.listed", "1.kernel"]


def test_models_of_vllm(tools, tmp_path):
    pytest.importorskip("vllm")
    assert not tools.vllm(tools.policy())._more_state
    config = BloomConfig(vocab_size=250, hidden_size=64, n_layer=2, n_head=2)
    policy = BloomForCausalLM(config)
    policy.save_pretrained(tmp_path)
    sampler = VLLMSampler(kv_cache_gib=0.02)
    sampler.setup(policy, str(tmp_path), max_model_length=64, stop_token_ids=[2])
    assert sampler._more_state.endswith("attn.impl")  # its slopes
