"""The oracle is written from the formulas, one token at a time, on unpadded rows in float64."""

import copy
import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from masa_lightning.models.packing import pack, padded
from masa_lightning.models.policy import Policy
from masa_lightning.settings import Algorithm
from masa_lightning.types import Completion, Rollout
from masa_lightning.update.experience import make_experience, micro_batches
from masa_lightning.update.policy_update import PolicyUpdate, merge_stats
from masa_lightning.update.summary import compact, merge_processes
from masa_lightning.update.top_entropy import choose_tokens

LOSSES = ("ppo_clip", "gspo", "cispo")
AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
WEIGHTS = (0.75, 1.5)
TEMPERATURE = 0.8
NORM_LENGTH = 10
IDLE = pack([([0], [0])])
BASE = Algorithm(clip_low=0.2, clip_high=0.28, dual_clip=1.5, importance_sampling_clip_max=1.25)


# -- models and rollouts -----------------------------------------------------------------------------------------------


def small_model(noise, base=None):
    torch.manual_seed(3)
    if base is None:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = Qwen3Config(**sizes, num_key_value_heads=1, head_dim=16, vocab_size=64, initializer_range=0.2)
        return Qwen3ForCausalLM(config).double().eval()
    model = copy.deepcopy(base)
    with torch.no_grad():
        for p in model.parameters():
            p += noise * p.std() * torch.randn_like(p) if p.dim() > 1 else 0
    return model


class Models:
    def __init__(self):
        self.policy = small_model(0)
        self.old = small_model(0.15, self.policy)
        self.reference = small_model(0.3, self.old)


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture(scope="module")
def rollouts(models):
    """Nine, one without tokens, whose sampler differs a little from the old policy."""
    draw = torch.Generator().manual_seed(5)
    sizes = [(3, 5), (1, 7), (4, 1), (2, 3), (5, 0), (2, 6), (1, 2), (3, 4), (2, 5)]
    kinds = ["solution", "meta", "solution", "meta", "solution", "solution", "meta", "solution", "meta"]
    made = []
    for i, ((prompt, length), kind) in enumerate(zip(sizes, kinds, strict=True)):
        ids = torch.randint(0, 64, (prompt + length,), generator=draw).tolist()
        r = Rollout(
            kind=kind,
            prompt_ids=ids[:prompt],
            completion=Completion(token_ids=ids[prompt:], logprobs=[], finish_reason="stop"),
            text="",
            advantage=(-1.0, 1.5, 0.5, -0.75, 2.0, 1.25, -2.0, -0.5, 1.0)[i],
        )
        with torch.no_grad():
            logp = row_logp(models.old, r)
        r.completion.logprobs = (logp + 0.3 * torch.randn(length, generator=draw)).float().tolist()
        made.append(r)
    return made


class FullLogits(nn.Module):
    """The protocol of `Policy.forward` with full logits in float64, so that nothing but the update is compared."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, temperature):
        input_ids, _ = padded(tokens)
        logps = torch.log_softmax(self.model(input_ids).logits / temperature, -1)
        rows, entropies = (torch.zeros(tokens.mask.shape, dtype=logps.dtype) for _ in range(2))
        targets = iter(tokens.targets)
        for b, (start, end, *_) in enumerate(tokens.spans):
            for t in range(int(tokens.mask[b].sum())):
                logp = logps[b, end - start - 1 + t]
                rows[b, t], entropies[b, t] = logp[next(targets)], -(logp.exp() * logp).sum()
        return rows, entropies


def make_update(models, algorithm, wrap=FullLogits, extra=None):
    return PolicyUpdate(
        policy=wrap(models.policy),
        reference=wrap(models.reference) if algorithm.kl_coef else None,
        algorithm=algorithm,
        kind_weights=WEIGHTS,
        temperature=TEMPERATURE,
        norm_length=NORM_LENGTH,
        idle=IDLE,
        extra=extra,
    )


def prepare(models, rollouts, algorithm, budget, wrap=FullLogits, **share):
    """Micro-batches whose old log-probabilities are those of the old model."""
    batches = micro_batches(rollouts, budget, **share)
    before = replace(make_update(models, algorithm, wrap), policy=wrap(models.old))
    for batch in batches:
        before.annotate(batch, old=True)
    if algorithm.top_entropy_quantile < 1:
        choose_tokens(batches, algorithm.top_entropy_quantile, lambda value: [value])
    return batches


def count(batches, algorithm):
    """What each kind's loss is divided by, counted in the micro-batches themselves."""
    counts = [0, 0]
    for batch in batches:
        for length, kind in zip(batch.tokens.mask.sum(1).tolist(), batch.kind.tolist(), strict=True):
            counts[kind] += {"token-mean": length, "seq-mean-token-sum-norm": NORM_LENGTH}.get(algorithm.aggregation, 1)
    return torch.tensor(counts, dtype=torch.float64)


