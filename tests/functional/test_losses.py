"""Losses against a loop over tokens in float64, gradients by hand included."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masa_lightning.functional.losses import (
    aggregate_loss,
    importance_weights,
    kl_loss,
    kl_penalty,
    loss_denominator,
    off_policy_mask,
    policy_loss,
    sft_loss,
)

AGGREGATIONS = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
LOSS_TYPES = ["ppo_clip", "gspo", "cispo", "sapo"]
EVERY = list(itertools.product(LOSS_TYPES, AGGREGATIONS))


def batch(seed: int, rows: int = 6, length: int = 7, spread: float = 1.5) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logp = -3 * torch.rand(rows, length, generator=g)
    lengths = torch.randint(0, length + 1, (rows,), generator=g)
    lengths[0] = length
    return {
        "logp": logp,
        "old_logp": logp + spread * torch.randn(rows, length, generator=g),
        "advantages": torch.randn(rows, 1, generator=g).expand(rows, length).contiguous(),
        "mask": torch.arange(length) < lengths[:, None],
        "weights": 0.1 + torch.rand(rows, length, generator=g),
    }


def oracle(
    b: dict[str, Tensor], loss_type: str, aggregation: str, *, low: float, high: float, dual: float | None, norm: int
) -> tuple[float, list[list[float]], dict[str, float]]:
    """Loss, gradient by logp, and counts; each token's loss and slope written out case by case."""
    logp, old, adv, mask, weights = (b[k].tolist() for k in ("logp", "old_logp", "advantages", "mask", "weights"))
    rows, length = len(logp), len(logp[0])
    kept = [[t for t in range(length) if mask[i][t]] for i in range(rows)]
    sequences, tokens = sum(1 for k in kept if k), sum(len(k) for k in kept)
    total, grad = 0.0, [[0.0] * length for _ in range(rows)]
    counts = {"clip_low": 0.0, "clip_high": 0.0, "dual_clip": 0.0, "approx_kl_sum": 0.0, "ratio_max": 0.0}
    for i in range(rows):
        for t in kept[i]:
            d = logp[i][t] - old[i][t]
            counts["approx_kl_sum"] += math.exp(d) - d - 1
            if loss_type == "gspo":
                d = sum(logp[i][u] - old[i][u] for u in kept[i]) / len(kept[i])
            r, a = math.exp(d), adv[i][t]
            counts["ratio_max"] = max(counts["ratio_max"], r)
            if loss_type == "cispo":
                bounded = min(max(r, 1 - low), 1 + high)
                loss, slope = -bounded * a * logp[i][t], -bounded * a
                counts["clip_low"] += r < 1 - low
                counts["clip_high"] += r > 1 + high
            elif loss_type == "sapo":
                tau = 1.0 if a >= 0 else 1.05
                gate = 1 / (1 + math.exp(-tau * (r - 1)))
                loss, slope = -4 / tau * gate * a, -4 * gate * (1 - gate) * a * r
            elif a >= 0 and r > 1 + high:
                loss, slope = -a * (1 + high), 0.0
                counts["clip_high"] += 1
            elif a < 0 and r < 1 - low:
                loss, slope = -a * (1 - low), 0.0
                counts["clip_low"] += 1
            elif a < 0 and dual is not None and r > dual:
                loss, slope = -a * dual, 0.0
                counts["dual_clip"] += 1
            else:
                loss, slope = -a * r, -a * r
            share = {
                "token-mean": tokens,
                "seq-mean-token-sum": sequences,
                "seq-mean-token-mean": sequences * len(kept[i]),
                "seq-mean-token-sum-norm": sequences * norm,
            }[aggregation]
            total += weights[i][t] * loss / share
            grad[i][t] = weights[i][t] * slope / share
    return total, grad, counts


@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize(("loss_type", "aggregation"), EVERY)
def test_equals_a_loop_over_tokens(loss_type: str, aggregation: str, dual: float | None) -> None:
    seen = dict.fromkeys(["clip_low", "clip_high", "dual_clip"], 0.0)
    for seed in range(6):
        b = {k: v if k == "mask" else v.double() for k, v in batch(seed).items()}
        b["logp"].requires_grad_()
        loss, stats = policy_loss(
            **b, loss_type=loss_type, clip_low=0.1, clip_high=0.3, dual_clip=dual, aggregation=aggregation
        )
        loss.backward()
        total, grad, counts = oracle(b, loss_type, aggregation, low=0.1, high=0.3, dual=dual, norm=7)
        torch.testing.assert_close(loss.detach(), torch.tensor(total, dtype=torch.float64))
        torch.testing.assert_close(b["logp"].grad, torch.tensor(grad, dtype=torch.float64))
        assert stats["tokens"] == b["mask"].sum()
        for name, count in counts.items():
            assert stats[name].item() == pytest.approx(count, rel=1e-6), name
            assert not stats[name].requires_grad
        for name in seen:
            seen[name] += counts[name]
    assert (seen["clip_low"] > 0) == (seen["clip_high"] > 0) == (loss_type != "sapo")
    assert (seen["dual_clip"] > 0) == (dual is not None and loss_type not in ("cispo", "sapo"))


