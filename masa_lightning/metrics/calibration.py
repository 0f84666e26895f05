"""Calibration of meta predictions, accumulated over batches and processes.

One entry of an update is one meta rollout's parsed prediction; a problem is the unit of every metric. The prediction of
a problem is the mean of its parsed predictions, so a problem with many parsed meta rollouts weighs no more than one
with few. A problem may stand for several, as one audited at a share of 5% does for 20: its `weight` says for how many.
All entries of a problem have to be in the same update, as all rollouts of a group are on the same process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from masa_lightning.checks import check_number
from masa_lightning.functional.calibration import length_calibration, pass_rate_calibration, value_calibration
from masa_lightning.metrics.series import DrawnMetric
from masa_lightning.types import RolloutGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(slots=True, kw_only=True, frozen=True)
class PassRatePoints:
    """What `PassRateCalibration` knows, one entry a problem, on the CPU."""

    predicted: Tensor  # [P] mean predicted pass rate in [0, 1]
    correct: Tensor  # [P] correct solution rollouts
    count: Tensor  # [P] solution rollouts, >= 1

    @property
    def actual(self) -> Tensor:
        """Share of correct solution rollouts in [0, 1], [P]."""
        return self.correct / self.count


@dataclass(slots=True, kw_only=True, frozen=True)
class LengthPoints:
    """What `LengthCalibration` knows, one entry a problem, on the CPU."""

    predicted: Tensor  # [P] mean predicted length in tokens
    actual: Tensor  # [P] mean actual length in tokens, > 0
    low: Tensor  # [P] least length of a correct solution rollout in tokens; NaN without one
    high: Tensor  # [P] greatest


@dataclass(slots=True, kw_only=True, frozen=True)
class ValuePoints:
    """What `ValueCalibration` knows, one entry a problem, on the CPU."""

    predicted: Tensor  # [P] mean predicted number
    actual: Tensor  # [P] what it was


class _PredictionMetric(DrawnMetric):
    """Rows of a mean prediction, the standard deviation within the problem, the actual ones and the weight."""

    def _add(self, predicted: Tensor, problem: Tensor | None, weight: Tensor | None, **actual: Tensor) -> None:
        actual["weight"] = torch.ones_like(predicted) if weight is None else weight
        for name, column in {"problem": problem, **actual}.items():
            if column is not None and column.shape != predicted.shape:
                raise ValueError(
                    f"{name} has shape {tuple(column.shape)}; expected {tuple(predicted.shape)} as predicted"
                )
        if predicted.ndim != 1:
            raise ValueError(f"predicted has shape {tuple(predicted.shape)}; expected one dimension, [P]")
        wrong = actual["weight"][~((actual["weight"] >= 0) & actual["weight"].isfinite())]
        if len(wrong):
            raise ValueError(f"weight has {wrong[0].item()}; expected finite values >= 0")
        known = ~predicted.isnan()
        values = predicted.detach()[known].double()
        if problem is None:
            index = torch.arange(len(values), device=values.device)
        else:
            index = torch.unique(problem[known], return_inverse=True)[1]
        entries = torch.bincount(index)
        mean = torch.zeros_like(entries, dtype=torch.float64).scatter_add(0, index, values) / entries
        square = torch.zeros_like(mean).scatter_add(0, index, (values - mean[index]).square()) / entries
        within = torch.where(entries > 1, square.sqrt(), torch.nan)
        others = []
        for name, column in actual.items():
            column = column.detach()[known].double()
            first = torch.empty_like(mean).scatter(0, index, column)
            same = (column == first[index]) | (column.isnan() & first[index].isnan())
            if not same.all():
                raise ValueError(f"{name} differs between entries of one problem; expected one value a problem")
            others.append(first)
        self.add_rows(torch.stack([mean, within, *others], dim=1))

    def _with_spread(self, metrics: dict[str, Tensor], within: Tensor, weight: Tensor) -> dict[str, Tensor]:
        several = ~within.isnan()
        within, weight = within[several], weight[several]
        metrics = {**metrics, "within_std": (weight * within).sum() / weight.sum()}
        return {name: value.to(self.device, torch.float32) for name, value in metrics.items()}


class PassRateCalibration(_PredictionMetric):
    r"""Predicted against actual pass rates over problems.

    With :math:`\hat p_q` the mean of the parsed predictions of problem q, and c of its n solution rollouts correct,

    .. math::

        \text{mae} = \operatorname{mean}_q |\hat p_q - c_q / n_q|, \qquad
        \text{bias} = \operatorname{mean}_q (\hat p_q - c_q / n_q), \qquad
        \text{brier} = \frac{\sum_q c_q (1 - \hat p_q)^2 + (n_q - c_q) \hat p_q^2}{\sum_q n_q}

    `compute` returns float32 scalars: all of `functional.calibration.pass_rate_calibration`, and ``within_std``: the
    mean over problems with at least two predictions of the population standard deviation of a problem's predictions.
    Without entries all are NaN and ``count`` is 0. With weights, all but ``count`` are of each problem repeated
    `weight` times.

    Args:
        n_bins: Bins of the expected calibration error.
        kwargs: Those of every `torchmetrics.Metric`.

    Raises:
        ValueError: If `n_bins` is less than 1.

    Example:
        >>> metric = PassRateCalibration()
        >>> predicted = torch.tensor([0.25, 0.75, 1.0])
        >>> problem, correct, count = torch.tensor([0, 0, 1]), torch.tensor([2, 2, 3]), torch.tensor([4, 4, 4])
        >>> metric.update(predicted, correct, count, problem)
        >>> metrics = metric.compute()
        >>> metrics["mae"], metrics["within_std"], metrics["count"]
        (tensor(0.1250), tensor(0.2500), tensor(2.))
    """

    columns = 5

    def __init__(self, n_bins: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("n_bins", n_bins, ">= 1", whole=True)
        self.n_bins = n_bins

    def update(
        self,
        predicted: Tensor,
        correct: Tensor,
        count: Tensor,
        problem: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Adds predictions.

        Args:
            predicted: Predicted pass rate of each meta rollout, in [0, 1]; NaN (unparsed) is left out. [P].
            correct: Correct solution rollouts of its problem, in [0, count], [P].
            count: Solution rollouts of its problem, [P]. Entries with 0 (a gated problem) are left out.
            problem: Integer id of its problem, unique within this update, [P]; default each entry its own.
            weight: How many problems its problem stands for, >= 0 and finite, [P]; default 1.

        Raises:
            ValueError: If shapes differ, a value is out of range or entries of a problem contradict each other.
        """
        if (predicted < 0).any() or (predicted > 1).any():
            raise ValueError("predicted has values outside of [0, 1]; expected rates: divide by the scale first")
        if predicted.shape == correct.shape == count.shape and ((correct < 0) | (correct > count)).any():
            raise ValueError("correct has values outside of [0, count]")
        if predicted.shape == count.shape:
            predicted = torch.where(count > 0, predicted, torch.nan)
        self._add(predicted, problem, weight, correct=correct, count=count)

    def compute(self) -> dict[str, Tensor]:
        """Metrics over all problems of all processes."""
        predicted, within, correct, count, weight = self.rows().unbind(1)
        return self._with_spread(pass_rate_calibration(predicted, correct, count, self.n_bins, weight), within, weight)

    def draw(self, axes: Axes) -> None:
        """Draws the reliability diagram of all that was added; every process has to call it.

        Example:
            >>> metric = PassRateCalibration()
            >>> metric.update(torch.tensor([0.2, 0.9]), torch.tensor([1, 4]), torch.tensor([4, 4]))
            >>> figure, axes = metric.plot()
            >>> axes.get_title(loc="left")
            'Reliability: ECE = 0.08, n = 2 problems'
        """
        from masa_lightning.metrics.figures import draw_reliability

        points = self.points()
        draw_reliability(axes, points.predicted, points.correct, points.count, self.n_bins)

    def points(self) -> PassRatePoints:
        """One entry a problem, of all processes; every process has to call it."""
        predicted, _, correct, count, _ = self.synced_rows().unbind(1)
        return PassRatePoints(predicted=predicted, correct=correct, count=count)