def run(models, batches, algorithm, wrap=FullLogits, denominators=None, extra=None):
    """Loss, gradients and statistics of one optimiser step."""
    parameters = dict(models.policy.named_parameters())
    losses, lasts, gradients = [], [], {}

    def backward(loss, last):
        losses.append(loss.item())
        lasts.append(last)
        loss.backward()

    def step(last):
        assert last
        for name, p in parameters.items():
            gradients[name] = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = None
        return math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))

    calls = []
    stats, norms = make_update(models, algorithm, wrap, extra).run(
        [(batches, count(batches, algorithm) if denominators is None else denominators)],
        backward=backward,
        step=step,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(i + 1, len(batches)) for i in range(len(batches))]
    assert lasts == [i == len(batches) - 1 for i in range(len(batches))]
    assert len(norms) == 1
    return sum(losses), gradients, stats


def assert_same_gradients(got, expected, tolerance):
    assert got.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=tolerance * largest, rtol=0, msg=name)


def of_length(length, kind="solution", advantage=1.0):
    completion = Completion(token_ids=[1] * length, logprobs=[0.0] * length, finish_reason="stop")
    return Rollout(kind=kind, prompt_ids=[2], completion=completion, text="", advantage=advantage)


# -- the oracle --------------------------------------------------------------------------------------------------------


def row(model, r):
    """Log-probability of each token of a completion, and the entropy of the distribution that it comes from, [T]."""
    ids = r.prompt_ids + r.completion.token_ids
    logp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double() / TEMPERATURE, -1)
    logp = logp[len(r.prompt_ids) - 1 : len(ids) - 1]
    of_tokens = [logp[t, token] for t, token in enumerate(r.completion.token_ids)]
    return torch.stack(of_tokens) if r.length else logp[:, 0], -(logp.exp() * logp).sum(-1)


def row_logp(model, r):
    return row(model, r)[0]


def surrogate(ratio, advantage, a, counts):
    """PPO's loss of one ratio, with the bound for negative advantages."""
    if advantage >= 0:
        counts["clip_high"] += bool(advantage > 0 and ratio > 1 + a.clip_high)
        return -advantage * (ratio if ratio <= 1 + a.clip_high else 1 + a.clip_high)
    counts["clip_low"] += bool(ratio < 1 - a.clip_low)
    counts["dual_clip"] += bool(a.dual_clip is not None and ratio > a.dual_clip)
    if a.dual_clip is not None and ratio > a.dual_clip:
        return -advantage * a.dual_clip + 0 * ratio
    return -advantage * (ratio if ratio >= 1 - a.clip_low else 1 - a.clip_low)


def token_losses(logp, old, sampler, ref, advantage, a, counts, chosen, entropy):
    n = len(logp)
    difference = [float(old[t]) - sampler[t] for t in range(n)]
    ratios = {"token": [math.exp(d) for d in difference], "sequence": [math.exp(sum(difference))] * n}
    level, _, mode = a.importance_sampling.partition("_")
    least, most = a.importance_sampling_clip_min or 0.0, a.importance_sampling_clip_max
    factors = [
        r if least <= r <= most else 0.0 if mode == "mask" else min(max(r, least), most)
        for r in ratios.get(level, [1.0] * n)
    ]
    threshold = a.off_policy_mask_threshold
    if threshold is not None and advantage < 0 and sum(sampler[t] - logp[t].item() for t in range(n)) / n > threshold:
        counts["off_policy_masked"] += n
        factors = [0.0] * n
    factors = [factor * bool(is_chosen) for factor, is_chosen in zip(factors, chosen, strict=True)]
    losses = []
    for t in range(n):
        if a.loss_type == "ppo_clip":
            loss = surrogate(torch.exp(logp[t] - old[t]), advantage, a, counts)
        elif a.loss_type == "gspo":
            s = torch.exp(sum(logp[u] - old[u] for u in range(n)) / n)
            if level == "token":  # factors within a sequence differ: each token has a gradient of its own
                s = s.item() * torch.exp(logp[t] - logp[t].item())
            loss = surrogate(s, advantage, a, counts)
        elif a.loss_type == "sapo":
            tau = a.sapo_temperature_neg if advantage < 0 else a.sapo_temperature_pos
            loss = -advantage * 4 / tau / (1 + torch.exp(tau * (1 - torch.exp(logp[t] - old[t]))))
        else:
            ratio = math.exp(logp[t].item() - float(old[t]))
            counts["clip_low"] += ratio < 1 - a.clip_low
            counts["clip_high"] += ratio > 1 + a.clip_high
            loss = -min(max(ratio, 1 - a.clip_low), 1 + a.clip_high) * advantage * logp[t]
        loss = factors[t] * loss
        if a.kl_coef:
            d = float(ref[t]) - logp[t]
            kl = {"k1": -d, "k2": d * d / 2, "k3": (torch.exp(d) - d - 1).clamp(max=10)}[a.kl_kind.rstrip("+")]
            counts["kl_sum"] += kl.item()
            if a.kl_kind in ("k1", "k3+"):
                kl = kl.item() + (d * d - (d * d).item()) / 2  # its own gradient is 0 in the mean: it takes that of k2
            loss = loss + a.kl_coef * kl
        losses.append(loss - a.entropy_coef * entropy[t])
    return losses


