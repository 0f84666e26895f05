"""Engines of other architectures than Qwen3: experts, models that vLLM borrows from transformers, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    GPT2Config,
    GptOssConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from masa_lightning.models.steady import make_steady
from masa_lightning.sampling.vllm import VLLMSampler
from masa_lightning.sampling.vllm.weights import HandOver
from masa_lightning.settings import SamplingSettings

SAMPLE = SamplingSettings()
SMALL = {
    "vocab_size": 250,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
CONFIGS = {
    "qwen3_moe": Qwen3MoeConfig(**SMALL, **EXPERTS, num_experts=4),
    "mixtral": MixtralConfig(**SMALL, num_experts_per_tok=2, num_local_experts=4, sliding_window=None),
    "gpt_oss": GptOssConfig(
        **SMALL,
        num_experts_per_tok=2,
        num_local_experts=4,
        sliding_window=16,
        rope_parameters=YARN | {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    ),
    "deepseek_v2": DeepseekV2Config(
        **{**SMALL, "num_key_value_heads": 4, "head_dim": 64},
        **EXPERTS,
        n_routed_experts=4,
        n_shared_experts=1,
        first_k_dense_replace=1,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        q_lora_rank=32,
        kv_lora_rank=512,
        qk_nope_head_dim=32,
        qk_rope_head_dim=64,
        v_head_dim=32,
    ),
    "olmo2": Olmo2Config(
        **{name: value for name, value in SMALL.items() if name != "head_dim"} | {"num_attention_heads": 2}
    ),
    "gpt2": GPT2Config(vocab_size=250, n_embd=64, n_layer=2, n_head=2, n_positions=256, initializer_range=0.15),
    "mpt": MptConfig(vocab_size=250, d_model=64, n_layers=2, n_heads=4),
    "yarn": Qwen3Config(**{**SMALL, "max_position_embeddings": 64}, rope_parameters=YARN),
    "longrope": Phi3Config(
        **{name: value for name, value in SMALL.items() if name != "head_dim"} | {"num_attention_heads": 2},
        rope_parameters=LONG,
        original_max_position_embeddings=32,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def vllm(tools):
    """What engines do on CPU; tests/gpu is for the others."""
    tools.needs_cpu()
    return pytest.importorskip("vllm")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """`checkpoint(name)` is a folder with a model in which every weight differs."""
    root = tmp_path_factory.mktemp("architectures")

    def make(name: str) -> Path:
        if not (root / name).exists():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(CONFIGS[name])
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(torch.randn_like(weight) * (0.3 if weight.dim() == 1 else 0.05))
            model.save_pretrained(root / name)
        return root / name

    return make


def load(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model


def engine(policy: PreTrainedModel, path: Path, length: int = 96, **settings: object) -> VLLMSampler:
    sampler = VLLMSampler(**{"kv_cache_gib": 0.02, "max_num_seqs": 64} | settings)
    sampler.setup(policy, str(path), max_model_length=length, stop_token_ids=(2, 3))
    return sampler


def follows(tools, policy, sampler) -> None:
    """Log-probabilities are the policy's, at first and after each of two updates."""
    requests = tools.requests()
    before = sampler.generate(requests, SAMPLE)
    assert tools.distance(policy, requests, before) < 1e-4
    for _ in range(2):
        tools.change(policy)
        assert tools.distance(policy, requests, before) > 0.1
        sampler.sync_weights()
        assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


@pytest.mark.parametrize("share", [None, False], ids=["shared", "streamed"])
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_experts_follow_the_optimizer(tools, checkpoint, name, share):
    policy = load(checkpoint(name))
    sampler = engine(policy, checkpoint(name), share_weights=share)
    assert sampler.shares_weights is (share is None)
    follows(tools, policy, sampler)


def test_experts_that_vllm_keeps_otherwise_are_loaded_each_time(tools, checkpoint, caplog):
    policy = load(checkpoint("gpt_oss"))
    sampler = engine(policy, checkpoint("gpt_oss"))
    assert not sampler.shares_weights
    follows(tools, policy, sampler)


def test_latent_attention_follows_the_optimizer(tools, checkpoint):
    """vLLM computes two more tensors from its weights."""
    policy = load(checkpoint("deepseek_v2"))
    follows(tools, policy, engine(policy, checkpoint("deepseek_v2")))


