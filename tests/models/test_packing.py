import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    NemotronConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
)

from masa_lightning.models import packing
from masa_lightning.models.packing import pack, padded, predicting, split, takes_packed
from masa_lightning.models.policy import Policy

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 71,
}


def test_layout():
    tokens = pack([([1, 2, 3], [4, 5, 6]), ([1, 2, 3], [7]), ([8], [9, 10]), ([1, 2, 3], [11])])
    assert tokens.input_ids.tolist() == [1, 2, 3, 4, 5, 8, 9, 1, 2, 3]
    assert tokens.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2]
    assert tokens.spans == [(0, 3, 3, 5), (0, 3, 5, 5), (5, 6, 6, 7), (7, 10, 10, 10)]
    assert tokens.targets.tolist() == [4, 5, 6, 7, 9, 10, 11]
    assert tokens.mask.dtype == torch.bool
    assert tokens.mask.tolist() == [[True] * 3, [True, False, False], [True, True, False], [True, False, False]]
    assert predicting(tokens).tolist() == [2, 3, 4, 2, 5, 6, 9]
    ids, index = padded(tokens)
    assert ids[0].tolist() == [1, 2, 3, 4, 5]
    assert ids[2, :2].tolist() == [8, 9]
    assert index.tolist() == [2, 3, 4, 7, 10, 11, 17]


@pytest.mark.parametrize("rows", [[], [([], [1])], [([1], [2]), ([1], [])]])
def test_nothing_to_pack(rows):
    with pytest.raises(ValueError, match="expected tokens in all of them"):
        pack(rows)


def test_split_shares_prompts_and_keeps_to_the_budget():
    rows = [([1, 2], [3, 4]), ([5], [6]), ([1, 2], [7]), ([5], [8, 9, 10])]
    assert split(rows, 100, share_prompts=True) == [[0, 2, 1, 3]]
    assert split(rows, 5, share_prompts=True) == [[0, 2], [1, 3]]
    assert split(rows, 4, share_prompts=True) == [[0], [2], [1], [3]]
    assert split(rows, 1, share_prompts=True) == [[0], [2], [1], [3]]
    assert split(rows, 8, share_prompts=False) == [[0, 3], [2, 1]]
    assert split([], 8, share_prompts=True) == split([], 8, share_prompts=False) == []


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=12
)  # which prompt, length of the completion


@given(ROWS, st.integers(1, 200), st.booleans())
@settings(deadline=None, max_examples=100)
def test_split_loses_nothing(sizes, budget, share_prompts):
    rows = [([i + 1] * (5 * i + 1), [9] * n) for i, n in sizes]
    parts = split(rows, budget, share_prompts=share_prompts)
    assert sorted(i for part in parts for i in part) == list(range(len(rows)))
    for part in parts:
        packed = pack([rows[i] for i in part])
        size = len(packed.input_ids) + len(part) if share_prompts else padded(packed)[0].numel() + len(part)
        assert size <= budget or len(part) == 1
        assert len({tuple(rows[i][0]) for i in part}) == len({span[:2] for span in packed.spans}) or not share_prompts


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(2)
    return Policy(Qwen3ForCausalLM(Qwen3Config(**SMALL, initializer_range=0.3)).eval())


@given(ROWS, st.sampled_from([2**20, 200, 1]), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_packed_equals_padded(policy, sizes, max_batched, seed):
    """Log-probabilities and gradients; with small bounds most sequences have an attention call of their own."""
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, 71, (n,), generator=draw).tolist() for n in (1, 7, 20, 33)]
    rows = [(prompts[i], torch.randint(0, 71, (n,), generator=draw).tolist()) for i, n in sizes]
    tokens = pack(rows)
    factors = torch.randn(tokens.mask.shape, generator=draw)
    results = {}
    try:
        packing._MAX_BATCHED, packing._MAX_MASK = max_batched, 4 * max_batched
        for packs in (True, False):
            policy.packs = packs
            logp, entropy = policy(tokens)
            results[packs] = [logp, entropy, *torch.autograd.grad((logp * factors).sum(), list(policy.parameters()))]
    finally:
        policy.packs, packing._MAX_BATCHED, packing._MAX_MASK = True, 2**20, 2**22
    for got, expected in zip(results[True], results[False], strict=True):
        size = float(expected.detach().abs().max())
        torch.testing.assert_close(got, expected, atol=1e-5 * size + 1e-6, rtol=0)


