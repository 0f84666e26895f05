"""One call of torch's variable-length kernel, which needs a GPU: here a plain one with its documentation stands in."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from masa_lightning.models import varlen
from masa_lightning.models.packing import AttentionPlan, pack
from masa_lightning.models.policy import Policy
from masa_lightning.models.varlen import OneCall, plain_attention

CPU = torch.device("cpu")


def kernel(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False, aligned="last"):
    """`torch.nn.attention.varlen.varlen_attn`, by its documentation; causal ones end at the last query and key."""
    assert window_size == (-1, 0)
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or q.shape[1] == k.shape[1]
    outputs = []
    for q0, q1, k0, k1 in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
        assert q1 - q0 <= max_q
        assert k1 - k0 <= max_k
        query, key, value = (x.transpose(0, 1)[None] for x in (q[q0:q1], k[k0:k1], v[k0:k1]))
        more = int(k1 - k0 - (q1 - q0)) if aligned == "last" else 0
        seen = torch.ones(int(q1 - q0), int(k1 - k0), dtype=torch.bool).tril(more)
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scale, enable_gqa=True
        )
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def on_cpu(monkeypatch):
    """Makes the stand-in serve on CPU; call it with another to take that one."""

    def put(stand_in):
        monkeypatch.setattr(varlen, "varlen_attn", stand_in)
        monkeypatch.setattr(varlen, "has_kernel", lambda device, dtype: True)
        for each in (varlen._passes, varlen._asks_for_groups):
            each.cache_clear()

    put(kernel)
    yield put
    for each in (varlen._passes, varlen._asks_for_groups):
        each.cache_clear()


def sequences_of(spans):
    return {(0, 0, p0, p1) for p0, p1, _, _ in spans} | {span for span in spans if span[3] > span[2]}


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30)), min_size=1, max_size=8)


@given(ROWS, st.sampled_from([(2, 2), (4, 2)]), st.sampled_from([None, 0.3]), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_all_compute_plain_attention(sizes, heads, scale, seed):
    """Of outputs and gradients: calls of SDPA, and the one call."""
    draw = torch.Generator().manual_seed(seed)
    spans = pack([([i] * (1, 7, 20)[i], [1] * n) for i, n in sizes]).spans
    count = max(span[3] for span in spans)
    q, k, v = (torch.randn(1, n, count, 8, generator=draw).requires_grad_() for n in (heads[0], heads[1], heads[1]))
    slope = torch.randn(1, count, heads[0], 8, generator=draw)
    rows = [x[0].transpose(0, 1) for x in (q, k, v)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", kernel)
        varlen._asks_for_groups.cache_clear()
        outputs = [
            plain_attention(*rows, sorted(sequences_of(spans)), scale)[None],
            AttentionPlan(spans, CPU)(q, k, v, scale),
            OneCall(sequences_of(spans), CPU)(*rows, scale)[None],
        ]
        varlen._asks_for_groups.cache_clear()
    expected, *found = [[out, *torch.autograd.grad(out, (q, k, v), slope)] for out in outputs]
    for each in found:
        for got, exact in zip(each, expected, strict=True):
            torch.testing.assert_close(got, exact, atol=1e-5, rtol=1e-5)


def test_a_policy_with_the_kernel_is_that_with_sdpa(on_cpu, monkeypatch):
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16, "vocab_size": 71}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    policy = Policy(Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, initializer_range=0.3)).eval())
    tokens = pack([([1, 2, 3], [4, 5, 6]), ([1, 2, 3], [7]), ([8] * 40, [9, 10] * 30), ([1, 2, 3], [11])])
    calls, results = [], []
    monkeypatch.setattr(OneCall, "__call__", lambda *a, real=OneCall.__call__: calls.append(1) or real(*a))
    for served in (True, False):
        monkeypatch.setattr(varlen, "has_kernel", lambda *_, served=served: served)
        logp, _ = policy(tokens)
        results.append([logp, *torch.autograd.grad(logp.sum(), list(policy.parameters()))])
        calls.append(0)
    assert calls == [1, 1, 1, 0, 0]  # a trial and two layers
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(2, 2), (4, 1)])
def test_the_trial_passes_what_is_right(on_cpu, dtype, heads):
    q, k = (torch.zeros(1, n, 64, dtype=dtype) for n in heads)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = torch.random.get_rng_state()
        assert varlen.serves(q, k, k)
        assert torch.equal(before, torch.random.get_rng_state())


@functools.wraps(kernel)
def from_the_first(*args, **kwargs):
    return kernel(*args, **kwargs, aligned="first")


@functools.wraps(kernel)
def shifted_gradient(q, k, v, *args, **kwargs):
    return kernel(q, k, v + 0.2 * (v - v.detach()), *args, **kwargs)


def no_longer_takes_windows(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    raise AssertionError


def missing(*_, **__):
    raise NotImplementedError("no kernel image")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (from_the_first, r"differs from plain attention by \d+.\d% of the largest value, or gradient; expected 2%"),
        (shifted_gradient, "differs from plain attention"),
        (no_longer_takes_windows, "failed: .*unexpected keyword"),
        (missing, "failed: no kernel image"),
    ],
)
def test_what_is_wrong_is_named_once_and_not_taken(on_cpu, wrong, message):
    on_cpu(wrong)
    draw = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, n, 9, 16, generator=draw).bfloat16() for n in (4, 2))
    plan = AttentionPlan([(0, 4, 4, 9)], CPU)
    with pytest.warns(UserWarning, match=rf"(?s)varlen of torch .* = \(4, 2, 16\) {message}.*goes on with SDPA"):
        out = plan(q, k, k, None)
    rows = [x[0].transpose(0, 1).float() for x in (q, k, k)]
    exact = plain_attention(*rows, [(0, 0, 0, 4), (0, 4, 4, 9)], None)[None]
    torch.testing.assert_close(out.float(), exact, atol=0.03, rtol=0.02)
    assert torch.equal(plan(q, k, k, None), out)  # and no second warning, which would be an error


@pytest.mark.parametrize("shapes", [(16, 16, 8), (12, 12, 12), (264, 264, 264)])
def test_widths_that_the_kernel_lacks(on_cpu, shapes):
    q, k, v = (torch.zeros(3, 2, width, dtype=torch.bfloat16) for width in shapes)
    assert not varlen.serves(q, k, v)


def test_a_cpu_has_none():
    assert not varlen.has_kernel(CPU, torch.bfloat16)


@pytest.mark.parametrize("sequences", [[(0, 0, 0, 3), (0, 3, 4, 5)], [(0, 0, 0, 3), (0, 2, 2, 5)]])
def test_tokens_in_no_sequence_or_in_two_are_refused(sequences):
    with pytest.raises(ValueError, match="expected each token in one of them"):
        OneCall(sequences, CPU)