def oracle(models, rollouts, a):
    total = torch.zeros((), dtype=torch.float64)
    counts = dict.fromkeys(("clip_low", "clip_high", "dual_clip", "kl_sum", "tokens", "off_policy_masked"), 0)
    for kind, kind_weight in zip(("solution", "meta"), WEIGHTS, strict=True):
        members = [r for r in rollouts if r.kind == kind and r.completion.token_ids]
        tokens = sum(len(r.completion.token_ids) for r in members)
        counts["tokens"] += tokens
        with torch.no_grad():
            certain = sorted((h for r in members for h in row(models.old, r)[1].tolist()), reverse=True)
        least = certain[round(a.top_entropy_quantile * tokens) - 1]
        for r in members:
            with torch.no_grad():
                (old, before), ref = row(models.old, r), row_logp(models.reference, r)
            logp, entropy = row(models.policy, r)
            args = (logp, old, r.completion.logprobs, ref, r.advantage, a, counts)
            losses = token_losses(*args, before > least - 1e-9, entropy)
            of_row = sum(losses)
            if a.aggregation == "token-mean":
                part = of_row / tokens
            elif a.aggregation == "seq-mean-token-mean":
                part = of_row / len(losses) / len(members)
            elif a.aggregation == "seq-mean-token-sum":
                part = of_row / len(members)
            else:
                part = of_row / NORM_LENGTH / len(members)
            total = total + kind_weight * part
    names, parameters = zip(*models.policy.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters)
    return total.item(), dict(zip(names, gradients, strict=True)), counts


CASES = [replace(BASE, loss_type=loss, aggregation=agg) for loss, agg in product(LOSSES, AGGREGATIONS)]
CASES += [
    replace(BASE, loss_type=loss, aggregation="seq-mean-token-mean", importance_sampling=level, kl_coef=0.3, kl_kind=kl)
    for loss, (level, kl) in product(LOSSES, [("off", "k1"), ("token_truncate", "k2"), ("sequence_truncate", "k3")])
]
CASES += [
    replace(BASE, dual_clip=None, aggregation="seq-mean-token-sum-norm", kl_coef=0.5),
    replace(BASE, loss_type="cispo", clip_low=1.0),
    Algorithm(loss_type="sapo"),
    Algorithm(loss_type="sapo", sapo_temperature_pos=2.0, sapo_temperature_neg=0.5, kl_coef=0.3, kl_kind="k3+"),
    replace(BASE, importance_sampling="token_mask", importance_sampling_clip_min=0.8),
    replace(BASE, importance_sampling="sequence_mask", importance_sampling_clip_min=0.5),
    replace(BASE, importance_sampling="sequence_truncate", importance_sampling_clip_min=1.1),
    replace(BASE, off_policy_mask_threshold=0.0, loss_type="gspo"),
    replace(BASE, off_policy_mask_threshold=0.05, importance_sampling="off"),
    replace(BASE, entropy_coef=0.1),
    replace(BASE, entropy_coef=0.5, kl_coef=0.3, aggregation="seq-mean-token-mean"),
    replace(BASE, top_entropy_quantile=0.3),
    replace(BASE, top_entropy_quantile=0.6, entropy_coef=0.1, loss_type="sapo", clip_low=None, clip_high=None),
]


