import math
import random
from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.functional.controls import ControlCounts, cutoff_tokens, gate, hint_notions, sample_count, uniform
from masa_lightning.types import MetaPrediction

rates = st.lists(st.integers(0, 8).map(lambda n: n / 8), max_size=8)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([0, 0, 0, 0], "hopeless"),
        ([0, 0.125, 0.125, 0], "hopeless"),
        ([0.125, 0.125], None),  # mean 0.125 is further than 0.1 from 0
        ([0, 0, 0, 0.25], None),  # deviation 0.108
        ([1, 1, 0.875], "trivial"),
        ([0.5, 0.5], None),
        ([0], None),
        ([], None),
    ],
)
def test_gate(predicted, expected):
    assert gate(predicted) == expected


def test_gate_settings():
    assert gate([0, 0.25], max_std=0.2, margin=0.2) == "hopeless"
    assert gate([0, 0.25], max_std=0.125, margin=0.2) is None  # the deviation has to be below it
    assert gate([0.75, 0.75], margin=0.25) == "trivial"
    assert gate([0], min_predictions=1) == "hopeless"
    assert gate([], min_predictions=0) is None


@given(rates)
def test_gate_is_symmetric(predicted):
    mirrored = {None: None, "hopeless": "trivial", "trivial": "hopeless"}
    assert gate([1 - rate for rate in predicted]) == mirrored[gate(predicted)]


SCALES = st.sampled_from([10, 20, 50, 100]) | st.integers(1, 1000)


