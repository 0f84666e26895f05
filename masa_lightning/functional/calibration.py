"""How well predictions match what happened: correlations, calibration errors, pass@k and intervals.

All tensors are one-dimensional; results are float64 scalars on the device of the inputs, NaN where there is nothing to
say (no entries, or a correlation with a constant).

Weights are frequencies, >= 0 and finite: integer ones give, up to rounding, what repeating each entry that many times
gives, and 0 leaves the entry out. No metric changes when all weights are scaled alike, so other ones give what large
integers in their ratio give. A problem that was looked at with probability s weighs 1 / s (Horvitz-Thompson).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from masa_lightning.checks import check_number
from masa_lightning.functional.intervals import share_interval

_SAME_RATE = (
    1e-7  # above the rounding of float32, below the distance of shares whose counts multiply to less than 10 million
)


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""Unbiased estimate of the chance that at least one of k rollouts is correct.

    .. math:: \text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k}

    Args:
        n: Rollouts made, >= k.
        c: Correct ones among them, in [0, n].
        k: Rollouts one may try, >= 1.

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: If a count is out of range.

    Example:
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
    """
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected a value in [1, n] with n = {n} rollouts")
    if not 0 <= c <= n:
        raise ValueError(f"c is {c}; expected a value in [0, n] with n = {n} rollouts")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def pearson(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Pearson's linear correlation.

    .. math::

        r = \frac{\sum_i w_i (x_i - \bar x)(y_i - \bar y)}
                 {\sqrt{\sum_i w_i (x_i - \bar x)^2 \sum_i w_i (y_i - \bar y)^2}}, \qquad
        \bar x = \frac{\sum_i w_i x_i}{\sum_i w_i}

    Args:
        x: Values, [P].
        y: Values, [P].
        weights: How often each pair occurred, >= 0, [P]; default 1.

    Returns:
        A scalar in [-1, 1]; NaN with fewer than two entries or where `x` or `y` is constant.

    Raises:
        ValueError: If the shapes differ or a weight is negative or not finite.

    Example:
        >>> pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
        tensor(0.5000, dtype=torch.float64)
        >>> pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2, 1, 1]))
        tensor(0.6364, dtype=torch.float64)
    """
    _check(x, y=y, weights=weights)
    weights, (x, y) = _kept(weights, x.double(), y.double())
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return x.new_tensor(torch.nan)
    x, y = x - _mean(x, weights), y - _mean(y, weights)
    x, y = x / x.abs().max(), y / y.abs().max()
    w = 1 if weights is None else weights
    return ((w * x * y).sum() / ((w * x.square()).sum() * (w * y.square()).sum()).sqrt()).clamp(-1, 1)


def spearman(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation: Pearson's of the ranks, tied values sharing their average rank.

    The rank of a value is the sum of the weights of smaller ones + (the weight of its ties + 1) / 2.

    Args:
        x: Values, [P].
        y: Values, [P].
        weights: How often each pair occurred, >= 0, [P]; default 1.

    Returns:
        A scalar in [-1, 1]; NaN with fewer than two entries or where `x` or `y` is constant or has a NaN.

    Raises:
        ValueError: If the shapes differ or a weight is negative or not finite.

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 30.0]), torch.tensor([0.0, 0.1, 0.2]))
        tensor(1., dtype=torch.float64)
        >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2, 1, 1]))
        tensor(0.7778, dtype=torch.float64)
    """
    _check(x, y=y, weights=weights)
    weights, (x, y) = _kept(weights, x, y)
    if x.isnan().any() or y.isnan().any():
        return torch.tensor(torch.nan, dtype=torch.float64, device=x.device)
    return pearson(_ranks(x, weights), _ranks(y, weights), weights)