@pytest.mark.parametrize("algorithm", CASES, ids=lambda a: f"{a.loss_type}-{a.aggregation}-{a.importance_sampling}")
def test_equals_the_oracle(models, rollouts, algorithm):
    expected_loss, expected_gradients, counts = oracle(models, rollouts, algorithm)
    loss, gradients, stats = run(models, prepare(models, rollouts, algorithm, 10_000), algorithm)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert_same_gradients(gradients, expected_gradients, 1e-9)
    for name in ("tokens", "clip_low", "clip_high", "dual_clip"):
        assert stats[name].item() == counts[name], name
    assert stats.get("off_policy_masked", torch.zeros(())).item() == counts["off_policy_masked"]
    assert stats.get("kl_sum", torch.zeros(())).item() == pytest.approx(counts["kl_sum"], rel=1e-9)
    expected = [
        abs(o.item() - s) for r in rollouts for o, s in zip(row_logp(models.old, r), r.completion.logprobs, strict=True)
    ]
    assert sorted(stats["sampling_logp_difference"].tolist()) == pytest.approx(sorted(expected), rel=1e-9)


def test_the_oracle_has_clipped_tokens_of_every_sort(models, rollouts):
    _, _, counts = oracle(models, rollouts, BASE)
    assert min(counts["clip_low"], counts["clip_high"], counts["dual_clip"]) > 0


