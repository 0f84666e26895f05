"""Stated confidence against correctness: by hand, against torchmetrics, over batches, weights and processes, and drawn."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from masa_lightning.functional.calibration import auroc
from masa_lightning.metrics import ConfidenceCalibration, PassRateCalibration
from masa_lightning.metrics.figures import reliability_diagram, self_knowledge


def numbers(metric):
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand():
    metric = ConfidenceCalibration()
    # Problem 7 states .5, .9 and nothing, of which the first is wrong; problem 3 states 0 and is wrong.
    confidence = torch.tensor([0.5, 0.0, 0.9, math.nan])
    metric.update(confidence, torch.tensor([0, 0, 1, 1]), problem=torch.tensor([7, 3, 7, 7]))
    expected = {
        "brier": (0.25 + 0 + 0.01) / 3,
        "ece": (0.5 + 0 + 0.1) / 3,
        "auroc": 1.0,
        "mae": (abs(0.7 - 0.5) + 0) / 2,
        "bias": (0.7 - 0.5) / 2,
        "pearson": 1.0,
        "spearman": 1.0,
        "predicted_mean": 0.35,
        "predicted_std": 0.35,
        "actual_mean": 0.25,
        "actual_std": 0.25,
        "within_std": 0.2,
        "count": 2.0,
    }
    assert numbers(metric) == pytest.approx(expected, abs=1e-6)


def test_names_are_those_of_predicted_pass_rates():
    assert {*numbers(ConfidenceCalibration())} == {*numbers(PassRateCalibration())}
    empty = numbers(ConfidenceCalibration())
    assert empty.pop("count") == 0
    assert all(math.isnan(value) for value in empty.values())


@pytest.mark.parametrize("seed", range(5))
def test_against_torchmetrics_and_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.randint(0, 21, (200,), generator=generator).double() / 20
    correct = (torch.rand(200, generator=generator) < confidence).long()
    metric = ConfidenceCalibration()
    problem = torch.randint(0, 40, (200,), generator=generator)
    for part in problem.unique().split(7):  # batches have whole problems
        here = torch.isin(problem, part)
        metric.update(confidence[here], correct[here], problem=problem[here])
    found = numbers(metric)
    assert found["brier"] == pytest.approx((confidence - correct).square().mean().item(), abs=1e-6)
    assert found["auroc"] == pytest.approx(binary_auroc(confidence, correct).item(), abs=1e-6)
    bins = {}
    for q, y in zip(confidence.tolist(), correct.tolist(), strict=True):
        bins.setdefault(min(int(q * 10 + 1e-6), 9), []).append((q, y))
    ece = sum(abs(sum(q - y for q, y in rows)) for rows in bins.values()) / 200
    assert found["ece"] == pytest.approx(ece, abs=1e-6)
    means = [
        (statistics.fmean(confidence[problem == p].tolist()), statistics.fmean(correct[problem == p].tolist()))
        for p in problem.unique()
    ]
    assert found["mae"] == pytest.approx(statistics.fmean(abs(q - y) for q, y in means), abs=1e-6)
    assert found["pearson"] == pytest.approx(statistics.correlation(*zip(*means, strict=True)), abs=1e-6)


def test_one_solution_a_problem_is_a_predicted_pass_rate():
    """With one solution each both metrics are the same, whatever their names say."""
    confidence, correct = torch.tensor([0.2, 0.9, 0.6, 0.6]), torch.tensor([0, 1, 1, 0])
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    stated, predicted = ConfidenceCalibration(), PassRateCalibration()
    stated.update(confidence, correct, weight=weight)
    predicted.update(confidence, correct, torch.ones(4), weight=weight)
    assert numbers(stated) == pytest.approx(numbers(predicted), nan_ok=True)


def test_weights_are_repetitions():
    confidence, correct = torch.tensor([0.2, 0.9, 0.6, 0.7, 0.1]), torch.tensor([0, 1, 1, 0, 1])
    problem = torch.tensor([0, 0, 1, 1, 2])
    weighed, repeated = ConfidenceCalibration(), ConfidenceCalibration()
    weighed.update(confidence, correct, problem, weight=torch.tensor([3.0, 3.0, 1.0, 1.0, 2.0]))
    for problems in ([0, 1, 2], [0, 2], [0]):
        here = torch.isin(problem, torch.tensor(problems))
        repeated.update(confidence[here], correct[here], problem[here])
    found, expected = numbers(weighed), numbers(repeated)
    assert (found.pop("count"), expected.pop("count")) == (3, 6)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0, 1.0, 3.0]])
def test_auroc_is_the_share_of_pairs(weights):
    score, right = [0.1, 0.4, 0.4, 0.8, 0.9, 0.4], [0, 0, 1, 1, 1, 1]
    w = weights or [1.0] * 6
    pairs = [(w[i] * w[j], (score[i] > score[j]) + 0.5 * (score[i] == score[j]))
             for i in range(6) if right[i] for j in range(6) if not right[j]]  # fmt: skip
    expected = sum(a * b for a, b in pairs) / sum(a for a, _ in pairs)
    given = None if weights is None else torch.tensor(weights)
    assert auroc(torch.tensor(score), torch.tensor(right), given).item() == pytest.approx(expected)


def test_auroc_of_one_kind_is_not_known():
    assert auroc(torch.tensor([0.1, 0.2]), torch.tensor([1, 1])).isnan()
    assert auroc(torch.tensor([]), torch.tensor([])).isnan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([1.5]), torch.tensor([1])), r"confidence has values outside of \[0, 1\]"),
        ((torch.tensor([0.5]), torch.tensor([2])), "correct has other values than 0 and 1"),
        ((torch.tensor([0.5]), torch.tensor([1, 0])), r"confidence has shape \(1,\) and correct \(2,\); expected one"),
        ((torch.tensor([[0.5]]), torch.tensor([[1]])), "expected one dimension"),
        (
            (torch.tensor([0.5]), torch.tensor([1]), torch.tensor([0]), torch.tensor([-1.0])),
            r"weight has -1.0; expected",
        ),
        (
            (torch.tensor([0.5, 0.5]), torch.tensor([1, 0]), torch.tensor([0, 0]), torch.tensor([1.0, 2.0])),
            "weight differs between solutions of one problem",
        ),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConfidenceCalibration().update(*arguments)
    with pytest.raises(ValueError, match="n_bins is 0"):
        ConfidenceCalibration(n_bins=0)


def test_states_of_processes_are_joined_whole():
    """Rows of two processes one after the other keep their problems apart, though both count from 0."""
    one, two, both = ConfidenceCalibration(), ConfidenceCalibration(), ConfidenceCalibration()
    rows = [(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])), (torch.tensor([0.3, 0.5]), torch.tensor([1, 1]))]
    for metric, (confidence, correct) in zip((one, two), rows, strict=True):
        metric.update(confidence, correct, problem=torch.tensor([0, 0]))
        both.add_rows(metric.rows())
    points = both.points()
    assert points.predicted.tolist() == pytest.approx([0.5, 0.4])
    assert points.actual.tolist() == [0.5, 1.0]
    assert points.problem.tolist() == [0, 0, 1, 1]


def test_intervals_rest_on_problems_not_on_solutions():
    """Eight solutions of one problem tell no more than one does; of eight problems they tell eight times as much."""
    confidence, verdict = torch.full((8,), 0.55), torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    heights = []
    for problem in (torch.zeros(8, dtype=torch.long), torch.arange(8)):
        axes = reliability_diagram(confidence, verdict, problem=problem).axes[0]
        interval = next(line for line in axes.lines if line.get_alpha() == 0.55)
        low, high = interval.get_ydata()
        heights.append(high - low)
    assert heights[0] > 1.3 * heights[1]


def test_both_kinds_in_one_figure():
    rate = torch.tensor([0.5, 1.0]), torch.tensor([1, 4]), torch.tensor([4, 4])
    stated = torch.tensor([0.5, 0.9, 1.0]), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    figure = self_knowledge(*(rate, stated), where="run \u00b7 test")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["Before: ECE = 0.12, n = 2 problems", "After: ECE = 0.20, n = 3 solutions of 2 problems"]
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["Problems", "Solutions"]
    assert [bar.get_height() for bar in figure.axes[2].patches] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