def brier_score(predicted: Tensor, actual_correctness: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Mean squared distance of a predicted probability from what happened.

    .. math:: \text{Brier} = \frac{\sum_i w_i (p_i - y_i)^2}{\sum_i w_i}

    Args:
        predicted: Probabilities in [0, 1], [P].
        actual_correctness: 1 where the rollout was correct, 0 where not, [P].
        weights: How often each pair occurred, >= 0, [P]; default 1.

    Returns:
        A scalar in [0, 1]; 0 is best, 0.25 what a constant 0.5 earns. NaN without entries.

    Raises:
        ValueError: If the shapes differ or a weight is negative or not finite.

    Example:
        >>> brier_score(torch.tensor([0.5, 1.0]), torch.tensor([1, 1]))
        tensor(0.1250, dtype=torch.float64)
    """
    _check(predicted, actual_correctness=actual_correctness, weights=weights)
    error = (predicted.double() - actual_correctness.double()).square()
    w = torch.ones_like(error) if weights is None else weights.double()
    return (w * error).sum() / w.sum()


def reliability_bins(
    predicted: Tensor, outcome: Tensor, n_bins: int = 10, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Means of predictions and outcomes in equally wide bins of the prediction.

    Bin k is [k/n_bins, (k+1)/n_bins), and the last one includes 1. Rates are shares of counts, which binary numbers seldom
    hold exactly: a prediction that is within 1e-7 of an edge is on it, whether it came as float32 or as float64.

    Args:
        predicted: Probabilities in [0, 1], [P].
        outcome: Correctness, or a share of it, in [0, 1], [P].
        n_bins: Number of bins, >= 1.
        weights: How often each pair occurred, >= 0, [P]; default 1.

    Returns:
        Mean prediction, mean outcome (both NaN in empty bins) and count (sum of weights) of each bin, each [n_bins].

    Raises:
        ValueError: If the shapes differ, a prediction is outside of [0, 1], a weight is negative or not finite or
            there is no bin.

    Example:
        >>> predicted, outcome = torch.tensor([0.1, 0.3, 1.0]), torch.tensor([0, 1, 1])
        >>> mean_predicted, mean_outcome, count = reliability_bins(predicted, outcome, n_bins=2)
        >>> mean_outcome, count
        (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64))
    """
    _check(predicted, outcome=outcome, weights=weights)
    check_number("n_bins", n_bins, ">= 1", whole=True)
    p = predicted.double()
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("predicted has values outside of [0, 1]; expected probabilities: divide by the scale first")
    w = torch.ones_like(p) if weights is None else weights.double()
    index = ((p + _SAME_RATE) * n_bins).long().clamp(max=n_bins - 1)
    zeros = p.new_zeros(n_bins)
    count = zeros.scatter_add(0, index, w)
    return zeros.scatter_add(0, index, w * p) / count, zeros.scatter_add(0, index, w * outcome.double()) / count, count


def expected_calibration_error(
    predicted: Tensor, outcome: Tensor, n_bins: int = 10, weights: Tensor | None = None
) -> Tensor:
    r"""Mean gap between predictions and outcomes over bins of the prediction.

    .. math:: \text{ECE} = \sum_b \frac{n_b}{n} \, |\bar p_b - \bar y_b|

    Args:
        predicted: Probabilities in [0, 1], [P].
        outcome: Correctness in {0, 1}, [P].
        n_bins: Number of equally wide bins, >= 1; see `reliability_bins`.
        weights: How often each pair occurred, >= 0, [P]; default 1.

    Returns:
        A scalar in [0, 1], 0 is best; NaN without entries.

    Raises:
        ValueError: As `reliability_bins`.

    Example:
        >>> expected_calibration_error(torch.tensor([0.9, 0.9, 0.2]), torch.tensor([1, 0, 0]))
        tensor(0.3333, dtype=torch.float64)
    """
    mean_predicted, mean_outcome, count = reliability_bins(predicted, outcome, n_bins, weights)
    gap = (mean_predicted - mean_outcome).abs()
    return torch.where(count > 0, count * gap, 0.0).sum() / count.sum()


def auroc(predicted: Tensor, actual_correctness: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Chance that a correct rollout has a greater prediction than a wrong one; of equal ones half counts.

    .. math::

        \text{AUROC} = \frac{\sum_{i: y_i = 1} \sum_{j: y_j = 0} w_i w_j \left([p_i > p_j] + \frac12 [p_i = p_j]\right)}
                            {\sum_{i: y_i = 1} w_i \sum_{j: y_j = 0} w_j}

    Args:
        predicted: Probabilities, or any scores, [P].
        actual_correctness: 1 where the rollout was correct, 0 where not, [P].
        weights: How often each pair occurred, >= 0, [P]; default 1.

    Returns:
        A scalar in [0, 1]; 0.5 is what chance gives. NaN without a correct or without a wrong rollout.

    Raises:
        ValueError: If the shapes differ or a weight is negative or not finite.

    Example:
        >>> auroc(torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([1, 1, 0, 0]))
        tensor(0.8750, dtype=torch.float64)
    """
    _check(predicted, actual_correctness=actual_correctness, weights=weights)
    w = torch.ones_like(predicted, dtype=torch.float64) if weights is None else weights.double()
    right = w * actual_correctness.double()
    values, index = torch.unique(predicted, return_inverse=True)
    zeros = torch.zeros_like(values, dtype=torch.float64)
    rights, wrongs = zeros.scatter_add(0, index, right), zeros.scatter_add(0, index, w - right)
    below = wrongs.cumsum(0) - wrongs / 2
    return (rights * below).sum() / (rights.sum() * wrongs.sum())


def pass_rate_calibration(
    predicted: Tensor, correct: Tensor, count: Tensor, n_bins: int = 10, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """All metrics of predicted against actual pass rates of problems.

    A problem has its weight in the errors and correlations; each of its rollouts has it in ``brier``, ``ece`` and ``auroc``.

    Args:
        predicted: Predicted pass rate of each problem, in [0, 1], [P].
        correct: Correct solution rollouts of the problem, in [0, count], [P].
        count: Solution rollouts of the problem, >= 1, [P].
        n_bins: Bins of the expected calibration error.
        weights: How many problems each stands for, >= 0, [P]; default 1.

    Returns:
        ``mae`` (mean absolute error of the rate), ``bias`` (mean of predicted - actual; positive is over-confident),
        ``pearson``, ``spearman``, ``brier``, ``ece`` and ``auroc`` (predicted rate against each rollout's correctness),
        ``predicted_mean``, ``predicted_std``, ``actual_mean``, ``actual_std`` (population standard deviations over
        problems) and ``count`` (problems given, whatever their weights; 0 and not NaN when empty).

    Raises:
        ValueError: If shapes differ, values are out of range or a weight is negative or not finite.

    Example:
        >>> metrics = pass_rate_calibration(torch.tensor([0.5, 1.0]), torch.tensor([1, 3]), torch.tensor([4, 4]))
        >>> {name: round(value.item(), 4) for name, value in metrics.items() if name in ("mae", "bias", "brier", "ece")}
        {'mae': 0.25, 'bias': 0.25, 'brier': 0.25, 'ece': 0.25}
        >>> rates = torch.tensor([0.5, 1.0]), torch.tensor([1, 4]), torch.tensor([4, 4])
        >>> pass_rate_calibration(*rates)["mae"], pass_rate_calibration(*rates, weights=torch.tensor([3, 1]))["mae"]
        (tensor(0.1250, dtype=torch.float64), tensor(0.1875, dtype=torch.float64))
    """
    _check(predicted, correct=correct, count=count, weights=weights)
    if not ((count >= 1) & (correct >= 0) & (correct <= count)).all():
        raise ValueError(
            "expected count >= 1 and correct in [0, count] for each problem: leave out those without rollouts"
        )
    problems = len(predicted)
    weights, (predicted, correct, count) = _kept(weights, predicted.double(), correct.double(), count.double())
    actual = correct / count
    pairs = torch.cat([predicted, predicted])
    outcomes = torch.cat([torch.ones_like(predicted), torch.zeros_like(predicted)])
    w = 1 if weights is None else weights
    rollouts = torch.cat([w * correct, w * (count - correct)])
    return {
        "mae": _mean((predicted - actual).abs(), weights),
        "bias": _mean(predicted - actual, weights),
        "pearson": pearson(predicted, actual, weights),
        "spearman": spearman(predicted, actual, weights),
        "brier": brier_score(pairs, outcomes, rollouts),
        "ece": expected_calibration_error(pairs, outcomes, n_bins, rollouts),
        "auroc": auroc(pairs, outcomes, rollouts),
        **_spread(predicted, actual, weights),
        "count": predicted.new_tensor(problems),
    }


def length_calibration(
    predicted: Tensor, actual: Tensor, low: Tensor, high: Tensor, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """All metrics of predicted against actual lengths of problems.

    Problems whose `actual` is NaN are left out of everything; those whose `low` or `high` is NaN (no correct rollout,
    so no range) are left out of ``in_range`` alone.

    The median is the midpoint of the least value with at least half of the weight up to it and the least one with more
    than half: for integer weights that of the repeated values, also in exact ties. For others the rounding of sums may
    decide what is exactly half.

    Args:
        predicted: Predicted solution length of each problem, in tokens, [P].
        actual: Mean length of its (correct) solution rollouts, in tokens, > 0, or NaN, [P].
        low: Least length of its correct solution rollouts, in tokens, or NaN, [P].
        high: Greatest, [P].
        weights: How many problems each stands for, >= 0, [P]; default 1.

    Returns:
        ``abs_rel_error`` and ``abs_rel_error_median`` (mean and median of |predicted - actual| / actual), ``bias``
        (mean of (predicted - actual) / actual), ``pearson``, ``spearman``, ``in_range`` (share with low <= predicted
        <= high), ``predicted_mean``, ``predicted_std``, ``actual_mean``, ``actual_std`` (tokens; population standard
        deviations over problems) and ``count`` (problems with a length, whatever their weights).

    Raises:
        ValueError: If shapes differ, an actual length is not positive or a weight is negative or not finite.

    Example:
        >>> low, high = torch.tensor([90.0, torch.nan]), torch.tensor([110.0, torch.nan])
        >>> metrics = length_calibration(torch.tensor([110.0, 150.0]), torch.tensor([100.0, 200.0]), low, high)
        >>> [round(metrics[name].item(), 3) for name in ("abs_rel_error", "bias", "in_range")]
        [0.175, -0.075, 1.0]
    """
    _check(predicted, actual=actual, low=low, high=high, weights=weights)
    known = ~actual.isnan()
    predicted, actual, low, high = (x.double()[known] for x in (predicted, actual, low, high))
    if not (actual > 0).all():
        raise ValueError("actual has values <= 0; expected lengths in tokens, or NaN where there is none")
    problems = len(predicted)
    weights, (predicted, actual, low, high) = _kept(
        None if weights is None else weights[known], predicted, actual, low, high
    )
    relative = (predicted - actual) / actual
    ranged = ~(low.isnan() | high.isnan())
    inside = ((low <= predicted) & (predicted <= high))[ranged]
    return {
        "abs_rel_error": _mean(relative.abs(), weights),
        "abs_rel_error_median": _median(relative.abs(), weights),
        "bias": _mean(relative, weights),
        "pearson": pearson(predicted, actual, weights),
        "spearman": spearman(predicted, actual, weights),
        "in_range": _mean(inside.double(), None if weights is None else weights[ranged]),
        **_spread(predicted, actual, weights),
        "count": predicted.new_tensor(problems),
    }


def value_calibration(predicted: Tensor, actual: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
    """All metrics of predicted against actual numbers of problems, of any size and sign.

    Args:
        predicted: Predicted number of each problem, [P].
        actual: What it was, or NaN, which leaves the problem out, [P].
        weights: How many problems each stands for, >= 0, [P]; default 1.

    Returns:
        ``mae`` (mean of |predicted - actual|), ``bias`` (mean of predicted - actual), ``pearson``, ``spearman``,
        ``predicted_mean``, ``predicted_std``, ``actual_mean``, ``actual_std`` (population standard deviations over
        problems) and ``count`` (problems that are not left out, whatever their weights).

    Raises:
        ValueError: If shapes differ or a weight is negative or not finite.

    Example:
        >>> metrics = value_calibration(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0]))
        >>> metrics["mae"].item(), metrics["bias"].item()
        (1.0, 0.0)
    """
    _check(predicted, actual=actual, weights=weights)
    known = ~actual.isnan()
    predicted, actual = predicted.double()[known], actual.double()[known]
    problems = len(predicted)
    weights, (predicted, actual) = _kept(None if weights is None else weights[known], predicted, actual)
    return {
        "mae": _mean((predicted - actual).abs(), weights),
        "bias": _mean(predicted - actual, weights),
        "pearson": pearson(predicted, actual, weights),
        "spearman": spearman(predicted, actual, weights),
        **_spread(predicted, actual, weights),
        "count": predicted.new_tensor(problems),
    }


def rate_interval(rates: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean rate over problems, which are a sample of what might have been asked.

    Wilson's, of P single verdicts (`functional.intervals.share_interval`).

    Rates of several rollouts spread less than single verdicts do, so that it is rather too wide than too narrow. Intervals
    from the spread of the rates, by bootstrap or otherwise, are too narrow where few problems are ever solved: that of
    nothing solved would be empty.

    Args:
        rates: One a problem, in [0, 1], [P].
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound in [0, 1]; both NaN without rates.

    Raises:
        ValueError: If `level` or a rate is out of range or `rates` is not one-dimensional.

    Example:
        >>> low, high = rate_interval(torch.tensor([0.0, 0.0, 1.0, 1.0]))
        >>> round(low, 3), round(high, 3), round(rate_interval(torch.zeros(30))[1], 3)
        (0.15, 0.85, 0.114)
    """
    _check(rates)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a value in (0, 1), such as 0.95")
    if not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError("rates has values outside of [0, 1]")
    if len(rates) == 0:
        return math.nan, math.nan
    return share_interval(rates.double().mean().item(), len(rates), level)


def _kept(weights: Tensor | None, *columns: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Weights in float64 and columns, without the entries of weight 0."""
    if weights is None:
        return None, columns
    kept = weights > 0
    return weights[kept].double(), tuple(column[kept] for column in columns)


def _mean(x: Tensor, weights: Tensor | None) -> Tensor:
    return x.mean() if weights is None else (weights * x).sum() / weights.sum()


def _ranks(x: Tensor, weights: Tensor | None) -> Tensor:
    """Ranks from 1, ties sharing their average."""
    values, index = torch.unique(x, return_inverse=True)
    w = torch.ones_like(x, dtype=torch.float64) if weights is None else weights
    ties = torch.zeros_like(values, dtype=torch.float64).scatter_add(0, index, w)
    ranks: Tensor = (ties.cumsum(0) - (ties - 1) / 2)[index]
    return ranks


def _median(x: Tensor, weights: Tensor | None) -> Tensor:
    """Median of values whose weights are positive; see `length_calibration`."""
    if len(x) == 0 or x.isnan().any():
        return x.new_tensor(torch.nan)
    if weights is None:
        return x.quantile(0.5)
    x, order = x.sort()
    total = weights[order].cumsum(0)
    half = total[-1] / 2
    return x[torch.searchsorted(total, half)].lerp(x[torch.searchsorted(total, half, right=True)], 0.5)


def _spread(predicted: Tensor, actual: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    means = {"predicted": _mean(predicted, weights), "actual": _mean(actual, weights)}
    return {
        "predicted_mean": means["predicted"],
        "predicted_std": _mean((predicted - means["predicted"]).square(), weights).sqrt(),
        "actual_mean": means["actual"],
        "actual_std": _mean((actual - means["actual"]).square(), weights).sqrt(),
    }


def _check(x: Tensor, *, weights: Tensor | None = None, **others: Tensor | None) -> None:
    if x.ndim != 1:
        raise ValueError(f"the first tensor has shape {tuple(x.shape)}; expected one dimension, [P]")
    for name, other in {**others, "weights": weights}.items():
        if other is not None and other.shape != x.shape:
            raise ValueError(f"{name} has shape {tuple(other.shape)}; expected that of the first, {tuple(x.shape)}")
    if weights is not None:
        wrong = weights[~((weights >= 0) & weights.isfinite())]
        if len(wrong):
            raise ValueError(f"weights has {wrong[0].item()}; expected finite values >= 0")
