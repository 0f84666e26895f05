"""Adapters on the tiny model: what trains, how they start, and the model underneath."""

import sys

import pytest
import torch

from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA, WithoutAdapters, add_adapters, check_same, leave_out_frozen
from masa_lightning.models.packing import pack
from masa_lightning.models.policy import Policy

TOKENS = pack([([5, 6, 7], [8, 9, 1]), ([10], [11, 12])])
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture
def adapted(tiny_checkpoint):
    def make(lora=LoRA(rank=4), seed=3, dtype="float32", moved=0.1, gradient_checkpointing=False):
        model = loading.load_model(str(tiny_checkpoint), dtype, gradient_checkpointing)
        add_adapters(model, lora, seed)
        for p in trained(model).values():
            p.data += moved * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        return Policy(model)

    return make


@pytest.fixture
def base(tiny_checkpoint):
    return Policy(loading.load_model(str(tiny_checkpoint), "float32"))


def trained(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def assert_equal(left, right):
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_adapters_alone_train_and_the_start_is_the_model(adapted, base):
    policy = adapted(moved=0.0)
    names = {
        f"model.model.layers.{i}.{'mlp' if name[0] in 'gud' else 'self_attn'}.{name}" for i in (0, 1) for name in LINEAR
    }
    assert {*trained(policy)} == {f"{name}.lora_{part}.default.weight" for name in names for part in "AB"}
    assert_equal(policy(TOKENS), base(TOKENS))
    policy(TOKENS)[0].sum().backward()
    assert {name for name, p in policy.named_parameters() if p.grad is not None} == {*trained(policy)}


def test_the_scale_is_alpha_over_rank(adapted, base):
    policy = adapted(LoRA(rank=4, alpha=6, targets=("down_proj",)))
    for layer, under in zip(policy.model.model.layers, base.model.model.layers, strict=True):
        down, up = layer.mlp.down_proj.lora_A["default"].weight, layer.mlp.down_proj.lora_B["default"].weight
        under.mlp.down_proj.weight.data += 1.5 * up.data @ down.data
    torch.testing.assert_close(policy(TOKENS), base(TOKENS), atol=1e-5, rtol=1e-5)


def test_the_start_is_a_function_of_the_seed_alone(adapted):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(adapted(moved=0.0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert_equal(first.values(), trained(adapted(moved=0.0)).values())
    other = trained(adapted(moved=0.0, seed=4))
    assert all(torch.equal(p, other[name]) is ("lora_B" in name) for name, p in first.items())


def test_adapters_are_float32_whatever_the_weights_are(adapted):
    policy = adapted(dtype="bfloat16")
    assert {p.dtype for p in trained(policy).values()} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    logp, _ = policy(TOKENS)
    logp.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in trained(policy).values())


def test_activation_checkpointing_changes_no_gradient(adapted):
    gradients = []
    for on in (False, True):
        policy = adapted(gradient_checkpointing=on)
        policy(TOKENS)[0].sum().backward()
        gradients.append([p.grad for p in trained(policy).values()])
    torch.testing.assert_close(*gradients)


def test_the_model_under_the_adapters(adapted, base):
    policy = adapted()
    with_adapters = policy(TOKENS)
    assert (with_adapters[0] - base(TOKENS)[0]).abs().max() > 0.1
    under = WithoutAdapters(policy)
    assert_equal(under(TOKENS, 0.7), base(TOKENS, 0.7))
    assert_equal(policy(TOKENS), with_adapters)
    with pytest.raises(AttributeError):
        under("no tokens", 1.0)
    assert_equal(policy(TOKENS), with_adapters)


def test_a_state_dict_holds_adapters_only(adapted):
    policy = adapted()
    leave_out_frozen(policy)
    assert {*policy.state_dict()} == {*trained(policy)}
    whole = torch.nn.ModuleDict({"policy": policy, "other": torch.nn.Linear(1, 1)}).state_dict()
    assert {*whole} == {f"policy.{name}" for name in trained(policy)} | {"other.weight", "other.bias"}


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "proj", "norm"])
def test_what_is_no_linear_layer_inside_is_refused(adapted, target):
    """An adapter on the output layer would be missed by `Policy.forward`, one on the embedding by the hand-over."""
    with pytest.raises(ValueError, match=rf"target '{target}' is no linear layer .*{LINEAR[0]}"):
        adapted(LoRA(targets=("q_proj", target)))


def test_targets_may_be_parts_of_names(adapted):
    assert len(trained(adapted(LoRA(targets=("1.self_attn.q_proj", "v_proj"))))) == 2 * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; expected >= 1"),
        ({"alpha": 0}, "alpha is 0; expected >= 1"),
        ({"targets": ()}, "expected 'all-linear' or a list"),
        ({"targets": "q_proj"}, "targets are 'q_proj'; expected"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'masa_lightning\[lora\]'"):
        LoRA().config()


def test_settings_of_checkpoint_and_module():
    check_same(None, None)
    check_same({"rank": 16, "alpha": 32, "targets": "all-linear"}, LoRA())
    for saved, lora in (None, LoRA()), ({"rank": 4, "alpha": 32, "targets": ("q_proj",)}, LoRA(targets=("q_proj",))):
        with pytest.raises(
            ValueError, match=r"checkpoint was written with lora: .*, and this module has lora: .rank: 16"
        ):
            check_same(saved, lora)
