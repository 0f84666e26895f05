"""The risk rule on simulated populations that drift, against what is known in hindsight, and its account against chance."""

import math

import numpy as np
import pytest

from masa_lightning.functional.risk import LEAST_AUDIT_SHARE, LossBudget, RiskCutoff, RiskGate, scores, signal_by_score

LIMIT = 0.05


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pass_rates(rng, progress, count):
    """Three tiers, trivial, open and hopeless, that all become easier."""
    tier = rng.choice(3, count, p=[0.22 + 0.12 * progress, 0.45, 0.33 - 0.12 * progress])
    some = sigmoid(rng.normal(-0.6 + 1.2 * progress, 1.3, count))
    return np.select([tier == 0, tier == 1], [rng.beta(60, 0.6, count), some], rng.beta(0.15, 30, count))


def predictions(rng, kind, rates, step, acting, count=8):
    """In eighths, [N, count].

    The adversarial ones turn against the gate half of the time that it acts; those that turn, for good, once it has acted
    for three steps.
    """
    if kind == "constant":
        return np.full((len(rates), count), 0.5)
    seen = np.clip(rates, 0.004, 0.996)
    believed = np.log(seen / (1 - seen)) + rng.normal(0, 0.7, len(rates))
    if kind == "overconfident":
        believed = 2.5 * believed + 1
    said = rng.binomial(8, sigmoid(believed)[:, None], (len(rates), count)) / 8
    if (kind == "adversarial" and acting and step // 15 % 2) or (kind == "turning" and acting > 3):
        said = np.where((np.abs(rates - 0.5) < 0.4)[:, None], np.round(rates)[:, None], 0.5)
    return said


def table(said):
    """`scores` of each row."""
    more = np.concatenate([np.zeros((len(said), 1)), np.ones((len(said), 1)), said], axis=1)
    return np.stack([more.mean(1) + more.std(1), more.mean(1) - more.std(1)], axis=1)


def recurring(kind, *, with_predictions, with_past, steps=60, problems=128, epoch=8, size=8, seed=0):
    """Share gated after the first epoch, and shares lost, where the same problems come again and become easier."""
    rng = np.random.default_rng(seed)
    gate = RiskGate(LIMIT, LIMIT, 0.9, window=50)
    start = np.clip(pass_rates(rng, 0.0, problems * epoch), 1e-3, 1 - 1e-3)
    start = np.log(start / (1 - start))
    past, lost, total, gated = np.zeros((len(start), 2)), np.zeros(2), np.zeros(2), []
    for step in range(steps):
        if step % epoch == 0:
            order = rng.permutation(len(start)).reshape(epoch, problems)
        mine = order[step % epoch]
        p = sigmoid(start[mine] + 1.5 * step / steps * (np.abs(start[mine]) < 4))
        said = predictions(rng, kind, p, step, True, 8 if with_predictions else 0)
        known = past[mine] if with_past else np.zeros((problems, 2))
        scored = np.array(
            [scores(row, *of) if len(row) or any(of) else (np.nan, np.nan) for row, of in zip(said, known, strict=True)]
        )
        share, gates = gate.audit_share, gate.plan(scored)
        wanted, hopeless = (np.array([g is not None for g in gates]), np.array([g == "hopeless" for g in gates]))
        solved = ~wanted | (rng.random(problems) < share)
        rate = rng.binomial(size, p) / size
        gate.add(scored, gates, np.where(solved, rate, np.nan), np.where(wanted, 1 / share, 1.0), acted=True)
        did = size * np.stack([rate, 1 - rate], axis=1)
        past[mine[solved]] = 0.5 * past[mine[solved]] + did[solved]
        lost += [(rate * (1 - rate))[~solved].sum(), rate[hopeless & ~solved].sum()]
        total += [(rate * (1 - rate)).sum(), rate.sum()]
        gated.append(wanted.mean())
    return float(np.mean(gated[epoch:])), lost / total


def test_a_past_beside_predictions_gates_more_within_the_same_limits():
    """Over-confident ones; of calibrated ones docs/masa_efficient.md has figures."""
    both, lost = recurring("overconfident", with_predictions=True, with_past=True, seed=1)
    alone, _ = recurring("overconfident", with_predictions=True, with_past=False, seed=1)
    past, _ = recurring("overconfident", with_predictions=False, with_past=True, seed=1)
    assert (lost <= LIMIT).all()
    assert both > max(alone, past) + 0.05


class Careless(RiskGate):
    """Learns what scores mean as `RiskGate` does, and audits as few as it may, but keeps no account of what was lost."""

    audit_share = LEAST_AUDIT_SHARE

    def ready(self):
        return len(self.window) >= 10

    def _allowed(self, averages, count):
        return [budget.limit * average for budget, average in zip(self.budgets, averages, strict=True)]

    def _places(self):
        return math.inf, math.inf


def simulate(kind, *, steps, problems, size=8, seed=0, rule=RiskGate):
    """Returns the greatest shares lost of signal and of correct rollouts, the share gated by step, and what was seen."""
    rng = np.random.default_rng(seed)
    gate = rule(LIMIT, LIMIT, 0.9, window=50)
    lost, total, worst, gated, looks = np.zeros(2), np.zeros(2), np.zeros(2), [], []
    acting = 0
    for step in range(steps):
        p = pass_rates(rng, step / steps, problems)
        acting = acting + 1 if gate.ready() else 0
        scored = table(predictions(rng, kind, p, step, acting))
        share, gates = gate.audit_share, gate.plan(scored)
        wanted = np.array([g is not None for g in gates])
        hopeless = np.array([g == "hopeless" for g in gates])
        audited = rng.random(problems) < share
        rate = rng.binomial(size, p) / size
        solved = ~wanted | audited
        gate.add(scored, gates, np.where(solved, rate, np.nan), np.where(wanted, 1 / share, 1.0), acted=True)
        lost += [(rate * (1 - rate))[~solved].sum(), rate[hopeless & ~solved].sum()]
        total += [(rate * (1 - rate)).sum(), rate.sum()]
        worst = np.maximum(worst, lost / total)
        gated.append(wanted.mean())
        looks.append((scored, p))
    return worst, np.array(gated), looks


def best_share(looks):
    """The greatest share of problems that one threshold on the true signal of a score may gate within the limits."""
    scored, p = (np.concatenate(columns) for columns in zip(*looks, strict=True))
    ones = np.ones(len(p))
    (low, dull), (_, sharp) = (signal_by_score(scored[:, i], p, ones, scored[:, i]) for i in (0, 1))
    hopeless, signal = low < 0.5, p * (1 - p)
    cost = np.maximum(np.where(hopeless, dull, sharp) / signal.mean(), np.where(hopeless, low, 0.0) / p.mean())
    order = np.argsort(cost)
    right = np.where(hopeless, p, 0.0)
    within = np.cumsum(signal[order]) <= LIMIT * signal.sum()
    within &= np.cumsum(right[order]) <= LIMIT * p.sum()
    return float(within.mean())


@pytest.mark.parametrize("kind", ["overconfident", "constant", "adversarial", "turning"])
def test_no_predictions_lose_more_than_the_limits(kind):
    worst, gated, _ = simulate(kind, steps=80, problems=128)
    assert (worst <= LIMIT).all()
    assert (gated.sum() == 0) == (kind == "constant")


@pytest.mark.parametrize("rule", [RiskGate, Careless])
def test_one_step_loses_no_more_than_the_account_can_bear(rule):
    """Predictions that were right for forty steps, and then call each problem of a large one hopeless."""
    rng = np.random.default_rng(0)
    gate, lost, total = rule(LIMIT, LIMIT, 0.9, window=50), np.zeros(2), np.zeros(2)
    for step in range(41):
        p = pass_rates(rng, 0.0, 200 if step < 40 else 8000)
        said = predictions(rng, "calibrated", p, step, acting=1) if step < 40 else np.zeros((len(p), 8))
        share, gates = gate.audit_share, gate.plan(table(said))
        wanted = np.array([g is not None for g in gates])
        lost += np.array([(p * (1 - p))[wanted].sum(), p[[g == "hopeless" for g in gates]].sum()]) * (1 - share)
        total += np.array([(p * (1 - p)).sum(), p.sum()])
        solved = ~wanted | (rng.random(len(p)) < share)
        rate = np.where(solved, rng.binomial(8, p) / 8, np.nan)
        gate.add(table(said), gates, rate, np.where(wanted, 1 / share, 1.0), acted=True)
    assert wanted.any()
    assert (lost <= LIMIT * total).all() == (rule is RiskGate)  # without the account it would not hold


@pytest.mark.parametrize("seed", [0, 1])
def test_calibrated_predictions_gate_nearly_all_that_the_limits_allow(seed):
    """In the second half of 28,000 problems; over the whole run, with its start, a sixth less."""
    worst, gated, looks = simulate("calibrated", steps=110, problems=256, seed=seed)
    assert (worst <= LIMIT).all()
    assert gated[55:].mean() >= 0.9 * best_share(looks[55:])
    assert gated.mean() >= 0.8 * best_share(looks)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["calibrated", "overconfident", "adversarial"])
