"""Small random checkpoints of many architectures, as a user would have them, and a few training steps on each.

``python tests/zoo.py SAMPLER FAMILY ...`` takes the steps and prints what came of it, a line each.
"""

import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.loggers.logger import DummyLogger
from transformers import AutoConfig, AutoModelForCausalLM

from masa_lightning.data.arithmetic import ArithmeticDataModule
from masa_lightning.models import tiny
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.optimization import AdamW, Optimization

Kind = Literal["dense", "windowed", "experts", "recurrent", "other"]
SamplerName = Literal["transformers", "vllm"]

VOCABULARY: int = AutoConfig.from_pretrained(tiny.PATH).vocab_size  # of the embedded tokenizer
WIDTH = 128
PROMPT, COMPLETION = 48, 24

_USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the least that vLLM attends with on CPU
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
_GPT = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 256}
_LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 512,  # with the next but one 576, the only sum that vLLM attends with
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "head_dim": 64,
    "num_key_value_heads": 4,
}
_SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}


@dataclass(frozen=True)
class Family:
    """An architecture.

    Args:
        type: transformers' `model_type`.
        kind: What its layers are made of.
        example: Models that have it.
        settings: What its configuration has beyond or instead of the usual.
        without: Usual settings that it does not know.
        text: What the configuration of its text part has beyond or instead of the usual, if it is one of several parts.
    """

    type: str
    kind: Kind
    example: str
    settings: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    text: dict[str, Any] | None = None

    def config(self) -> Any:
        """A small configuration."""
        usual = {name: value for name, value in _USUAL.items() if name not in self.without}
        if self.text is not None:
            return AutoConfig.for_model(self.type, text_config=usual | self.text, **self.settings)
        return AutoConfig.for_model(self.type, **(usual | self.settings))


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", "dense", "Llama 2, TinyLlama, SmolLM2"),
    "llama3-rope": Family(
        "llama",
        "dense",
        "Llama 3.1 to 3.3",
        _rope(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "llama-linear-rope": Family("llama", "dense", "Llama 2 32K", _rope(rope_type="linear", factor=4.0)),
    "llama-dynamic-rope": Family("llama", "dense", "Llama 2 with dynamic NTK", _rope(rope_type="dynamic", factor=4.0)),
    "mistral": Family("mistral", "dense", "Mistral 7B v0.3, Mistral Small", {"sliding_window": None}),
    "mistral-window": Family("mistral", "windowed", "Mistral 7B v0.1", {"sliding_window": 16}),
    "ministral": Family(
        "ministral",
        "windowed",
        "Ministral 8B",
        {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen2": Family("qwen2", "dense", "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen"),
    "qwen2-tied": Family("qwen2", "dense", "Qwen2.5 0.5B to 3B", {"tie_word_embeddings": True}),
    "qwen3": Family("qwen3", "dense", "Qwen3"),
    "qwen3-yarn": Family(
        "qwen3",
        "dense",
        "Qwen3 with YaRN",
        _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64) | {"max_position_embeddings": 64},
    ),
    "phi": Family("phi", "dense", "Phi-1.5, Phi-2", {"partial_rotary_factor": 0.5}, ("num_key_value_heads",)),
    "phi3": Family("phi3", "dense", "Phi-3, Phi-3.5, Phi-4"),
    "phi3-longrope": Family(
        "phi3",
        "dense",
        "Phi-3 mini 128k",
        _rope(rope_type="longrope", short_factor=[1.0] * 16, long_factor=[2.0] * 16)
        | {"original_max_position_embeddings": 32},
    ),
    "gemma": Family("gemma", "dense", "Gemma", {"tie_word_embeddings": True}),
    "gemma2": Family("gemma2", "windowed", "Gemma 2", {"tie_word_embeddings": True, "sliding_window": 16}),
    "gemma3": Family(
        "gemma3_text", "windowed", "Gemma 3 270M, 1B", {"tie_word_embeddings": True, "sliding_window": 16}
    ),
    "gemma3-vision": Family(
        "gemma3",
        "windowed",
        "Gemma 3 4B to 27B, trained on text",
        {"vision_config": _SMALL_VISION, "mm_tokens_per_image": 4, "image_token_index": 517, "boi_token_index": 516}
        | {"eoi_token_index": 515, "pad_token_id": 0, "eos_token_id": 2},
        text={"sliding_window": 16},
    ),
    "olmo": Family("olmo", "dense", "OLMo"),
    "olmo2": Family("olmo2", "dense", "OLMo 2"),
    "olmo3": Family("olmo3", "windowed", "OLMo 3", {"sliding_window": 16, "num_hidden_layers": 4}),
    "smollm3": Family("smollm3", "dense", "SmolLM3", {"num_hidden_layers": 4}),
    "gpt2": Family("gpt2", "dense", "GPT-2, DistilGPT-2", _GPT | {"tie_word_embeddings": True}),
    "gpt-bigcode": Family("gpt_bigcode", "dense", "StarCoder, SantaCoder", _GPT | {"tie_word_embeddings": True}),
    "gpt-neo": Family(
        "gpt_neo",
        "windowed",
        "GPT-Neo, TinyStories",
        {"num_heads": 4, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 16},
    ),
    "gpt-neox": Family("gpt_neox", "dense", "GPT-NeoX, Pythia", {}, ("num_key_value_heads",)),
    "gptj": Family("gptj", "dense", "GPT-J", _GPT | {"rotary_dim": 16}),
    "bloom": Family("bloom", "dense", "BLOOM, BLOOMZ", {"n_layer": 2, "n_head": 4, "tie_word_embeddings": True}),
    "opt": Family(
        "opt", "dense", "OPT", {"ffn_dim": 192, "word_embed_proj_dim": WIDTH, "tie_word_embeddings": True}, ()
    ),
    "mpt": Family("mpt", "dense", "MPT", {"d_model": WIDTH, "n_layers": 2, "n_heads": 4, "tie_word_embeddings": True}),
    "stablelm": Family("stablelm", "dense", "StableLM 2", {"partial_rotary_factor": 0.5, "use_qkv_bias": True}),
    "starcoder2": Family("starcoder2", "dense", "StarCoder2", {"sliding_window": None}),
    "falcon": Family(
        "falcon", "dense", "Falcon 7B, 40B", {"new_decoder_architecture": True, "num_kv_heads": 2}, ("head_dim",)
    ),
    "granite": Family("granite", "dense", "Granite 3"),
    "granite-scaled": Family("granite", "dense", "Granite 3 with logits_scaling", {"logits_scaling": 8.0}),
    "glm": Family("glm", "dense", "GLM-4 9B"),
    "glm4": Family("glm4", "dense", "GLM-4 0414"),
    "exaone4": Family("exaone4", "windowed", "EXAONE 4.0", {"sliding_window": 16, "sliding_window_pattern": 2}),
    "ernie4.5": Family("ernie4_5", "dense", "ERNIE 4.5 0.3B"),
    "cohere": Family("cohere", "dense", "Command R", {"tie_word_embeddings": True}),
    "cohere2": Family("cohere2", "windowed", "Command R7B", {"tie_word_embeddings": True, "sliding_window": 16}),
    "nemotron": Family("nemotron", "dense", "Nemotron-4, Minitron"),
    "seed-oss": Family("seed_oss", "dense", "Seed-OSS"),
    "arcee": Family("arcee", "dense", "AFM 4.5B"),
    "helium": Family("helium", "dense", "Helium"),
    "apertus": Family("apertus", "dense", "Apertus"),
    "hunyuan": Family("hunyuan_v1_dense", "dense", "Hunyuan dense"),
    "persimmon": Family("persimmon", "dense", "Persimmon", {}, ("num_key_value_heads",)),
    "diffllama": Family("diffllama", "dense", "DiffLlama"),
    "nanochat": Family("nanochat", "dense", "nanochat"),
    "qwen2-moe": Family("qwen2_moe", "experts", "Qwen1.5-MoE", _EXPERTS | {"shared_expert_intermediate_size": 48}),
    "qwen3-moe": Family("qwen3_moe", "experts", "Qwen3 30B-A3B", _EXPERTS),
    "mixtral": Family(
        "mixtral", "experts", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    ),
    "olmoe": Family("olmoe", "experts", "OLMoE", {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek-v2": Family(
        "deepseek_v2",
        "experts",
        "DeepSeek V2",
        _LATENT
        | {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        | {"first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    ),
    "deepseek-v3": Family(
        "deepseek_v3",
        "experts",
        "DeepSeek V3, R1",
        _LATENT
        | {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        | {"first_k_dense_replace": 1, "n_group": 2, "topk_group": 1},
    ),
    "gpt-oss": Family(
        "gpt_oss",
        "experts",
        "gpt-oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}
        | _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0),
    ),
    "granite-moe": Family("granitemoe", "experts", "Granite 3 MoE", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4-moe": Family(
        "glm4_moe",
        "experts",
        "GLM-4.5 Air",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 1}
        | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    ),
    "ernie4.5-moe": Family(
        "ernie4_5_moe",
        "experts",
        "ERNIE 4.5 21B-A3B",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 48, "moe_num_shared_experts": 1}
        | {"moe_layer_start_index": 1},
    ),
    "phimoe": Family("phimoe", "experts", "Phi-3.5 MoE", {"num_local_experts": 4, "sliding_window": None}),
    "dots1": Family(
        "dots1",
        "experts",
        "dots.llm1",
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 1}
        | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4},
    ),
    "mamba": Family(
        "mamba", "recurrent", "Mamba", {"state_size": 8, "tie_word_embeddings": True}, ("intermediate_size",)
    ),
    "mamba2": Family(
        "mamba2",
        "recurrent",
        "Mamba 2",
        {"state_size": 16, "num_heads": 8, "head_dim": 32, "n_groups": 2, "chunk_size": 16},
        ("intermediate_size",),
    ),
    "falcon-mamba": Family("falcon_mamba", "recurrent", "Falcon Mamba", {"state_size": 8}, ("intermediate_size",)),
    "lfm2": Family(
        "lfm2",
        "recurrent",
        "LFM2",
        {
            "layer_types": ["conv", "full_attention"],
            "tie_word_embeddings": True,
            "block_auto_adjust_ff_dim": False,
            "block_dim": WIDTH,
            "conv_dim": WIDTH,
            "block_ff_dim": 192,
        },
    ),
    "qwen3-next": Family(
        "qwen3_next", "recurrent", "Qwen3-Next", _EXPERTS | _DELTA_NET | {"shared_expert_intermediate_size": 48}
    ),
    "qwen3.5": Family("qwen3_5_text", "recurrent", "Qwen3.5", _DELTA_NET),
    "jamba": Family(
        "jamba",
        "recurrent",
        "Jamba",
        {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False},
    ),
    "bamba": Family(
        "bamba",
        "recurrent",
        "Bamba",
        {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16}
        | {"mamba_n_groups": 2, "mamba_chunk_size": 16},
    ),
    "falcon-h1": Family(
        "falcon_h1",
        "recurrent",
        "Falcon-H1",
        {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_ssm": 256, "mamba_d_state": 16, "mamba_n_groups": 2}
        | {"mamba_chunk_size": 16},
    ),
    "granite-hybrid": Family(
        "granitemoehybrid",
        "recurrent",
        "Granite 4",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48}
        | {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16}
        | {"mamba_n_groups": 2, "mamba_chunk_size": 16},
    ),
    "nemotron-h": Family(
        "nemotron_h",
        "recurrent",
        "Nemotron-H, Nemotron Nano 2",
        {"layers_block_type": ["mamba", "mlp", "attention", "mlp"], "mamba_num_heads": 8, "mamba_head_dim": 32}
        | {"ssm_state_size": 16, "n_groups": 2, "chunk_size": 16},
        ("num_hidden_layers",),
    ),
    "zamba2": Family(
        "zamba2",
        "recurrent",
        "Zamba2",
        {"mamba_d_state": 16, "mamba_headdim": 32, "n_mamba_heads": 8, "mamba_ngroups": 2, "chunk_size": 16}
        | {"num_mem_blocks": 1, "layers_block_type": ["mamba", "hybrid"], "num_key_value_heads": 4}
        | {"attention_head_dim": 64, "attention_hidden_size": 256, "adapter_rank": 8, "use_mem_rope": True},
    ),
    "recurrent-gemma": Family(
        "recurrent_gemma",
        "recurrent",
        "RecurrentGemma",
        {"lru_width": WIDTH, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
    ),
    "zamba": Family(
        "zamba",
        "recurrent",
        "Zamba",
        {"mamba_d_state": 8, "n_mamba_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4}
        | {"num_key_value_heads": 4, "attention_head_dim": 64, "use_mamba_kernels": False},
    ),
    "olmo-hybrid": Family(
        "olmo_hybrid",
        "recurrent",
        "OLMo Hybrid",
        _DELTA_NET | {"linear_num_value_heads": 2},
    ),
    "xlstm": Family("xlstm", "recurrent", "xLSTM", {"num_heads": 4, "num_blocks": 2, "chunk_size": 16}),
    "llama4": Family("llama4_text", "experts", "Llama 4", {"num_local_experts": 4, "intermediate_size_mlp": 192}),
    "gemma3n": Family(
        "gemma3n_text",
        "windowed",
        "Gemma 3n",
        {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 1,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 32,
            "laurel_rank": 8,
            "sliding_window": 16,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "gemma4": Family(
        "gemma4_text",
        "windowed",
        "Gemma 4",
        {"sliding_window": 16, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 32},
    ),
    "minimax": Family("minimax", "recurrent", "MiniMax", {"num_local_experts": 4, "block_size": 16}),
    "hunyuan-moe": Family("hunyuan_v1_moe", "experts", "Hunyuan A13B", {"num_experts": 4, "moe_topk": 2}),
    "lfm2-moe": Family(
        "lfm2_moe",
        "recurrent",
        "LFM2 8B-A1B",
        _EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    ),
    "minicpm3": Family("minicpm3", "dense", "MiniCPM3", _LATENT),
    "xglm": Family("xglm", "dense", "XGLM", {"d_model": WIDTH, "ffn_dim": 192, "num_layers": 2, "attention_heads": 4}),
    "codegen": Family("codegen", "dense", "CodeGen", _GPT | {"rotary_dim": 16}),
    "biogpt": Family("biogpt", "dense", "BioGPT", {}),
    "gpt-neox-japanese": Family("gpt_neox_japanese", "dense", "GPT-NeoX Japanese", {}),
    "jetmoe": Family("jetmoe", "experts", "JetMoE", {"num_local_experts": 4, "kv_channels": 32}),
    "bitnet": Family("bitnet", "dense", "BitNet", {}),
    "exaone-moe": Family("exaone_moe", "experts", "EXAONE MoE", _EXPERTS),
    "doge": Family("doge", "dense", "Doge", {}),
    "rwkv": Family("rwkv", "recurrent", "RWKV 4", {"attention_hidden_size": WIDTH}),
    "t5": Family(
        "t5", "other", "T5, Flan-T5", {"d_model": WIDTH, "d_ff": 192, "d_kv": 32, "num_layers": 2, "num_heads": 4}
    ),
    "bert": Family("bert", "other", "BERT"),
}

_INSTEAD = "use TransformersSampler"
_EXPERTS = ", with experts) as the policy does"
_COMPARED = "the sampler does not draw from the policy"
# By family, or by family and sampler, a part of the message that it is refused with before anything is drawn.
_REFUSED: dict[str | tuple[str, SamplerName], str] = {
    "gemma2": "final_logit_softcapping=30.0",
    "granite-scaled": "logits_scaling=8.0",
    "cohere": "logit_scale=0.0625",
    "cohere2": "logit_scale=0.0625",
    "nanochat": "final_logit_softcapping=15.0",
    "recurrent-gemma": "logits_soft_cap=30.0",
    "xlstm": "output_logit_soft_cap=30.0",
    "gemma3n": "final_logit_softcapping=30.0",
    "minicpm3": "logits_scaling=0.5",
    "rwkv": "a state that transformers mixes up",
    "t5": "an encoder and a decoder",
    "bert": "tokens that see those behind them",
    ("gpt-neo", "vllm"): _INSTEAD,
    ("mpt", "vllm"): _INSTEAD,
    ("codegen", "vllm"): _INSTEAD,
    ("xglm", "vllm"): _INSTEAD,
    ("biogpt", "vllm"): _INSTEAD,
    ("gpt-neox-japanese", "vllm"): _INSTEAD,
    ("diffllama", "vllm"): _INSTEAD,
    ("ernie4.5-moe", "vllm"): _EXPERTS,
    ("phimoe", "vllm"): _EXPERTS,
    ("mamba", "vllm"): _INSTEAD,
    ("falcon-mamba", "vllm"): _INSTEAD,
    ("qwen3-next", "vllm"): _INSTEAD,
    ("qwen3.5", "vllm"): _INSTEAD,
    ("jamba", "vllm"): _INSTEAD,
    ("bamba", "vllm"): _INSTEAD,
    ("zamba", "vllm"): _INSTEAD,
    ("olmo-hybrid", "vllm"): _INSTEAD,
    ("minimax", "vllm"): _INSTEAD,
    ("jetmoe", "vllm"): _EXPERTS,
    ("granite-hybrid", "vllm"): _COMPARED,
    ("zamba2", "vllm"): _COMPARED,
    ("mamba2", "vllm"): _COMPARED,
    ("lfm2", "vllm"): _COMPARED,
    ("lfm2-moe", "vllm"): _EXPERTS,
    ("gpt-bigcode", "vllm"): _INSTEAD,
    ("apertus", "vllm"): _COMPARED,
    ("doge", "vllm"): _COMPARED,
    ("gemma3-vision", "vllm"): _INSTEAD,
}


def refusal(name: str, sampler: SamplerName | None = None) -> str | None:
    """A part of the message that a family is refused with, by a sampler or whatever the sampler; None if it works."""
    return _REFUSED.get(name) or (_REFUSED.get((name, sampler)) if sampler else None)


def save(name: str, folder: Path) -> Path:
    """Saves a small checkpoint of a family, in which every tensor is random, with the embedded model's tokenizer."""
    config = FAMILIES[name].config()
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, name)))
        if config.model_type == "t5":
            from transformers import AutoModelForSeq2SeqLM

            model = AutoModelForSeq2SeqLM.from_config(config)
        elif config.model_type == "bert":
            from transformers import AutoModelForMaskedLM

            model = AutoModelForMaskedLM.from_config(config)
        else:
            model = AutoModelForCausalLM.from_config(config)
        randomise(model)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny.PATH / file, folder)
    return folder


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Gives each weight a value of its own, and enough spread that a wrong one shows."""
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("inv_freq") or not weight.is_floating_point():
            continue
        if name.endswith("e_score_correction_bias"):
            weight.normal_(0, 0.05)
        elif weight.dim() == 1 or name.endswith(("A_log", "moe_statics.e_score_correction_bias")):
            weight.add_(0.2 * torch.randn_like(weight))
        elif name in dict(model.named_parameters()):
            weight.normal_(0, min(0.3, 1.2 / math.sqrt(weight.shape[-1])))


class Oddness:
    """Rewards that differ within nearly every group."""

    def __call__(self, problem: Any, completions: list[str]) -> list[float]:
        return [len(set(text)) % 7 / 7 for text in completions]


class _Watch(Callback, DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = True

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append(dict(metrics))


@dataclass
class Outcome:
    """What came of training.

    Args:
        steps: Training steps that were taken.
        difference: Largest difference of log-probabilities between sampler and policy, in nats.
        packs: Whether the policy computes without padding.
        moved: Largest change of any weight.
        error: Class and message of what stopped it.
        started: Whether a training step had begun.
    """

    steps: int = 0
    difference: float = math.nan
    packs: bool | None = None
    moved: float = 0.0
    error: str = ""
    started: bool = False


def make_sampler(sampler: SamplerName) -> Any:
    """A small one."""
    if sampler == "vllm":
        from masa_lightning.sampling.vllm import VLLMSampler

        return VLLMSampler(kv_cache_gib=0.05, max_num_seqs=16)
    from masa_lightning.sampling.transformers import TransformersSampler

    return TransformersSampler()


def train(folder: Path, sampler: SamplerName, steps: int = 3, **settings: Any) -> Outcome:
    """Takes training steps, after each of which the weights are others."""
    watch, outcome = _Watch(), Outcome()
    defaults: dict[str, Any] = {
        "prompts": tiny.PROMPTS,
        "num_generations": 4,
        "reward_functions": [Oddness()],
        "max_prompt_length": PROMPT,
        "max_completion_length": COMPLETION,
        "optimization": Optimization(optimizer=partial(AdamW, lr=1e-2)),
        "seed": 0,
    }
    try:
        module = GRPOLightningModule(model=str(folder), sampler=make_sampler(sampler), **(defaults | settings))
        trainer = LightningTrainer(
            accelerator="cpu",
            logger=[watch],
            callbacks=[watch],
            max_steps=steps,
            log_every_n_steps=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, ArithmeticDataModule(batch_size=3, train_size=3 * steps))
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}".replace(str(folder), "CHECKPOINT")
    outcome.started = watch.started
    metrics = [m for m in watch.metrics if "sampling/sampling_logp_difference/max" in m]
    outcome.steps = len(metrics)
    if metrics:
        values = [m["sampling/sampling_logp_difference/max"] for m in metrics]
        outcome.difference = math.nan if any(map(math.isnan, values)) else max(values)
    with contextlib.suppress(Exception):
        policy = module.policy
        outcome.packs = policy.packs
        before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        now = dict(policy.model.named_parameters())
        outcome.moved = max((now[n] - p).abs().max().item() for n, p in before.named_parameters())
    return outcome


def in_another_process(names: Sequence[str], sampler: SamplerName, timeout: float = 240) -> dict[str, Outcome]:
    """Trains families one after the other in a process of their own; without those that it died before or at."""
    done = subprocess.run(
        [sys.executable, __file__, sampler, *names], capture_output=True, text=True, timeout=timeout, check=False
    )
    lines = [line.partition("\t") for line in done.stdout.splitlines() if line.startswith(_MARK)]
    return {name.removeprefix(_MARK): Outcome(**json.loads(outcome)) for name, _, outcome in lines}


_MARK = "zoo: "


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory() as made:
            outcome = train(save(name, Path(made)), sys.argv[1])  # type: ignore[arg-type]
        print(f"{_MARK}{name}\t{json.dumps(vars(outcome))}", flush=True)
