"""The oracle: full logits of the Hugging Face model, one row at a time, without padding."""

import pytest
import torch
from transformers import (
    FalconH1Config,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    PhiConfig,
    PhiForCausalLM,
    PretrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from masa_lightning.models.policy import Policy

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 71}
QWEN = {**SMALL, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3}


def make_model(name):
    torch.manual_seed(1)
    if name == "phi":  # its output layer has a bias
        model = PhiForCausalLM(PhiConfig(**SMALL, initializer_range=0.3))
        torch.nn.init.normal_(model.lm_head.bias)
    elif name == "gpt2":  # learned positions, dropout
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=71, initializer_range=0.3))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**QWEN, tie_word_embeddings=name == "tied"))
    return model.eval()


def make_batch():
    """Prompts of 1, 4 and 2 tokens; completions of 6, 2 and 0; the padding holds a token that matters elsewhere."""
    rows = [([5], [6, 7, 8, 9, 10, 11]), ([12, 13, 14, 15], [16, 5]), ([20, 21], [])]
    input_ids = torch.full((3, 7), 33)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    for b, (prompt, completion) in enumerate(rows):
        input_ids[b, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        mask[b, : len(completion)] = True
    return rows, input_ids, torch.tensor([len(prompt) for prompt, _ in rows]), mask


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


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", ["tied", "untied", "phi", "gpt2"])
def test_equals_the_full_logits(name, temperature):
    model = make_model(name)
    rows, input_ids, start, mask = make_batch()
    logp, entropy = Policy(model)(input_ids, start, mask, temperature)
    expected_logp, expected_entropy = oracle(model, rows, temperature)
    assert logp.shape == entropy.shape == mask.shape
    torch.testing.assert_close(logp[mask], torch.cat(expected_logp), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(entropy[mask], torch.cat(expected_entropy), atol=2e-5, rtol=1e-5)
    assert (logp[~mask] == 0).all()
    assert (entropy[~mask] == 0).all()
    assert not entropy.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", ["tied", "untied", "phi"])
def test_gradients_equal_those_of_the_full_logits(name, temperature):
    model = make_model(name)
    rows, input_ids, start, mask = make_batch()
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25, 2.0, -0.5])
    logp, _ = Policy(model)(input_ids, start, mask, temperature)
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad((logp[mask] * factors).sum(), parameters)
    expected = torch.autograd.grad((torch.cat(oracle(model, rows, temperature)[0]) * factors).sum(), parameters)
    for parameter, a, b in zip(names, got, expected, strict=True):
        size = b.abs().max()
        assert size > 0 or "k_proj.bias" in parameter, parameter  # softmax ignores what all keys have in common
        torch.testing.assert_close(a, b, atol=float(1e-5 * size + 1e-6), rtol=0, msg=parameter)


def test_padding_and_other_rows_do_not_matter():
    model = make_model("tied")
    _, input_ids, start, mask = make_batch()
    logp, _ = Policy(model)(input_ids, start, mask)
    input_ids[1, 6:], input_ids[2] = 70, 69
    start[2] = 1
    changed, _ = Policy(model)(input_ids, start, mask)
    torch.testing.assert_close(changed, logp, atol=1e-6, rtol=0)


def test_gradient_checkpointing_changes_nothing():
    model = make_model("tied")
    _, input_ids, start, mask = make_batch()
    parameters = list(model.parameters())
    plain = torch.autograd.grad(Policy(model)(input_ids, start, mask)[0].sum(), parameters)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for a, b in zip(
        torch.autograd.grad(Policy(model)(input_ids, start, mask)[0].sum(), parameters), plain, strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_bfloat16_gives_float32():
    model = make_model("tied").to(torch.bfloat16)
    _, input_ids, start, mask = make_batch()
    logp, entropy = Policy(model)(input_ids, start, mask)
    assert logp.dtype == entropy.dtype == torch.float32
    logp.sum().backward()
    assert model.lm_head.weight.grad.dtype == torch.bfloat16


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
