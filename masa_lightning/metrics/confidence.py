"""Calibration of the confidence that solutions state, by the metrics and names of that of predicted pass rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from masa_lightning.checks import check_number
from masa_lightning.functional.calibration import (
    auroc,
    brier_score,
    expected_calibration_error,
    pass_rate_calibration,
)
from masa_lightning.metrics.series import DrawnMetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATED: Final = "Stated confidence"
STATED_MEAN: Final = "Stated confidence (mean of solutions)"


@dataclass(slots=True, kw_only=True, frozen=True)
class ConfidencePoints:
    """What `ConfidenceCalibration` knows of P problems and S solutions, on the CPU."""

    predicted: Tensor  # [P] mean stated confidence in [0, 1]
    correct: Tensor  # [P] correct ones of the solutions that state a confidence
    count: Tensor  # [P] solutions that state one, >= 1
    confidence: Tensor  # [S] in [0, 1]
    verdict: Tensor  # [S] 1 where the solution is correct, else 0
    problem: Tensor  # [S] index into the problems

    @property
    def actual(self) -> Tensor:
        """Share of correct ones in [0, 1], [P]."""
        return self.correct / self.count


class ConfidenceCalibration(DrawnMetric):
    r"""Stated confidence against correctness, over solutions and over problems.

    With :math:`q_i` the confidence of solution i of S, :math:`y_i` its correctness, and :math:`\bar q`, :math:`\bar y` their
    means over the solutions of a problem,

    .. math::

        \text{brier} = \frac1S \sum_i (q_i - y_i)^2, \qquad
        \text{mae} = \operatorname{mean}_\text{problems} |\bar q - \bar y|, \qquad
        \text{bias} = \operatorname{mean}_\text{problems} (\bar q - \bar y)

    `compute` returns the names of `PassRateCalibration`, float32 scalars: ``brier``, ``ece`` and ``auroc`` are of solutions,
    each with its own confidence, the others of problems. Without entries all are NaN and ``count`` is 0.

    Args:
        n_bins: Bins of the expected calibration error.
        kwargs: Those of every `torchmetrics.Metric`.

    Raises:
        ValueError: If `n_bins` is less than 1.

    Example:
        >>> metric = ConfidenceCalibration()
        >>> metric.update(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([0, 1, 0]), problem=torch.tensor([0, 0, 1]))
        >>> metrics = metric.compute()
        >>> metrics["brier"], metrics["mae"], metrics["auroc"], metrics["count"]
        (tensor(0.0833), tensor(0.1250), tensor(1.), tensor(2.))
    """

    columns = 4  # whether a problem begins, confidence, correctness, weight

    def __init__(self, n_bins: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("n_bins", n_bins, ">= 1", whole=True)
        self.n_bins = n_bins

    def update(
        self, confidence: Tensor, correct: Tensor, problem: Tensor | None = None, weight: Tensor | None = None
    ) -> None:
        """Adds solutions.

        Args:
            confidence: In [0, 1]; NaN (none is stated) is left out. [S].
            correct: 1 or True where the solution is correct, else 0, [S].
            problem: Integer id of its problem, unique within this update, [S]; default each solution its own.
            weight: How many problems its problem stands for, >= 0 and finite, [S]; default 1.

        Raises:
            ValueError: If shapes differ, a value is out of range, or solutions of a problem differ in weight.
        """
        weight = torch.ones_like(confidence) if weight is None else weight
        problem = torch.arange(len(confidence), device=confidence.device) if problem is None else problem
        for name, column in {"correct": correct, "problem": problem, "weight": weight}.items():
            if confidence.ndim != 1 or column.shape != confidence.shape:
                raise ValueError(
                    f"confidence has shape {tuple(confidence.shape)} and {name} {tuple(column.shape)}; expected one "
                    "dimension, [S], of both"
                )
        if (confidence < 0).any() or (confidence > 1).any():
            raise ValueError("confidence has values outside of [0, 1]")
        if not ((correct == 0) | (correct == 1)).all():
            raise ValueError("correct has other values than 0 and 1")
        wrong = weight[~((weight >= 0) & weight.isfinite())]
        if len(wrong):
            raise ValueError(f"weight has {wrong[0].item()}; expected finite values >= 0")
        stated = ~confidence.isnan()
        index, order = torch.sort(problem[stated], stable=True)
        begins = torch.ones_like(index, dtype=torch.bool)
        begins[1:] = index[1:] != index[:-1]
        columns = [c.detach()[stated][order].double() for c in (confidence, correct, weight)]
        if (columns[2][1:] != columns[2][:-1])[~begins[1:]].any():
            raise ValueError("weight differs between solutions of one problem; expected one value a problem")
        self.add_rows(torch.stack([begins.double(), *columns], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Metrics over all solutions of all processes."""
        rows = self.rows()
        points, weight = _points(rows), rows[:, 3]
        by_problem = weight[rows[:, 0] == 1]
        metrics = pass_rate_calibration(points.predicted, points.correct, points.count, self.n_bins, by_problem)
        pairs = points.confidence, points.verdict
        metrics |= {
            "brier": brier_score(*pairs, weight),
            "ece": expected_calibration_error(*pairs, self.n_bins, weight),
            "auroc": auroc(*pairs, weight),
        }
        error = (points.confidence - points.predicted[points.problem]).square()
        square = torch.zeros_like(points.predicted).scatter_add(0, points.problem, error)
        several = points.count > 1
        within = by_problem[several] * (square / points.count).sqrt()[several]
        metrics["within_std"] = within.sum() / by_problem[several].sum()
        return {name: value.to(self.device, torch.float32) for name, value in metrics.items()}

    def draw(self, axes: Axes) -> None:
        """Draws the reliability diagram of all that was added; every process has to call it.

        Example:
            >>> metric = ConfidenceCalibration()
            >>> metric.update(torch.tensor([0.2, 0.9]), torch.tensor([0, 1]))
            >>> figure, axes = metric.plot()
            >>> axes.get_title(loc="left")
            'Reliability: ECE = 0.15, n = 2 solutions of 2 problems'
        """
        from masa_lightning.metrics.figures import draw_reliability

        points = self.points()
        draw_reliability(
            axes, points.confidence, points.verdict, n_bins=self.n_bins, name=STATED, problem=points.problem
        )

    def points(self) -> ConfidencePoints:
        """Solutions and problems of all processes; every process has to call it."""
        return _points(self.synced_rows())


def _points(rows: Tensor) -> ConfidencePoints:
    begins, confidence, verdict, _ = rows.unbind(1)
    problem = begins.long().cumsum(0) - 1  # rows of a problem follow one another
    count = torch.bincount(problem)
    zeros = torch.zeros_like(count, dtype=torch.float64)
    return ConfidencePoints(
        predicted=zeros.scatter_add(0, problem, confidence) / count,
        correct=zeros.scatter_add(0, problem, verdict),
        count=count.double(),
        confidence=confidence,
        verdict=verdict,
        problem=problem,
    )