def test_the_limits_hold_in_nine_of_ten_runs(kind):
    # It was tuned on seeds 0 to 2.
    held = [(simulate(kind, steps=150, problems=64, seed=seed)[0] <= LIMIT).all() for seed in range(100, 120)]
    assert np.mean(held) >= 0.9


def test_the_account_is_right_at_all_steps_at_once():
    """By its bound, for units that lose much, little and at random, at changing rates of audits."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(100):
        budget, lost, above = LossBudget(LIMIT, greatest=1.0, error=0.1), 0.0, False
        for step in range(60):
            share = 0.5 if step < 10 else 0.2
            losses = np.where(rng.random(20) < 0.3, rng.random(20), 0.0) * (step // 20)
            audited = rng.random(20) < share
            budget.add(0.0, losses[audited], share)
            lost += losses[~audited].sum()
            above |= lost > budget.granted - budget.room(1.0)
        broken += above
    assert broken <= 0.1 * 100
    assert lost > 0.4 * (budget.granted - budget.room(1.0))  # and not far from what was lost


def test_without_audits_nothing_is_known():
    budget = LossBudget(LIMIT, greatest=1.0, error=0.1)
    assert (budget.audit_share(), budget.lost_share) == (1.0, 1.0)
    budget.add(10_000.0, np.zeros(0), share=1.0)
    assert 0.02 <= budget.audit_share() < 0.05
    assert budget.room(0.0) == -math.inf
    budget.add(0.0, np.zeros(0), share=0.0)  # somebody acted, and nothing was audited
    assert budget.room(0.5) == -math.inf


def test_shadow_mode_books_what_acting_would_have():
    """On average over audits: what is lost is not kept, and audits claim their part."""
    rng = np.random.default_rng(0)
    losses = rng.random(5000) * 0.25
    shadow, acting = (LossBudget(LIMIT, greatest=0.25, error=0.1) for _ in range(2))
    shadow.book(2000.0, losses, 0.3, acted=False)
    audited = rng.random(5000) < 0.3
    acting.book(2000.0 - losses[~audited].sum(), losses[audited], 0.3, acted=True)
    assert shadow.kept == pytest.approx(acting.kept, rel=0.02)
    assert np.isfinite(shadow.claims).tolist() == np.isfinite(acting.claims).tolist()
    finite = np.isfinite(shadow.claims)
    assert shadow.claims[finite] == pytest.approx(acting.claims[finite], rel=0.05)


def test_scores_know_mean_spread_and_number():
    agreed, few, spread = scores([0.0] * 8), scores([0.0] * 2), scores([0.0] * 6 + [1.0] * 2)
    assert agreed[0] < few[0] < spread[0]
    agreed, few, spread = scores([1.0] * 8), scores([1.0] * 2), scores([1.0] * 6 + [0.0] * 2)
    assert agreed[1] > few[1] > spread[1]
    assert np.allclose(table(np.array([[0.25, 0.5]])), [scores([0.25, 0.5])])


def test_signal_is_that_of_each_level():
    """By hand: three levels with pass rates 0, 1/2 and 1, and one problem more of the average signal on each."""
    score = np.repeat([0.1, 0.5, 0.9], 10)
    rate = np.repeat([0.0, 0.5, 1.0], 10)
    p, signal = signal_by_score(score, rate, np.ones(30), np.array([0.0, 0.1, 0.3, 0.5, 0.9]))
    assert p == pytest.approx([0, 0, 0.25, 0.5, 1])
    low, high = (0.25 / 3) / 11, (10 * 0.25 + 0.25 / 3) / 11
    assert signal == pytest.approx([low, low, (low + high) / 2, high, low])


def test_weights_are_problems():
    score, rate = np.array([0.2, 0.2, 0.8]), np.array([0.0, 1.0, 1.0])
    p, _ = signal_by_score(score, rate, np.array([3.0, 1.0, 1.0]), np.array([0.2]))
    assert p == pytest.approx([0.25])


def test_the_state_is_all_there_is():
    rng = np.random.default_rng(1)
    gate = RiskGate(LIMIT, LIMIT, 0.9, window=5)
    for step in range(40):
        p = pass_rates(rng, 0.5, 200)
        scored = table(predictions(rng, "calibrated", p, step, False))
        gates = gate.plan(scored)
        gate.add(scored, gates, rng.binomial(8, p) / 8, np.ones(200), acted=False)
    other = RiskGate(LIMIT, LIMIT, 0.9, window=5)
    other.load_state_dict(gate.state_dict())
    scored = table(predictions(rng, "calibrated", pass_rates(rng, 0.5, 200), 0, False))
    assert other.state_dict() == gate.state_dict()
    planned = gate.plan(scored)
    assert any(planned)
    assert other.plan(scored) == planned


# -- the cutoff ----------------------------------------------------------------------------------------------------------


def cut(*, steps, problems, drift, seed=0, size=8, budget=512):
    """Predicted lengths that are too short from half of the run on, by `drift`; returns the share lost, and the factors."""
    rng = np.random.default_rng(seed)
    rule = RiskCutoff(LIMIT, 0.9, window=50)
    lost = total = worst = 0.0
    factors = []
    for step in range(steps):
        typical = rng.uniform(40, 120, problems)
        predicted = typical / (drift if step > steps / 2 else 1.0)
        length = np.minimum(typical[:, None] * rng.lognormal(0, 0.35, (problems, size)), budget)
        correct = rng.random((problems, size)) < rng.beta(1, 1, problems)[:, None]
        factor, share = rule.factor(), rule.audit_share
        limit = factor * predicted
        wanted = (limit < budget) & (np.cumsum(limit < budget) <= rule.places)
        audited = rng.random(problems) < share
        beyond = (length > limit[:, None]) & wanted[:, None]
        loses = (correct & beyond).mean(1)
        acted = wanted & ~audited
        seen = ~(acted & beyond.any(1))
        weight = np.where(wanted & audited & beyond.any(1), 1 / share, 1.0)
        right = correct & seen[:, None]
        step_ = {
            "ratio": (length / predicted[:, None])[right],
            "share": np.broadcast_to(weight[:, None] / size, right.shape)[right],
        }
        kept = np.where(acted, (correct & ~beyond).mean(1), correct.mean(1))
        rule.add(step_, np.where(acted, np.nan, loses), wanted.astype(float), kept, acted=bool(wanted.any()))
        lost += loses[acted].sum()
        total += correct.mean(1).sum()
        worst = max(worst, lost / total)
        factors.append(factor)
    return worst, factors


@pytest.mark.parametrize("drift", [1.0, 1.6])
def test_the_factor_follows_the_lengths_within_its_limit(drift):
    worst, factors = cut(steps=160, problems=64, drift=drift)
    assert worst <= LIMIT
    assert factors[0] == math.inf  # nothing is known yet
    quarter = len(factors) // 4
    early, late = np.median(factors[quarter : 2 * quarter]), np.median(factors[3 * quarter :])
    assert 1.4 < early < 2.6  # 95% of the right rollouts are below exp(1.645 * 0.35) = 1.78 times the predicted length
    assert late / early == pytest.approx(drift, rel=0.25)