@st.composite
def predictions(draw):
    """Numerators of some predictions on one scale."""
    scale = draw(SCALES)
    near = st.integers(0, max(1, scale // 4))  # where bounds are
    return scale, draw(st.lists(near | st.integers(0, scale), min_size=1, max_size=8))


@given(predictions(), st.integers(0, 49), st.integers(1, 100), st.sampled_from([10, 100, 20, 3, 8]))
@settings(max_examples=500)
def test_gate_is_exact(given_, margin, deviation, parts):
    """Against rational arithmetic, at any scale; bounds that a mean or a deviation may meet exactly are common here."""
    scale, numerators = given_
    bound, spread = Fraction(margin, 100), Fraction(deviation, parts)
    shares = [Fraction(n, scale) for n in numerators]
    mean = sum(shares) / len(shares)
    expected = None
    if sum((s - mean) ** 2 for s in shares) / len(shares) < spread**2 and len(shares) >= 2:
        expected = "hopeless" if mean <= bound else "trivial" if mean >= 1 - bound else None
    rates = [n / scale for n in numerators]
    assert gate(rates, max_std=deviation / parts, margin=margin / 100) == expected


@pytest.mark.parametrize(
    ("rates", "bounds", "expected"),
    [
        ([0.1, 0.2, 0.0], {}, "hopeless"),  # fmean says 0.10000000000000002
        ([0.05, 0.15, 0.1, 0.1], {}, "hopeless"),
        ([0.9, 0.8, 1.0], {}, "trivial"),
        ([0.85, 0.95, 0.9], {}, "trivial"),
        ([0.0, 0.2], {}, None),  # a deviation of exactly 0.1 is not below it
        ([0.1, 0.3], {"margin": 0.2}, None),
        ([0.7, 0.9], {"margin": 0.2}, None),
        ([0.2, 0.4, 0.3], {"margin": 0.3}, "hopeless"),
        ([0.7, 0.6, 0.8], {"margin": 0.3}, "trivial"),  # 1 - 0.3 is 0.7, and not 0.7 either, in binary
    ],
)
def test_gate_at_its_edges(rates, bounds, expected):
    assert gate(rates, **bounds) == expected
    assert gate(rates[::-1], **bounds) == expected


@given(st.lists(st.integers(1, 40).map(lambda n: 10 * n), min_size=1, max_size=3), st.integers(1, 400))
@settings(max_examples=300)
def test_cutoff_is_exact(lengths, hundredths):
    """1.1 times 10 tokens are 11, not 12."""
    ordered = sorted(lengths)
    middle = Fraction(ordered[(len(lengths) - 1) // 2] + ordered[len(lengths) // 2], 2)
    expected = max(1, math.ceil(middle * hundredths / 100))
    assert cutoff_tokens(lengths, budget=10**6, factor=hundredths / 100) == expected


@given(predictions(), st.integers(1, 64))
def test_sample_count_is_exact(given_, count):
    scale, numerators = given_
    p = Fraction(sum(numerators), scale * len(numerators))
    assert sample_count([n / scale for n in numerators], count) == 1 + round((count - 1) * 6 * p * (1 - p))


@pytest.mark.parametrize(
    ("lengths", "factor", "expected"),
    [([100], 2, 200), ([10, 30], 2, 40), ([10, 11], 1, 11), ([1, 2, 10**18], 2, 4), ([300], 2, 512), ([1], 0.1, 1)],
)
def test_cutoff(lengths, factor, expected):
    assert cutoff_tokens(lengths, budget=512, factor=factor) == expected


@given(st.lists(st.integers(1, 10**18), max_size=9), st.integers(1, 10**5), st.floats(0.1, 10))
def test_cutoff_stays_in_the_budget(lengths, budget, factor):
    assert 1 <= cutoff_tokens(lengths, budget=budget, factor=factor) <= budget


def test_hints():
    predictions = [
        MetaPrediction(notions=("Parity", "lemmas", "graph")),
        MetaPrediction(),
        MetaPrediction(notions=("lemma", "axis")),
        MetaPrediction(notions=("AXES", "lemma", "x" * 10**6, "!")),
    ]
    assert hint_notions(predictions, "Colour the graphs.") == ("lemmas", "axis", "Parity")
    assert hint_notions(predictions, "Colour the graphs.", count=1) == ("lemmas",)
    assert hint_notions([MetaPrediction(notions=("graph",))], "Colour the graphs.") == ()
    assert hint_notions([], "?") == ()
    shares = [(0.0, ("lemmas", "axis", "Parity")), (0.25, ("lemmas", "axis")), (0.5, ("lemmas",)), (0.75, ())]
    for share, expected in shares:  # named by 3, 2 and 1 of the 4 predictions: more than the share of them
        assert hint_notions(predictions, "Colour the graphs.", min_agreement=share) == expected
    many = [MetaPrediction(notions=("parity",))] * 29 + [MetaPrediction()] * 71
    assert hint_notions(many, "?", min_agreement=0.29) == ()  # 0.29 * 100 is 28.999... in binary
    assert hint_notions(many, "?", min_agreement=np.float32(0.25)) == ("parity",)
    for share in (1.0, -0.1, float("nan"), True):
        with pytest.raises(ValueError, match="min_agreement is"):
            hint_notions(predictions, "?", min_agreement=share)


def test_uniform_is_uniform_and_repeats():
    values = [uniform(f"0/gating/{i}") for i in range(4000)]
    assert fmean(values) == pytest.approx(0.5, abs=0.02)
    assert sum(value < 0.05 for value in values) / 4000 == pytest.approx(0.05, abs=0.015)
    assert values[7] == uniform("0/gating/7")


def test_figures_by_hand():
    counts = ControlCounts()
    counts.add(prevented=True, deserved=True, weight=2, tokens=100, saved=100)
    counts.add(prevented=True, deserved=False, correct=1, lost=1, tokens=50, saved=50)
    counts.add(prevented=False, deserved=True, correct=8, tokens=20)
    counts.add(prevented=False, deserved=False, weight=4, correct=4, tokens=10)
    expected = {
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "share": 3 / 8,
        "lost_correct": 1 / 25,
        "saved_tokens": 250 / 310,
    }
    assert counts.metrics() == pytest.approx(expected)
    assert counts.evidence == 2
    assert (counts + counts).metrics() == pytest.approx(expected)
    assert (counts + ControlCounts()) == counts


def test_figures_of_nothing():
    assert all(value != value for value in ControlCounts().metrics().values())


def test_audits_estimate_the_whole_population():
    """A simulated population of known truth: gating acts, a tenth is audited, and the metrics stay those of all."""
    rng = random.Random(0)
    truth, estimates = ControlCounts(), []
    population = []
    for _ in range(3000):
        rate = rng.choice([0.0, 0.0, 0.05, 0.5, 1.0])
        correct = [rng.random() < rate for _ in range(8)]
        prevented = rng.random() < (0.7 if rate < 0.1 else 0.1)
        unit = {
            "prevented": prevented,
            "deserved": len(set(correct)) == 1,
            "correct": sum(correct),
            "lost": sum(correct) * prevented,
            "tokens": 80,
            "saved": 80 * prevented,
        }
        truth.add(**unit)
        population.append(unit)
    for audit in range(40):
        counts = ControlCounts()
        for i, unit in enumerate(population):
            if not unit["prevented"]:
                counts.add(**unit)
            elif uniform(f"{audit}/{i}") < 0.1:
                counts.add(**unit, weight=10)
        estimates.append(counts.metrics())
    for name, value in truth.metrics().items():
        mean = fmean(estimate[name] for estimate in estimates)
        assert mean == pytest.approx(value, rel=0.03), name
        assert any(estimate[name] != value for estimate in estimates)
