"""The oracle: full logits of the Hugging Face model, one row at a time, without padding."""

import pytest
import torch
from transformers import (
    FalconH1Config,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PretrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from masa_lightning.functional.logprobs import token_logprobs
from masa_lightning.models import policy as policy_module
from masa_lightning.models.packing import pack
from masa_lightning.models.policy import Policy

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 71}
QWEN = {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3}


def make_model(name):
    torch.manual_seed(1)
    if name == "phi":  # its output layer has a bias
        model = PhiForCausalLM(PhiConfig(**SMALL, initializer_range=0.3))
        torch.nn.init.normal_(model.lm_head.bias)
    elif name == "mistral":  # a sliding window, which cannot be packed
        model = MistralForCausalLM(MistralConfig(**QWEN, sliding_window=4))
    elif name == "gpt2":  # learned positions, dropout
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=71, initializer_range=0.3))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**QWEN, tie_word_embeddings=name == "tied"))
    return model.eval()


ROWS = [([5], [6, 7, 8, 9, 10, 11]), ([12, 13, 14, 15], [16, 5]), ([12, 13, 14, 15], [6, 7, 8]), ([20, 21], [33])]
"""Prompts of 1, 4, again 4 and 2 tokens; completions of 6, 2, 3 and 1."""


CASES = [(name, packs) for name in ("tied", "untied", "phi", "gpt2") for packs in (True, False)] + [("mistral", False)]


def oracle(model, rows, temperature):
    """Log-probabilities (with graph) and entropies of each row's completion."""
    logps, entropies = [], []
    for prompt, completion in rows:
        if completion:
            z = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
            p = torch.softmax(z, -1)
            logps.append(torch.log(p[range(len(completion)), completion]))
            entropies.append(-(p * torch.log(p)).sum(-1))
    return logps, entropies


def make_policy(name, *, packs):
    policy = Policy(make_model(name))
    assert policy.packs is (name != "mistral")
    policy.packs = packs
    return policy


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("name", "packs"), CASES)
def test_equals_the_full_logits(name, packs, temperature):
    tokens = pack(ROWS)
    logp, entropy = make_policy(name, packs=packs)(tokens, temperature)
    expected_logp, expected_entropy = oracle(make_model(name), ROWS, temperature)
    mask = tokens.mask
    assert mask.sum(1).tolist() == [6, 2, 3, 1]
    assert logp.shape == entropy.shape == mask.shape
    torch.testing.assert_close(logp[mask], torch.cat(expected_logp), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(entropy[mask], torch.cat(expected_entropy), atol=2e-5, rtol=1e-5)
    assert (logp[~mask] == 0).all()
    assert (entropy[~mask] == 0).all()
    assert entropy.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("name", "packs"), CASES)
def test_gradients_equal_those_of_the_full_logits(name, packs, temperature):
    policy, model = make_policy(name, packs=packs), make_model(name)
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25, 2.0, -0.5, 1.5, -0.75, 0.3, -2.5])
    tokens = pack(ROWS)
    logp, _ = policy(tokens, temperature)
    got = torch.autograd.grad((logp[tokens.mask] * factors).sum(), list(policy.parameters()))
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad((torch.cat(oracle(model, ROWS, temperature)[0]) * factors).sum(), parameters)
    for parameter, a, b in zip(names, got, expected, strict=True):
        size = b.abs().max()
        # Softmax ignores what all keys have in common, here GPT-2's key bias inside a fused one and Phi's.
        assert size > 0 or "k_proj.bias" in parameter, parameter
        torch.testing.assert_close(a, b, atol=float(1e-5 * size + 1e-6), rtol=0, msg=parameter)


def test_gradient_checkpointing_changes_nothing():
    policy, tokens = Policy(make_model("tied")), pack(ROWS)
    parameters = list(policy.parameters())
    plain = torch.autograd.grad(policy(tokens)[0].sum(), parameters)
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    policy.model.train()
    for a, b in zip(torch.autograd.grad(policy(tokens)[0].sum(), parameters), plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_bfloat16_gives_float32():
    policy, tokens = Policy(make_model("tied").to(torch.bfloat16)), pack(ROWS)
    logp, entropy = policy(tokens)
    assert logp.dtype == entropy.dtype == torch.float32
    logp.sum().backward()
    assert policy.model.lm_head.weight.grad.dtype == torch.bfloat16


class Stub(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (PretrainedConfig(final_logit_softcapping=30.0), "final_logit_softcapping=30.0"),  # Gemma 2
        (PretrainedConfig(logits_soft_cap=30.0), "logits_soft_cap=30.0"),  # RecurrentGemma
        (PretrainedConfig(output_logit_soft_cap=30.0), "output_logit_soft_cap=30.0"),  # xLSTM
        (PretrainedConfig(logit_scale=0.0625), "logit_scale=0.0625"),  # Cohere
        (GraniteConfig(logits_scaling=8.0), "logits_scaling=8.0"),
        (FalconH1Config(lm_head_multiplier=0.5), "lm_head_multiplier=0.5"),
    ],
)
def test_refuses_models_that_change_their_logits(config, found):
    with pytest.raises(ValueError, match=f"sets {found}, which is not supported"):
        Policy(Stub(config))


def test_takes_models_of_these_families_that_do_not():
    for config in (
        PretrainedConfig(final_logit_softcapping=None),
        GraniteConfig(logits_scaling=1.0),
        FalconH1Config(lm_head_multiplier=1.0),
        PretrainedConfig(logit_scale=1),
    ):
        assert Policy(Stub(config)).model.config is config


@pytest.mark.parametrize("packs", [True, False])
def test_a_float32_head_computes_in_float32_under_autocast(monkeypatch, packs):
    found = []
    monkeypatch.setattr(
        policy_module, "token_logprobs", lambda *a, **k: found.append(k["dtype"]) or token_logprobs(*a, **k)
    )
    for wanted in (False, True):
        policy = Policy(make_model("tied"), float32_head=wanted)
        policy.packs = packs
        with torch.autocast("cpu", torch.bfloat16):
            policy(pack(ROWS[:2]))
    assert found == [None, torch.float32]
