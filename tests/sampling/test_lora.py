"""Policies with LoRA adapters: the engine gets the sums, and nothing of the policy changes."""

import pytest
import torch
from peft import LoraConfig
from transformers import GPT2Config, GPT2LMHeadModel

from masa_lightning.sampling.vllm.weights import HandOver, Merged, full, is_tied, named_weights
from masa_lightning.settings import SamplingSettings

SAMPLE = SamplingSettings()


@pytest.fixture
def adapted(tools):
    def make(tied=True, dtype=torch.float32, **settings):
        policy = tools.policy(tied).to(dtype)
        policy.add_adapter(LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | settings))
        for p in policy.parameters():
            if p.requires_grad:
                p.data = p.data.float()
        return policy

    return make


def move(policy):
    draw = torch.Generator().manual_seed(5)
    for p in policy.parameters():
        if p.requires_grad:
            p.data += 0.1 * torch.randn(p.shape, generator=draw)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_names_are_those_of_the_model_without_adapters(tools, adapted, tied):
    assert [name for name, _ in named_weights(adapted(tied))] == [name for name, _ in named_weights(tools.policy(tied))]
    assert is_tied(adapted(tied)) is tied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_those_of_peft_and_never_drift(adapted, dtype):
    policy = adapted(dtype=dtype)
    move(policy)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    merged = {name: weight for name, weight in named_weights(policy) if isinstance(weight, Merged)}
    assert len(merged) == 2 * 7
    sums = {name: full(weight) for name, weight in merged.items()}
    assert all(full(weight).equal(sums[name]) for name, weight in merged.items())
    assert all(p.equal(before[name]) for name, p in policy.named_parameters())
    for name, total in sums.items():
        layer = policy.get_submodule(name.removesuffix(".weight"))
        layer.merge()
        assert (total.dtype, total.shape) == (dtype, merged[name].shape)
        torch.testing.assert_close(
            total, layer.base_layer.weight.detach(), atol=1e-6 if dtype == torch.float32 else 8e-3, rtol=0
        )


def test_layers_that_keep_their_weight_the_other_way_round():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=8)
    policy = GPT2LMHeadModel(config)
    policy.add_adapter(LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    move(policy)
    weight = dict(named_weights(policy))["transformer.h.0.attn.c_attn.weight"]
    layer = policy.transformer.h[0].attn.c_attn
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(full(weight), expected.detach(), atol=1e-6, rtol=0)
    assert len(weight) == 16


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_several_adapters_are_refused(adapted):
    policy = adapted()
    policy.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "second")
    with pytest.raises(ValueError, match=r"q_proj has 2 adapters, \['default', 'second'\]; expected one"):
        list(named_weights(policy))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("share", [None, True])
def test_the_engine_draws_from_the_adapted_policy(tools, adapted, monkeypatch, caplog, tied, share):
    pytest.importorskip("vllm")
    policy, requests = adapted(tied), tools.requests()
    move(policy)
    sampler = tools.vllm(policy, tied, share_weights=share)
    assert not sampler.shares_weights
    assert "q_proj.weight has an adapter, and the engine gets the sum of both" in caplog.text
    monkeypatch.setattr(HandOver, "_load", lambda self: pytest.fail("vLLM's load_weights was called again"))
    completions = sampler.generate(requests, SAMPLE)
    assert tools.distance(policy, requests, completions) < 1e-4
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    for _ in range(2):
        tools.change(policy)
        assert tools.distance(policy, requests, completions) > 0.1
        sampler.sync_weights()
        completions = sampler.generate(requests, SAMPLE)
        assert tools.distance(policy, requests, completions) < 1e-4
    changed = {name for name, p in policy.named_parameters() if not p.equal(before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_an_engine_in_bfloat16_gets_rounded_sums(tools, adapted):
    pytest.importorskip("vllm")
    policy = adapted(dtype=torch.bfloat16)
    sampler = tools.vllm(policy)
    move(policy)
    sampler.sync_weights()
    (engine,) = sampler.llm.apply_model(lambda m: dict(m.named_parameters()))
    expected = full(dict(named_weights(policy))["model.layers.1.mlp.down_proj.weight"])
    assert engine["model.layers.1.mlp.down_proj.weight"].equal(expected)
    assert expected.dtype == torch.bfloat16
    assert len(sampler.generate(tools.requests(), SAMPLE)) == 12


def test_adapters_of_another_kind_are_refused(tools, adapted):
    """Rather than left out."""
    pytest.importorskip("vllm")
    with pytest.raises(Exception, match="lora_magnitude_vector"):
        tools.vllm(adapted(use_dora=True))


def test_the_other_sampler_draws_from_the_adapted_policy(tools, adapted):
    policy, requests = adapted(), tools.requests()
    move(policy)
    sampler = tools.transformers(policy)
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4