@pytest.mark.parametrize("algorithm", [replace(BASE, kl_coef=0.3), CASES[8]], ids=["ppo_clip", "cispo"])
def test_with_the_real_policy(models, rollouts, algorithm):
    """`Policy` computes log-probabilities in float32."""
    expected_loss, expected_gradients, _ = oracle(models, rollouts, algorithm)
    loss, gradients, _ = run(models, prepare(models, rollouts, algorithm, 40, Policy), algorithm, Policy)
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-5)
    assert_same_gradients(gradients, expected_gradients, 1e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_micro_batches_add_up(models, rollouts, loss_type, aggregation):
    algorithm = replace(BASE, loss_type=loss_type, aggregation=aggregation, kl_coef=0.3)
    whole, expected, all_stats = run(models, prepare(models, rollouts, algorithm, 10_000, Policy), algorithm, Policy)
    for budget in (1, 13, 24, 40):
        batches = prepare(models, rollouts, algorithm, budget, Policy)
        assert len(batches) > 1
        loss, gradients, stats = run(models, batches, algorithm, Policy)
        assert loss == pytest.approx(whole, rel=1e-6, abs=1e-6)
        assert_same_gradients(gradients, expected, 1e-6)
        assert stats.keys() == all_stats.keys()
        for name, value in stats.items():
            torch.testing.assert_close(value.sort()[0], all_stats[name].sort()[0], atol=1e-5, rtol=1e-5, msg=name)


@given(st.integers(1, 80))
@settings(deadline=None, max_examples=12)
def test_any_budget(budget):
    models = Models()
    algorithm = replace(BASE, kl_coef=0.1, importance_sampling="sequence_truncate")
    draw = torch.Generator().manual_seed(budget)
    made = []
    for _ in range(6):
        prompt, length = (int(torch.randint(1, 7, (), generator=draw)) for _ in range(2))
        ids = torch.randint(0, 64, (prompt + length,), generator=draw).tolist()
        completion = Completion(token_ids=ids[prompt:], logprobs=[-4.0] * length, finish_reason="stop")
        kind = "meta" if torch.rand((), generator=draw) < 0.5 else "solution"
        advantage = float(torch.randn((), generator=draw))
        made.append(Rollout(kind=kind, prompt_ids=ids[:prompt], completion=completion, text="", advantage=advantage))
    whole, expected, _ = run(models, prepare(models, made, algorithm, 10_000), algorithm)
    loss, gradients, _ = run(models, prepare(models, made, algorithm, budget), algorithm)
    assert loss == pytest.approx(whole, abs=1e-9)
    assert_same_gradients(gradients, expected, 1e-9)


@pytest.mark.parametrize("processes", [2, 3, 12])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_processes_with_unequal_work_add_up(models, rollouts, aggregation, processes):
    """Gradients are averaged over processes, so each divides by the mean of all denominators. Of twelve most are idle."""
    algorithm = replace(BASE, aggregation=aggregation, kl_coef=0.3)
    whole = prepare(models, rollouts, algorithm, 10_000)
    _, expected, all_stats = run(models, whole, algorithm)
    mean = make_update(models, algorithm).denominators(rollouts) / processes
    shares = [prepare(models, rollouts, algorithm, 20, rank=rank, processes=processes) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert processes < 12 or any(batch is None for share in shares for batch in share)
    parts = [run(models, share, algorithm, denominators=mean) for share in shares]
    means = {name: sum(gradients[name] for _, gradients, _ in parts) / processes for name in expected}
    assert_same_gradients(means, expected, 1e-6)  # a third of a count is rounded to float32
    stats = merge_processes([compact(part) for _, _, part in parts])
    assert stats.keys() == all_stats.keys()
    for name, value in stats.items():
        torch.testing.assert_close(value.sort()[0], all_stats[name].sort()[0], atol=1e-5, rtol=1e-5, msg=name)


# -- parts by hand -----------------------------------------------------------------------------------------------------


def table(*rows):
    """A "policy" that gives these log-probabilities whatever it is asked, and entropy 2 at every token."""

    def log_probs(tokens, temperature):
        values = [[*row, *[0.0] * (tokens.mask.shape[1] - len(row))] for row in rows]
        return torch.tensor(values).requires_grad_(), 2.0 * tokens.mask

    return log_probs


def two_rollouts():
    """A solution of two tokens with advantage 1 and a meta rollout of one token with advantage -2."""
    return make_experience(
        [
            Rollout(
                kind="solution",
                prompt_ids=[1],
                completion=Completion(token_ids=[2, 3], logprobs=[-1.0, -2.5], finish_reason="stop"),
                text="",
                advantage=1.0,
            ),
            Rollout(
                kind="meta",
                prompt_ids=[1],
                completion=Completion(token_ids=[2], logprobs=[-0.5], finish_reason="stop"),
                text="",
                advantage=-2.0,
            ),
        ]
    )


def test_by_hand():
    update = PolicyUpdate(
        policy=table([-1.0, -2.0], [-0.5]),
        reference=table([-1.0, -3.0], [-0.25]),
        algorithm=Algorithm(kl_coef=0.1, kl_kind="k2", importance_sampling="off"),
        kind_weights=(1.0, 0.5),
        temperature=1.0,
        norm_length=4,
        idle=IDLE,
    )
    batch = two_rollouts()
    update.annotate(batch, old=False)
    assert batch.old_logp is None
    loss, stats = update.loss(batch, torch.tensor([2, 1], dtype=torch.float64))
    # All ratios are 1. Solution: -1 + 0.1 (0 + 1/2) / 2; meta: 2 + 0.1 (1/4)^2 / 2.
    assert loss.item() == pytest.approx((-1 + 0.025) + 0.5 * (2 + 0.003125), abs=1e-6)
    assert stats["policy_loss_sum"].item() == pytest.approx(-1 + 0.5 * 2)
    assert stats["kl_sum"].item() == pytest.approx(0.5 + 0.03125)
    assert stats["entropy_sum"].item() == 6.0
    assert stats["tokens"].item() == 3.0
    assert stats["sampling_logp_difference"].tolist() == [0.0, 0.5, 0.0]
    assert stats["sampling_logp_difference_max"].item() == 0.5
    assert not any(value.requires_grad for value in stats.values())


@pytest.mark.parametrize(
    ("aggregation", "counts"), list(zip(AGGREGATIONS, ([5, 2], [2, 1], [2, 1], [20, 10]), strict=True))
)
def test_denominators(aggregation, counts):
    update = PolicyUpdate(
        policy=table(),
        reference=None,
        algorithm=Algorithm(aggregation=aggregation),
        kind_weights=(1.0, 1.0),
        temperature=1.0,
        norm_length=10,
        idle=IDLE,
    )

    rollouts = [of_length(3), of_length(2, "meta"), of_length(0), of_length(2, advantage=0.0), of_length(0, "meta")]
    assert update.denominators(rollouts).tolist() == counts
    assert update.denominators(rollouts).dtype == torch.float64
    assert update.denominators([]).tolist() == [0, 0]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_rollouts_without_advantage_can_be_left_out(models, rollouts, loss_type, aggregation):
    algorithm = replace(BASE, loss_type=loss_type, aggregation=aggregation)
    rollouts = [replace(r, advantage=0.0) if i % 3 else r for i, r in enumerate(rollouts)]
    update = make_update(models, algorithm)
    picked = update.select(rollouts)
    assert 0 < len(picked) < len(rollouts)
    loss, expected, _ = run(models, prepare(models, rollouts, algorithm, 30), algorithm)
    batches = prepare(models, picked, algorithm, 30)
    short_loss, gradients, _ = run(models, batches, algorithm, denominators=update.denominators(rollouts))
    assert short_loss == pytest.approx(loss, abs=1e-12)
    assert_same_gradients(gradients, expected, 1e-12)


def test_what_is_selected(models):
    rollouts = [of_length(3), of_length(4, advantage=0.0), of_length(2, "meta", advantage=0.0), of_length(0)]
    update = make_update(models, BASE)
    assert update.select(rollouts) == rollouts[:1]
    assert update.select(rollouts[1:]) == [rollouts[2]]
    assert update.select(rollouts[3:]) == []
    assert make_update(models, replace(BASE, kl_coef=0.1)).select(rollouts) == rollouts[:3]


# -- a loss of a subclass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_an_extra_loss_is_aggregated_as_the_kl_term_is(models, rollouts, aggregation):
    with_kl = replace(BASE, aggregation=aggregation, kl_coef=0.3, kl_kind="k2")
    batches = prepare(models, rollouts, with_kl, 10_000)
    for batch in batches:
        batch.ref_logp = batch.sampler_logp
    expected_loss, expected, _ = run(models, batches, with_kl)

    plain = replace(BASE, aggregation=aggregation)
    loss, gradients, stats = run(
        models,
        prepare(models, rollouts, plain, 24),
        plain,
        denominators=make_update(models, plain).denominators(rollouts),
        extra=lambda logp, batch: 0.3 * (logp - batch.sampler_logp).square() / 2,
    )
    assert loss == pytest.approx(expected_loss, abs=1e-10)
    assert_same_gradients(gradients, expected, 1e-10)
    assert stats["policy_loss_sum"] + stats["extra_loss_sum"] == pytest.approx(loss, abs=1e-6)


def test_with_an_extra_loss_all_rollouts_carry_gradient(models):
    rollouts = [of_length(3), of_length(4, advantage=0.0), of_length(0)]
    assert make_update(models, BASE, extra=lambda logp, batch: logp).select(rollouts) == rollouts[:2]


@pytest.mark.parametrize("gave", [0.5, torch.zeros(3)])
def test_an_extra_loss_of_another_shape_is_refused(models, rollouts, gave):
    batches = prepare(models, rollouts, BASE, 10_000)
    with pytest.raises(ValueError, match=r"extra_loss gave .*one number a token"):
        run(models, batches, BASE, extra=lambda logp, batch: gave)


@pytest.mark.parametrize("budget", [1, 24, 10_000])
def test_the_pass_for_old_log_probabilities_changes_nothing(models, rollouts, budget):
    algorithm = replace(BASE, importance_sampling="sequence_truncate")
    plain = run(models, micro_batches(rollouts, budget), algorithm, Policy)
    batches = micro_batches(rollouts, budget)
    update = make_update(models, algorithm, Policy)
    for batch in batches:
        update.annotate(batch, old=True)
        assert batch.ref_logp is None
        assert not batch.old_logp.requires_grad
        logp, _ = update.policy(batch.tokens, TEMPERATURE)
        assert torch.equal(batch.old_logp, logp)
    annotated = run(models, batches, algorithm, Policy)
    assert annotated[0] == plain[0]
    for name, gradient in plain[1].items():
        assert torch.equal(annotated[1][name], gradient)
    assert annotated[2]["ratio_max"].item() == 1.0


def test_the_reference_gets_no_gradient(models, rollouts):
    algorithm = replace(BASE, kl_coef=1.0)
    batches = micro_batches(rollouts, 10_000)
    make_update(models, algorithm).annotate(batches[0], old=False)
    assert batches[0].old_logp is None
    run(models, batches, algorithm)
    assert all(p.grad is None for p in models.reference.parameters())


def test_merge_stats():
    total = {}
    for tokens, largest, least, values in ((2.0, 3.0, 0.5, [1.0]), (4.0, 1.0, 0.25, [5.0, 6.0])):
        numbers = {"tokens": tokens, "ratio_max": largest, "ratio_min": least, "each": values}
        merge_stats(total, {name: torch.tensor(value) for name, value in numbers.items()})
    got = {name: value.tolist() for name, value in total.items()}
    assert got == {"tokens": 6.0, "ratio_max": 3.0, "ratio_min": 0.25, "each": [1.0, 5.0, 6.0]}
