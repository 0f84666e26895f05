"""The arithmetic of scripts/gating.py, by hand and by enumeration."""

import importlib
from itertools import combinations
from pathlib import Path

import pytest


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    return importlib.import_module("gating")


@pytest.mark.parametrize(("correct", "size"), [(0, 3), (2, 3), (5, 3), (6, 3), (3, 1), (1, 6)])
def test_chance_of_a_group_without_variance(script, correct, size):
    """Over all groups that six rollouts can form."""
    verdicts = [i < correct for i in range(6)]
    groups = list(combinations(verdicts, size))
    expected = sum(len(set(group)) == 1 for group in groups) / len(groups)
    assert script.Observed([], correct, 6).zero_variance(size) == pytest.approx(expected)


def test_figures(script):
    problems = [
        script.Observed([0.0] * 4, 1, 4),  # hopeless by both its blocks of two
        script.Observed([1.0] * 2 + [0.5] * 2, 4, 4),  # trivial by one of two
        script.Observed([0.5] * 4, 3, 4),
    ]
    found = script.gated(problems, margin=0.1, max_std=0.1, predictions=2)
    assert [(hopeless, trivial) for hopeless, trivial, _ in found] == [(1, 0), (0, 0.5), (0, 0)]
    # Groups of two without variance: 3 of 6, all, 3 of 6.
    expected = {"hopeless": 1 / 3, "precision of hopeless": 0.5, "trivial": 1 / 6, "precision of trivial": 1.0}
    expected |= {"precision": (0.5 + 0.5) / 1.5, "recall": (0.5 + 0.5) / 2, "correct lost": 1 / 8, "variance lost": 0.5}
    assert script.figures(found, 2) == pytest.approx(expected)


def test_ceiling(script):
    problems = [script.Observed([], correct, 4) for correct in (4, 0, 3, 2)]  # chances 1, 1, 1/2, 1/3
    assert script.ceiling(problems, 2) == pytest.approx((2 / (2 + 5 / 6), 0.5))
    assert script.ceiling(problems, 2, precision=0.8) == pytest.approx((2.5 / (2 + 5 / 6), 0.75))