@pytest.mark.parametrize(("loss_type", "aggregation"), EVERY)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_micro_batches_add_up(loss_type: str, aggregation: str, data: st.DataObject) -> None:
    b = batch(data.draw(st.integers(0, 10**6)), rows=data.draw(st.integers(1, 8)), spread=0.3)
    rows = len(b["logp"])
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=3))})
    parts = []
    for start, end in itertools.pairwise(cuts):
        longest = int(b["mask"][start:end].sum(1).max())  # each micro-batch has its own padding
        parts.append({k: v[start:end, :longest] for k, v in b.items()})
    settings_ = {"loss_type": loss_type, "aggregation": aggregation, "norm_length": 7}

    whole_logp = b["logp"].clone().requires_grad_()
    whole, whole_stats = policy_loss(**{**b, "logp": whole_logp}, **settings_)
    whole.backward()

    denominator = sum(loss_denominator(p["mask"], aggregation, 7) for p in parts).item()
    parts_logp = b["logp"].clone().requires_grad_()
    total, sums = 0.0, dict.fromkeys(["tokens", "clip_low", "clip_high", "approx_kl_sum"], 0.0)
    for (start, end), part in zip(itertools.pairwise(cuts), parts, strict=True):
        rows_logp = parts_logp[start:end, : part["logp"].shape[1]]
        loss, stats = policy_loss(**{**part, "logp": rows_logp}, **settings_, denominator=denominator)
        loss.backward()
        total += loss.item()
        for name in sums:
            sums[name] += stats[name].item()
    assert total == pytest.approx(whole.item(), abs=1e-6, rel=1e-6)
    torch.testing.assert_close(parts_logp.grad, whole_logp.grad, atol=1e-6, rtol=1e-6)
    for name, value in sums.items():
        assert value == pytest.approx(whole_stats[name].item(), abs=1e-5), name


@pytest.mark.parametrize(("loss_type", "aggregation"), EVERY)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_masked_garbage_does_not_leak(loss_type: str, aggregation: str, garbage: float) -> None:
    clean = batch(3)
    dirty = {k: v if k == "mask" else torch.where(clean["mask"], v, garbage) for k, v in clean.items()}
    results = []
    for b in (clean, dirty):
        logp = b["logp"].clone().requires_grad_()
        loss, stats = policy_loss(**{**b, "logp": logp}, loss_type=loss_type, aggregation=aggregation)
        (loss + kl_penalty(logp, b["old_logp"], mask=b["mask"]).sum() + sft_loss(logp, b["mask"])).backward()
        results.append((loss, logp.grad, *stats.values()))
    assert results[0][1].isfinite().all()
    assert (results[0][1][~clean["mask"]] == 0).all()
    assert (results[0][1][clean["mask"]] != 0).any()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("loss_type", "aggregation"), EVERY)
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_empty_mask_gives_zero_with_a_graph(loss_type: str, aggregation: str, shape: tuple[int, int]) -> None:
    logp = torch.full(shape, math.nan, requires_grad=True)
    loss, stats = policy_loss(
        logp, logp.detach(), logp.detach(), torch.zeros(shape, dtype=torch.bool), loss_type=loss_type,
        aggregation=aggregation,
    )  # fmt: skip
    loss.backward()
    assert loss == 0
    assert torch.equal(logp.grad, torch.zeros(shape))
    assert all(value == 0 for value in stats.values())
    assert loss_denominator(torch.zeros(shape, dtype=torch.bool), aggregation) == 0


