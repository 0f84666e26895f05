"""Packed attention against separate rows with transformers' eager attention, which is its definition.

On CPU longer rows, and other layouts, are in tests/models/test_packing.py.
"""

import copy

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from masa_lightning.models import packing, varlen
from masa_lightning.models.packing import pack, take_rows
from masa_lightning.models.policy import Policy

SIZES = {
    "vocab_size": 199,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "initializer_range": 0.1,
}
MODELS = {
    "qwen3, 2 key-value heads": (Qwen3ForCausalLM, Qwen3Config, 2),
    "llama, 4 key-value heads": (LlamaForCausalLM, LlamaConfig, 4),
}
# Lengths of a prompt, and of the completions behind it: one alone, several that share a call, and a row of one token.
GROUPS = {
    "short": [(1, [1]), (7, [1, 2, 37, 40, 41]), (33, [64, 1])],
    "middle": [(1, [1200]), (130, [1, 500, 700, 1100, 1300])],
    "long": [(500, [1, 2, 3999, 4000]), (1, [4000, 17]), (1030, [900, 901, 1])],
}


def rows(group: str) -> list[tuple[list[int], list[int]]]:
    draw = torch.Generator().manual_seed(3)

    def ids(count: int) -> list[int]:
        return torch.randint(0, SIZES["vocab_size"], (count,), generator=draw).tolist()

    return [(prompt, ids(n)) for length, sizes in GROUPS[group] for prompt in [ids(length)] for n in sizes]


def make(name: str, device: torch.device, dtype: torch.dtype) -> Policy:
    kind, config, heads = MODELS[name]
    torch.manual_seed(2)
    return Policy(kind(config(**SIZES, num_key_value_heads=heads)).to(device, dtype).eval())


def separate(policy: Policy, pairs: list[tuple[list[int], list[int]]], factors: Tensor) -> list[Tensor]:
    """Log-probabilities row by row with eager attention; adds to gradients as `policy` packed would."""
    model = policy.model
    model.set_attn_implementation("eager")
    results = []
    for (prompt, completion), factor in zip(pairs, factors, strict=True):
        ids = torch.tensor([prompt + completion], device=factor.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        logp = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        (logp * factor[: len(completion)]).sum().backward()
        results.append(logp.detach())
    return results


def gradient(policy: Policy) -> Tensor:
    return torch.cat([p.grad.float().flatten() for p in policy.parameters()])


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "group", ["short", *(pytest.param(name, marks=pytest.mark.gpu) for name in ("middle", "long"))]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_packed_is_eager(device, show, name, group, precision):
    """In float32 exactly; else packing costs no more than bfloat16 costs anyway."""
    check_packed(device, show, name, group, precision)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_packed_is_eager_without_the_variable_length_kernel(show, monkeypatch, name, precision):
    """As on GPUs that lack it; on CPU there is no other way."""
    monkeypatch.setattr(packing, "serves", lambda *_: False)
    check_packed(torch.device("cuda"), show, name, "long", precision)


def check_packed(device, show, name, group, precision):
    pairs = rows(group)
    tokens = pack(pairs).to(device)
    draw = torch.Generator().manual_seed(1)
    factors = torch.randn(tokens.mask.shape, generator=draw).to(device) / int(tokens.mask.sum())
    weights = torch.bfloat16 if precision == "bfloat16" else torch.float32
    packed = make(name, device, weights)
    exact, plain = copy.deepcopy(packed).float(), copy.deepcopy(packed)
    expected = torch.cat(separate(exact, pairs, factors))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "autocast"):
        logp, entropy = packed(tokens)
        loss = (logp * factors).sum()
    loss.backward()
    assert packed.packs
    assert logp.dtype == entropy.dtype == torch.float32
    assert bool((logp[~tokens.mask] == 0).all())
    found = logp.detach()[tokens.mask]
    slope = gradient(exact)
    error, slant = rms(found - expected), rms(gradient(packed) - slope) / rms(slope)
    largest = float((found - expected).abs().max())
    show(
        f"{name}, {group}, {precision}: log-probabilities off by {error:.1e} (at most {largest:.1e}), gradient {slant:.1e}"
    )
    if precision == "float32":
        assert largest < 2e-4
        assert error < 2e-5
        assert slant < 2e-5
        return
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "autocast"):
        rounded = torch.cat(separate(plain, pairs, factors))
    usual, usual_slant = rms(rounded - expected), rms(gradient(plain) - slope) / rms(slope)
    show(f"    eager rows: log-probabilities off by {usual:.1e}, gradient {usual_slant:.1e}")
    assert usual < 0.05
    assert error < 1.25 * usual
    assert slant < 1.25 * usual_slant


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["that serves", "SDPA"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_memory_goes_by_tokens_and_not_by_the_length_of_rows(peak, show, monkeypatch, precision, kernel):
    """16 completions of 4,000 tokens take little more than as many tokens in rows of 60."""
    if kernel == "SDPA":
        monkeypatch.setattr(packing, "serves", lambda *_: False)
    weights = torch.bfloat16 if precision == "bfloat16" else torch.float32
    policy = make("qwen3, 2 key-value heads", torch.device("cuda"), weights)
    prompt = [5] * 100

    def step(count: int, length: int) -> int:
        tokens = pack([(prompt, [(i + n) % SIZES["vocab_size"] for n in range(length)]) for i in range(count)]).to(
            "cuda"
        )

        def call() -> None:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
                logp, _ = policy(tokens)
            logp.sum().backward()

        policy.zero_grad(set_to_none=True)
        return peak(call)

    step(4, 50)  # cuBLAS takes its workspace
    long, half, short = step(16, 4000), step(8, 4000), step(1067, 60)
    scores = SIZES["num_attention_heads"] * 4000 * 4100 * (4 if precision == "float32" else 2)
    show(
        f"{precision}, kernel {kernel}: 64,000 tokens in rows of 4,000: {long / 2**20:.0f} MiB, "
        f"half as many {half / 2**20:.0f}, in rows of 60 {short / 2**20:.0f}; "
        f"the scores of all rows would be {16 * scores / 2**20:.0f} a layer"
    )
    assert long < 2.2 * half
    assert long < 1.5 * short
    assert long < 2 * 16 * scores  # of two layers, once each; eager attention keeps several of them


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 2, 64), (16, 8, 128), (4, 2, 32)], ids=str)
def test_the_variable_length_kernel_serves(show, shape):
    """Of torch 2.13, which vLLM brings; with an older torch it may be SDPA that serves."""
    heads, shared, width = shape
    q, k = (torch.zeros(5, n, width, device="cuda", dtype=torch.bfloat16) for n in (heads, shared))
    if not varlen.has_kernel(q.device, q.dtype):
        pytest.skip("this GPU has no such kernel")
    serves = varlen.serves(q, k, k)
    show(f"torch {torch.__version__}, (heads, key-value heads, width) {shape}: {'serves' if serves else 'SDPA serves'}")
    assert serves or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


def test_a_gradient_is_the_same_in_every_run(device):
    """Also where rows are picked several times, which indexing adds up in the order in which threads come."""
    torch.manual_seed(0)
    x = torch.randn(400, 64, device=device, requires_grad=True)
    index = torch.randint(0, 20, (5000,), device=device)
    factors = torch.randn(5000, 64, device=device)
    first, *others = (torch.autograd.grad((take_rows(x, index) * factors).sum(), x)[0] for _ in range(5))
    assert all(torch.equal(first, other) for other in others)
    expected = torch.zeros_like(x).double().index_add_(0, index, factors.double())
    torch.testing.assert_close(first.double(), expected, atol=1e-4, rtol=1e-5)