class LengthCalibration(_PredictionMetric):
    r"""Predicted against actual solution lengths over problems.

    With :math:`\hat l_q` the mean of the parsed predictions of problem q and :math:`l_q` its actual mean length,

    .. math::

        \text{abs\_rel\_error} = \operatorname{mean}_q \frac{|\hat l_q - l_q|}{l_q}, \qquad
        \text{in\_range} = \operatorname{mean}_q [\text{low}_q \le \hat l_q \le \text{high}_q]

    `compute` returns float32 scalars: all of `functional.calibration.length_calibration`, and ``within_std`` in tokens:
    the mean over problems with at least two predictions of the population standard deviation of a problem's
    predictions. Without entries all are NaN and ``count`` is 0. With weights, all but ``count`` are of each
    problem repeated `weight` times.

    Example:
        >>> metric = LengthCalibration()
        >>> low, high = torch.tensor([80.0, 80.0, torch.nan]), torch.tensor([120.0, 120.0, torch.nan])
        >>> predicted, actual = torch.tensor([90, 130, 300]), torch.tensor([100, 100, 200])
        >>> metric.update(predicted, actual, low, high, problem=torch.tensor([0, 0, 1]))
        >>> metrics = metric.compute()
        >>> metrics["abs_rel_error"], metrics["in_range"], metrics["within_std"]
        (tensor(0.3000), tensor(1.), tensor(20.))
    """

    columns = 6

    def update(
        self,
        predicted: Tensor,
        actual: Tensor,
        low: Tensor,
        high: Tensor,
        problem: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        """Adds predictions.

        Args:
            predicted: Predicted solution length of each meta rollout, in tokens; NaN (unparsed) is left out. [P].
            actual: Mean length of the (correct) solution rollouts of its problem, in tokens, > 0, [P]. Entries with NaN
                (nothing to compare with) are left out.
            low: Least length of its correct solution rollouts, in tokens; NaN if none is correct. [P].
            high: Greatest, [P].
            problem: Integer id of its problem, unique within this update, [P]; default each entry its own.
            weight: How many problems its problem stands for, >= 0 and finite, [P]; default 1.

        Raises:
            ValueError: If shapes differ, an actual length is not positive, a weight is negative or not finite or
                entries of a problem differ in one.
        """
        if (actual <= 0).any():
            raise ValueError("actual has values <= 0; expected lengths in tokens, or NaN where there is none")
        self._add(_where_known(predicted, actual), problem, weight, actual=actual, low=low, high=high)

    def compute(self) -> dict[str, Tensor]:
        """Metrics over all problems of all processes."""
        predicted, within, actual, low, high, weight = self.rows().unbind(1)
        return self._with_spread(length_calibration(predicted, actual, low, high, weight), within, weight)

    def draw(self, axes: Axes) -> None:
        """Draws predicted against actual lengths of all that was added; every process has to call it.

        Example:
            >>> metric, low, high = LengthCalibration(), torch.tensor([80.0, 40.0]), torch.tensor([120.0, 60.0])
            >>> metric.update(torch.tensor([90, 60]), torch.tensor([100, 50]), low, high)
            >>> figure, axes = metric.plot()
            >>> axes.get_title(loc="left")
            'Solution length: r = 1.00, n = 2 problems'
        """
        from masa_lightning.metrics.figures import draw_lengths

        points = self.points()
        draw_lengths(axes, points.predicted, points.actual, points.low, points.high)

    def points(self) -> LengthPoints:
        """One entry a problem, of all processes; every process has to call it."""
        predicted, _, actual, low, high, _ = self.synced_rows().unbind(1)
        return LengthPoints(predicted=predicted, actual=actual, low=low, high=high)


class ValueCalibration(_PredictionMetric):
    r"""Predicted against actual numbers over problems, of any size and sign; for quantities of your own.

    With :math:`\hat v_q` the mean of the parsed predictions of problem q and :math:`v_q` what it was,

    .. math::

        \text{mae} = \operatorname{mean}_q |\hat v_q - v_q|, \qquad
        \text{bias} = \operatorname{mean}_q (\hat v_q - v_q)

    `compute` returns float32 scalars: all of `functional.calibration.value_calibration`, and ``within_std``: the mean over
    problems with at least two predictions of the population standard deviation of a problem's predictions. Without entries
    all are NaN and ``count`` is 0. With weights, all but ``count`` are of each problem repeated `weight` times.

    Example:
        >>> metric = ValueCalibration()
        >>> metric.update(torch.tensor([1, 3, -2]), torch.tensor([0, 0, -1]), problem=torch.tensor([0, 0, 1]))
        >>> metrics = metric.compute()
        >>> metrics["mae"], metrics["bias"], metrics["within_std"]
        (tensor(1.5000), tensor(0.5000), tensor(1.))
    """

    columns = 4

    def update(
        self, predicted: Tensor, actual: Tensor, problem: Tensor | None = None, weight: Tensor | None = None
    ) -> None:
        """Adds predictions.

        Args:
            predicted: Predicted number of each meta rollout; NaN (unparsed) is left out. [P].
            actual: What it was, of its problem, [P]. Entries with NaN (nothing to compare with) are left out.
            problem: Integer id of its problem, unique within this update, [P]; default each entry its own.
            weight: How many problems its problem stands for, >= 0 and finite, [P]; default 1.

        Raises:
            ValueError: If shapes differ, a weight is negative or not finite or entries of a problem differ in one.
        """
        self._add(_where_known(predicted, actual), problem, weight, actual=actual)

    def compute(self) -> dict[str, Tensor]:
        """Metrics over all problems of all processes."""
        predicted, within, actual, weight = self.rows().unbind(1)
        return self._with_spread(value_calibration(predicted, actual, weight), within, weight)

    def draw(self, axes: Axes) -> None:
        """Draws predicted against actual numbers of all that was added; every process has to call it."""
        from masa_lightning.metrics.figures import draw_lengths

        points = self.points()
        draw_lengths(axes, points.predicted, points.actual, None, None, title="Value", name="value", unit="")

    def points(self) -> ValuePoints:
        """One entry a problem, of all processes; every process has to call it."""
        predicted, _, actual, _ = self.synced_rows().unbind(1)
        return ValuePoints(predicted=predicted, actual=actual)


def _where_known(predicted: Tensor, actual: Tensor) -> Tensor:
    """NaN where there is nothing to compare with; other shapes are refused later."""
    predicted = predicted.double()
    return torch.where(actual.isnan(), torch.nan, predicted) if predicted.shape == actual.shape else predicted


class Calibration(nn.ModuleDict):
    """The metrics of several predicted quantities, by name, filled and computed together.

    Args:
        metrics: By name of the quantity.
        fill: Adds groups to them.
    """

    def __init__(
        self, metrics: Mapping[str, Metric], fill: Callable[[Mapping[str, Any], Sequence[RolloutGroup]], None]
    ) -> None:
        super().__init__({**metrics})
        self.fill = fill

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds what the meta rollouts of groups predicted, and what happened."""
        self.fill(dict(self.items()), groups)

    def compute(self) -> dict[str, Tensor]:
        """Metrics of all as ``<quantity>/<metric>``."""
        return {
            f"{name}/{key}": value for name, m in self.items() for key, value in cast("Metric", m).compute().items()
        }

    def reset(self) -> None:
        """Forgets all."""
        for metric in self.values():
            cast("Metric", metric).reset()