def test_denominators() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    counts = {a: loss_denominator(mask, a).item() for a in AGGREGATIONS}
    assert counts == dict(zip(AGGREGATIONS, [4, 2, 2, 8], strict=True))
    assert loss_denominator(mask, "seq-mean-token-sum-norm", 100).item() == 200
    losses = torch.tensor([[1.0, 2.0, 3.0, 9.0], [5.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    means = [aggregate_loss(losses, mask, a).item() for a in AGGREGATIONS]
    assert means == [11 / 4, 11 / 2, (2 + 5) / 2, 11 / 8]
    assert aggregate_loss(losses, mask, "token-mean", denominator=0.5).item() == 22


def test_extreme_ratios_stay_finite() -> None:
    logp = torch.tensor([[-1e-3, -500.0]], requires_grad=True)
    old = torch.tensor([[-500.0, -1e-3]])
    for loss_type, sign in itertools.product(LOSS_TYPES, (1.0, -1.0)):
        loss, stats = policy_loss(
            logp, old, torch.full((1, 2), sign), torch.ones(1, 2), loss_type=loss_type, dual_clip=None
        )
        (grad,) = torch.autograd.grad(loss, logp)
        assert loss.isfinite()
        assert grad.isfinite().all()
        assert stats["approx_kl_sum"].isfinite()


def test_half_precision_is_reduced_in_float32() -> None:
    b = batch(0)
    half = {k: v if k == "mask" else v.bfloat16() for k, v in b.items()}
    loss, _ = policy_loss(**half)
    expected, _ = policy_loss(**{k: v if k == "mask" else v.float() for k, v in half.items()})
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_penalty(kind: str) -> None:
    logp = torch.tensor([-0.5, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-1.5, -0.7, -1.0], dtype=torch.float64)
    values = {
        "k1": [p - q for p, q in zip(logp.tolist(), ref.tolist(), strict=True)],
        "k2": [(p - q) ** 2 / 2 for p, q in zip(logp.tolist(), ref.tolist(), strict=True)],
        "k3": [math.exp(q - p) - (q - p) - 1 for p, q in zip(logp.tolist(), ref.tolist(), strict=True)],
    }[kind]
    torch.testing.assert_close(kl_penalty(logp, ref, kind).tolist(), values)
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, ref, kind), logp)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_kl_penalty_is_unbiased(kind: str) -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    exact = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl_penalty(p.log(), q.log(), kind)).sum(), exact)


@pytest.mark.parametrize(
    ("kind", "at", "value", "slope"),
    [  # by hand: d = log reference - log policy
        ("k1", 0.5, -0.5, -0.5),
        ("k1", -2.0, 2.0, 2.0),
        ("k1", 25.0, -25.0, -25.0),  # no bound: far from the reference the way back is as steep as it is far
        ("k2", 0.5, 0.125, -0.5),
        ("k2", -2.0, 2.0, 2.0),
        ("k2", -49.0, 1200.5, 49.0),
        ("k3", 0.5, math.exp(0.5) - 1.5, 1 - math.exp(0.5)),
        ("k3", -2.0, math.exp(-2) + 1, 1 - math.exp(-2)),
        ("k3", 2.5, math.exp(2.5) - 3.5, 1 - math.exp(2.5)),
        ("k3", 2.7, 10.0, 0.0),  # e^2.7 - 3.7 is 11.2
        ("k3", 19.0, 10.0, 0.0),
        ("k3", 500.0, 10.0, 0.0),
        ("k3", -12.0, 10.0, 0.0),
        ("k3", 0.0, 0.0, 0.0),
        ("k3+", 0.5, math.exp(0.5) - 1.5, -0.5),  # k3 with the gradient of k2
        ("k3+", 500.0, 10.0, -500.0),
    ],
)
def test_kl_loss(kind: str, at: float, value: float, slope: float) -> None:
    logp = torch.tensor([-1.0, math.nan], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([at - 1.0, 3.0], dtype=torch.float64)
    mask = torch.tensor([True, False])
    kl = kl_loss(logp, ref, kind, mask)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(kl.sum(), logp)
    assert kl.tolist() == pytest.approx([value, 0.0], abs=1e-12)
    assert gradient.tolist() == pytest.approx([slope, 0.0], abs=1e-12)
    assert torch.equal(kl, kl_penalty(logp, ref, kind.removesuffix("+"), mask))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "forward"), [("k1", False), ("k2", False), ("k3", True), ("k3+", False)])