LONG = [  # (prompt lengths' index, length of the completion): what each makes of attention calls
    pytest.param([(2, 1200)], id="one completion alone, with a bias of torch's own"),
    pytest.param([(2, 1200), (2, 1100), (1, 40), (1, 37), (3, 2)], id="alone and batched"),
    pytest.param([(1, 30), (1, 25), (2, 28)], id="batched, with a bias"),
    pytest.param([(4, 1)], id="a prompt alone, causal"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("sizes", LONG)
def test_under_autocast(sizes, heads, dtype):
    """Packed and padded alike: log-probabilities and gradients are those of float32, as far as bfloat16 goes."""
    torch.manual_seed(4)
    config = Qwen3Config(**SMALL | {"num_key_value_heads": heads}, initializer_range=0.1)
    packed = Policy(Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval())
    plain, exact = copy.deepcopy(packed), copy.deepcopy(packed).float()
    plain.packs = False
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 71, (n,), generator=draw).tolist() for n in (1, 7, 20, 33, 1100)]
    tokens = pack([(prompts[i], torch.randint(0, 71, (n,), generator=draw).tolist()) for i, n in sizes])
    factors = torch.randn(tokens.mask.shape, generator=draw)
    results = {}
    for name, policy in {"packed": packed, "plain": plain, "exact": exact}.items():
        with torch.autocast("cpu", torch.bfloat16, enabled=name != "exact"):
            logp, entropy = policy(tokens, 0.7)
            loss = (logp * factors).sum() / tokens.mask.sum()
        loss.backward()
        gradient = torch.cat([p.grad.float().flatten() for p in policy.parameters()])
        assert logp.dtype == entropy.dtype == torch.float32
        results[name] = (logp.detach(), gradient)
    expected, slope = results["exact"]
    rounding = float((results["plain"][1] - slope).norm() / slope.norm())  # what bfloat16 costs with separate rows
    for logp, gradient in (results["packed"], results["plain"]):
        assert float((logp - expected).abs().max()) < 0.1
        assert float((gradient - slope).norm() / slope.norm()) < max(0.05, 1.5 * rounding)
    assert rounding < 0.2


def test_without_a_plan_the_attention_is_that_of_transformers(policy):
    plain = Qwen3ForCausalLM(policy.model.config).eval()
    plain.load_state_dict(policy.model.state_dict())
    plain.set_attn_implementation("eager")
    ids = torch.tensor([[0, 0, 3, 4, 5], [7, 8, 9, 10, 11]])
    mask = (ids > 0).long()
    got = policy.model(ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(got, plain(ids, attention_mask=mask).logits[mask.bool()], atol=1e-5, rtol=1e-5)


def test_the_attention_is_not_saved(policy, tmp_path):
    policy.model.save_pretrained(tmp_path)
    assert packing.ATTENTION not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(**SMALL), True),
        (Qwen2Config(**SMALL, use_sliding_window=False), True),
        (Qwen2Config(**SMALL, use_sliding_window=True, max_window_layers=1), False),
        (Gemma3TextConfig(**SMALL, sliding_window=8), False),
        (GptOssConfig(**SMALL, num_local_experts=2), False),
        (Qwen3NextConfig(**SMALL, num_experts=2), False),
        (NemotronConfig(**SMALL), False),  # looks plain, and hands no plan on
        (DogeConfig(**SMALL), False),  # has a mask of its own
        (MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=71), False),
    ],
)
def test_which_models_are_packed(config, expected):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    attention = model.config._attn_implementation
    assert takes_packed(model) is expected
    assert model.config._attn_implementation == attention


def test_an_attention_that_wants_more_is_refused(policy):
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=71))
    packing.use_packed_attention(model)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = ALL_ATTENTION_FUNCTIONS[packing.ATTENTION]
    plan = packing.AttentionPlan([(0, 1, 1, 2)], torch.device("cpu"))
    x = torch.zeros(1, 2, 2, 16)
    with pytest.raises(NotImplementedError, match="asks for attention with softcap"):
        attention(model, x, x, x, None, attention_plan=plan, softcap=30.0)


def test_packed_tokens_without_their_plan_are_refused():
    policy = Policy(Qwen3ForCausalLM(Qwen3Config(**SMALL)).eval())
    tokens = pack([([1, 2, 3], [4, 5, 6])])
    arguments = packing.packed_arguments(tokens.position_ids, packing.AttentionPlan(tokens.spans, torch.device("cpu")))
    del arguments["attention_plan"]
    with pytest.raises(RuntimeError, match="Qwen3Attention got packed tokens without the plan"):
        policy.model.base_model(input_ids=tokens.input_ids[None], **arguments)