def test_a_class_that_vllm_borrows_stays_as_it_is(tools, checkpoint):
    path = checkpoint("olmo2")
    policy = load(path)
    base = type(policy.model)
    set_by_transformers = {"_can_set_experts_implementation_cached_value"}
    before = base.__bases__, base.__init__, base.__call__, set(vars(base)) - set_by_transformers
    sampler = engine(policy, path)
    assert (base.__bases__, base.__init__, base.__call__, set(vars(base)) - set_by_transformers) == before
    (inner,) = sampler.llm.apply_model(lambda model: type(model.model))
    assert inner.__call__ is not base.__call__  # vLLM's own model keeps what makes it compilable
    follows(tools, policy, sampler)
    again = load(path)
    assert "vllm_config" not in vars(again.model)
    follows(tools, again, engine(again, path, share_weights=False))


def test_a_model_without_fused_layers_follows_the_optimizer(tools, checkpoint):
    policy = load(checkpoint("gpt2"))
    follows(tools, policy, engine(policy, checkpoint("gpt2")))


def test_yarn_has_the_length_after_scaling(tools, checkpoint):
    policy = load(checkpoint("yarn"))
    follows(tools, policy, engine(policy, checkpoint("yarn"), length=256))
    with pytest.raises(ValueError, match=r"(?s)does not take model .* max_model_length 257.*use TransformersSampler"):
        engine(policy, checkpoint("yarn"), length=257)


def test_longrope_has_the_frequencies_of_its_length(tools, checkpoint):
    policy = load(checkpoint("longrope"))
    make_steady(policy, 96)
    follows(tools, policy, engine(policy, checkpoint("longrope")))


def test_an_architecture_that_vllm_does_not_run_is_refused(checkpoint, capfd):
    with pytest.raises(
        ValueError, match=r"(?s)on CPU does not take model .*MptForCausalLM.*\nExpected .*use Transf"
    ) as e:
        engine(load(checkpoint("mpt")), checkpoint("mpt"))
    assert e.value.__cause__ is not None
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_quantised_checkpoint_is_refused(tools, checkpoint, tmp_path):
    path = checkpoint("qwen3_moe")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is quantised \(fp8\).* expected plain weights"):
        engine(load(path), tmp_path)


def test_what_the_engine_cannot_compute_shows_at_setup(tools, checkpoint, monkeypatch):
    def fail(*args, **kwargs):
        raise AttributeError("no such kernel")

    monkeypatch.setattr(VLLMSampler, "_run", fail)
    with pytest.raises(
        RuntimeError, match=r"cannot use it here: AttributeError: no such kernel\nExpected .*TransformersS"
    ):
        engine(tools.policy(), Path(tools.path()))


def test_a_layout_that_is_not_known_is_refused(tools, monkeypatch):
    from vllm.model_executor.model_loader import base_loader

    work = base_loader.process_weights_after_loading

    def turn(model, *rest):
        work(model, *rest)
        weight = model.model.layers[0].mlp.down_proj.weight
        weight.data = weight.data.T.contiguous().T

    monkeypatch.setattr(base_loader, "process_weights_after_loading", turn)
    with pytest.raises(
        ValueError, match=r"lays out weights .*model\.layers\.0\.mlp\.down_proj\.weight.*TransformersSampler"
    ):
        tools.vllm(tools.policy())


def test_private_layouts_are_handed_over_by_vllms_reload(tools, monkeypatch):
    """On CUDA; vLLM's code for it is the same here, for plain layers."""
    from vllm.model_executor.layers import utils

    def use_plain_linear(layer, remove_weight):
        layer.cpu_linear = F.linear

    policy, other = tools.policy(), tools.policy()
    sampler = tools.vllm(policy, share_weights=False)
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", use_plain_linear)
    hand_over = HandOver(sampler.llm, other, private="vLLM keeps it in a layout of its own")
    assert not hand_over._places
    called, rpc = [], sampler.llm.collective_rpc
    monkeypatch.setattr(
        sampler.llm, "collective_rpc", lambda name, **kwargs: (called.append(name), rpc(name, **kwargs))[1]
    )
    requests = tools.requests()
    for number in (1, 2):
        tools.change(other)
        hand_over()
        assert called == ["reload_weights"] * number
        sampler._packed.pack()
        sampler.llm.reset_prefix_cache()
        assert tools.distance(other, requests, sampler.generate(requests, SAMPLE)) < 1e-4
    del other.model.norm
    with pytest.raises(RuntimeError, match=r"1 of the engine's parameters got no weights .*model\.norm\.weight"):
        hand_over()