def test_whose_gradient_it_is(kind: str, forward: bool) -> None:
    """In the mean over tokens drawn from the policy: of KL(policy || reference), or of KL(reference || policy)."""
    logits = torch.tensor([0.3, -0.4, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    logp = logits.log_softmax(0)
    p = logp.exp()
    exact = (q * (q.log() - logp)).sum() if forward else (p * (logp - q.log())).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    mean = (p.detach() * kl_loss(logp, q.log(), kind)).sum()  # type: ignore[arg-type]
    (got,) = torch.autograd.grad(mean, logits, retain_graph=True)
    torch.testing.assert_close(got, expected)
    plain = (p.detach() * kl_penalty(logp, q.log(), kind.removesuffix("+"))).sum()  # type: ignore[arg-type]
    (unmended,) = torch.autograd.grad(plain, logits)
    assert torch.allclose(unmended, expected) is (kind not in ("k1", "k3+"))
    if kind == "k1":
        torch.testing.assert_close(unmended, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("clip_min", [None, 0.0, 0.8])
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_importance_weights(mode: str, clip_min: float | None) -> None:
    old = torch.tensor([[0.1, 0.9, math.nan], [-0.2, -0.3, 0.4], [-0.1, -0.2, 0.0], [0.3, 0.2, 0.0]])
    sampler = torch.tensor([[0.0, 0.0, math.inf], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, True], [True, True, False], [True, True, True]])
    expected, clipped = torch.zeros(4, 3), 0
    for i, differences in enumerate([[0.1, 0.9], [-0.2, -0.3, 0.4], [-0.1, -0.2], [0.3, 0.2, 0.0]]):
        for t, difference in enumerate(differences):
            ratio = math.exp(difference if mode.startswith("token") else sum(differences))
            beyond = ratio > 2 or (clip_min is not None and ratio < clip_min)
            clipped += beyond
            expected[i, t] = 0 if beyond and mode.endswith("mask") else min(max(ratio, clip_min or 0), 2)
    weights, stats = importance_weights(old.requires_grad_(), sampler, mask, mode=mode, clip_max=2.0, clip_min=clip_min)
    torch.testing.assert_close(weights, expected)
    assert not weights.requires_grad
    of_tokens = mode.startswith("token")
    assert {k: round(v.item(), 5) for k, v in stats.items()} == {
        "tokens": 10,
        "ratio_sum": pytest.approx(expected.sum().item(), abs=1e-5),
        "ratio_min": round(math.exp(-0.3), 5),
        "ratio_max": round(math.exp(0.9 if of_tokens else 1.0), 5),
        "clipped": clipped,
        "logp_difference_sum": 2.7,
        "logp_difference_max": 0.9,
    }
    weights, stats = importance_weights(old, sampler, torch.zeros_like(mask), mode=mode)
    assert (weights == 0).all()
    assert stats["tokens"] == stats["ratio_max"] == stats["logp_difference_max"] == 0


def test_off_policy_mask_leaves_failures_that_have_become_unlikely() -> None:
    drawn = torch.tensor([[-1.0, -2.0, math.nan]]).repeat(5, 1)
    logp = torch.tensor([[-2.0, -2.1], [-2.0, -2.1], [-2.0, -1.9], [-0.1, -0.1], [-9.0, -9.0]])
    logp = torch.nn.functional.pad(logp, (0, 1), value=math.inf)
    mask = torch.tensor([[True, True, False]] * 4 + [[False] * 3])
    advantages = torch.tensor([[-1.0], [0.0], [-1.0], [-1.0], [-1.0]])
    keep = off_policy_mask(logp, drawn, advantages, mask, threshold=0.5)  # .55, .55, .45, -1.4 and nothing, a token
    assert keep.tolist() == [[False], [True], [True], [True], [True]]
    assert off_policy_mask(logp[:1], drawn[:1], advantages[:1], mask[:1], threshold=0.56).item()


def test_sft_loss() -> None:
    logp = torch.tensor([[-5.0, -1.0, -2.0], [-4.0, -6.0, math.nan]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [True, False, False]])
    loss = sft_loss(logp, mask)
    loss.backward()
    assert loss.item() == pytest.approx(7 / 3)
    torch.testing.assert_close(logp.grad, -mask.float() / 3)
    assert sft_loss(logp[:1], mask[:1], 3).item() + sft_loss(logp[1:], mask[1:], 3).item() == pytest.approx(7 / 3)
    assert sft_loss(logp, torch.zeros_like(mask)).requires_grad
    assert sft_loss(logp, torch.zeros_like(mask)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old_logp": torch.zeros(6, 6)}, "old_logp has shape"),
        ({"advantages": torch.zeros(6)}, "advantages has shape"),
        ({"weights": torch.zeros(1, 7)}, "weights has shape"),
        ({"clip_low": 1.5}, "clip_low is 1.5"),
        ({"clip_high": -0.1}, "clip_high is -0.1"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0"),
        ({"loss_type": "ppo"}, "loss_type is 'ppo'"),
        ({"clip_low": None}, "clip_low is None"),
        ({"loss_type": "sapo", "sapo_temperatures": (0.0, 1.0)}, "sapo_temperatures are"),
        ({"aggregation": "mean"}, "aggregation is 'mean'"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_loss(**{**batch(0), **changes})
    one = torch.zeros(1, 1)
    for changed, message in (
        ({"clip_max": 0}, "clip_max is 0"),
        ({"clip_min": 3.0}, "clip_min is 3.0"),
        ({"mode": "token"}, "mode"),
    ):
        with pytest.raises(ValueError, match=message):
            importance_weights(one, one, one + 1, **changed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold is -1"):
        off_policy_mask(one, one, one, one + 1, -1.0)
    with pytest.raises(ValueError, match=r"advantages has shape \(1,\)"):
        off_policy_mask(one, one, one[0], one + 1, 1.0)
    with pytest.raises(ValueError, match="kind is"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]
