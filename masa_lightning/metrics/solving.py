"""How often problems are solved: pass@1 with its interval, pass@k, and votes.

A problem is the unit of every metric, however many solutions were drawn of it. States are one or two numbers a problem, so
they can be filled batch by batch in an evaluation of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masa_lightning.checks import check_number
from masa_lightning.functional.calibration import pass_at_k, rate_interval
from masa_lightning.functional.voting import count_votes, majority_vote, predicted_vote
from masa_lightning.metrics.series import DrawnMetric, RowMetric
from masa_lightning.types import RolloutGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAN = float("nan")


class PassAtK(DrawnMetric):
    r"""Chance that a solution is right, with its interval, and that one of k is.

    Of P problems, the q-th with :math:`c_q` right ones of its :math:`n_q` solutions,

    .. math::

        \text{pass@}1 = \frac{1}{P} \sum_q \frac{c_q}{n_q}, \qquad
        \text{pass@}k = \frac{1}{P} \sum_q \left( 1 - \binom{n_q - c_q}{k} \Big/ \binom{n_q}{k} \right)

    The estimate of pass@k is unbiased (Chen et al. 2021, arXiv 2107.03374). `compute` returns float64 scalars: ``pass@1``,
    the bounds of its 95% interval over problems ``pass@1_low`` and ``pass@1_high`` (Wilson's,
    `functional.calibration.rate_interval`), and ``pass@<k>`` for each k. All are NaN without problems.

    Args:
        k: Values besides 1, each >= 1.
        kwargs: Those of every `torchmetrics.Metric`.

    Raises:
        ValueError: If a k is no whole number >= 1.

    Example:
        >>> metric = PassAtK(k=(2,))
        >>> metric.update(correct=torch.tensor([4, 2]), count=torch.tensor([4, 4]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'pass@1': 0.75, 'pass@1_low': 0.198, 'pass@1_high': 0.973, 'pass@2': 0.917}
    """

    higher_is_better = True
    columns = 2

    def __init__(self, k: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for each in k:
            check_number("a value of k", each, ">= 1", whole=True)
        self.k = tuple(k)

    def update(self, correct: Tensor, count: Tensor) -> None:
        """Adds problems.

        Args:
            correct: Right solutions of each, in [0, count], [P].
            count: Solutions of each, [P]. Problems with 0 are left out; others have at least the greatest k.

        Raises:
            ValueError: If shapes differ or a number is out of range.
        """
        if correct.ndim != 1 or correct.shape != count.shape:
            raise ValueError(
                f"correct has shape {tuple(correct.shape)} and count {tuple(count.shape)}; expected one dimension, [P], of "
                "both"
            )
        if not ((correct >= 0) & (correct <= count)).all():
            raise ValueError("correct has values outside of [0, count]")
        correct, count = correct[count > 0], count[count > 0]
        few = count[count < max(self.k, default=1)]
        if len(few):
            raise ValueError(f"a problem has {few[0].item()} solutions; expected at least k = {max(self.k)}")
        self.add_rows(torch.stack([correct, count], dim=1))

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds groups with graded solutions, whatever controls did to them; those without solutions are left out."""
        self.update(
            torch.tensor([sum(g.correct) for g in groups], dtype=torch.int64),
            torch.tensor([len(g.solutions) for g in groups], dtype=torch.int64),
        )

    def compute(self) -> dict[str, Tensor]:
        """Metrics over all problems of all processes."""
        correct, count = self.rows().unbind(1)
        rates = (correct / count).float()
        low, high = rate_interval(rates)
        metrics = {"pass@1": rates.mean().item(), "pass@1_low": low, "pass@1_high": high}
        metrics |= {f"pass@{k}": _pass_at(k, correct, count) for k in self.k}
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in metrics.items()}

    def draw(self, axes: Axes) -> None:
        """Draws pass@k against k, up to the solutions that every problem has; every process has to call it.

        Example:
            >>> metric = PassAtK()
            >>> metric.update(correct=torch.tensor([4, 2]), count=torch.tensor([4, 4]))
            >>> figure, axes = metric.plot()
            >>> axes.get_title(loc="left")
            'pass@1 = 0.75, pass@4 = 1.00, n = 2 problems'
        """
        from masa_lightning.metrics.figures import draw_pass_at_k

        correct, count = self.synced_rows().unbind(1)
        most = int(count.min()) if len(count) else 0
        interval = rate_interval((correct / count).float())
        draw_pass_at_k(axes, [_pass_at(k, correct, count) for k in range(1, most + 1)], interval, len(count))


class _Vote(RowMetric):
    """One number a problem: the share that is right of the answers that win."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """Mean over all problems of all processes, a float64 scalar."""
        won = self.rows().flatten().tolist()
        return torch.tensor(fmean(won) if won else NAN, dtype=torch.float64, device=self.device)

    def plot(self, val: Any = None, ax: Axes | None = None) -> tuple[Any, Any]:
        """Draws the value, or several values of `compute` or `forward`, as torchmetrics does.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)

    def _add(self, won: Sequence[float]) -> None:
        self.add_rows(torch.tensor(won, dtype=torch.float64).unsqueeze(1))


class MajorityVote(_Vote):
    r"""Share of problems whose most frequent answer is right (maj@n, also called self-consistency; arXiv 2203.11171).

    With :math:`v_q(a)` the solutions of problem q that answer a, and :math:`A_q` the answers with the most of them,

    .. math:: \text{maj@}n = \frac{1}{P} \sum_q \frac{|\{a \in A_q : a \text{ is right}\}|}{|A_q|}

    so that a tie counts as when one of its answers is drawn, and a problem without any vote is not solved.

    Example:
        >>> metric = MajorityVote()
        >>> answer = torch.tensor([[7, 7, 8, -1], [5, 6, 5, 6]])
        >>> metric.update(answer, correct=answer == torch.tensor([[7], [6]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    def update(self, answer: Tensor, correct: Tensor) -> None:
        """Adds problems.

        Args:
            answer: Which answer each solution gives, by a whole number >= 0 of yours; negative is no vote. [P, N].
            correct: Whether it is right; all right answers of a problem are one. [P, N] bool.

        Raises:
            ValueError: If shapes differ.
        """
        self._add([majority_vote(*votes) for votes in _votes(answer, correct)])

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds groups with graded solutions, but of programs and of numbers within a tolerance, which have no vote."""
        self._add([majority_vote(boxes, g.correct) for g, boxes in _counted(groups)])


class PredictedVote(_Vote):
    r"""Share of problems that are right by a vote that is weighted with the model's predicted pass rates.

    The votes :math:`v_q(a)` of n weigh what M predictions :math:`\hat p_{qj}` would earn, were that answer the right one:

    .. math:: s_q(a) = \frac{v_q(a)}{M} \sum_j b^{|\hat p_{qj} - v_q(a) / n|}, \qquad b = 0.01

    (`functional.voting.predicted_vote`); the answers with the greatest :math:`s_q` win, as in `MajorityVote`.

    Example:
        >>> metric = PredictedVote()
        >>> answer = torch.tensor([[7, 7, 7, 9]])
        >>> metric.update(answer, correct=answer == 9, rate=torch.tensor([[0.25, 0.25]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    def update(self, answer: Tensor, correct: Tensor, rate: Tensor) -> None:
        """Adds problems.

        Args:
            answer: As `MajorityVote.update`, [P, N].
            correct: The same, [P, N].
            rate: Predicted pass rates, in [0, 1]; NaN (unparsed) is left out, and without any the majority wins. [P, M].

        Raises:
            ValueError: If shapes differ or a rate is out of range.
        """
        if rate.ndim != 2 or len(rate) != len(answer):
            raise ValueError(f"rate has shape {tuple(rate.shape)}; expected two dimensions, [{len(answer)}, M]")
        if (rate < 0).any() or (rate > 1).any():
            raise ValueError("rate has values outside of [0, 1]; expected rates: divide by the scale first")
        rates = [[value for value in row if value == value] for row in rate.tolist()]
        self._add([predicted_vote(*votes, row) for votes, row in zip(_votes(answer, correct), rates, strict=True)])

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """As `MajorityVote.add_groups`, with the parsed predictions of the groups."""
        self._add([predicted_vote(boxes, g.correct, _rates(g)) for g, boxes in _counted(groups)])


def _counted(groups: Sequence[RolloutGroup]) -> list[tuple[RolloutGroup, list[str | None]]]:
    """Groups whose solutions can agree on an answer, with what each votes for."""
    counted = ((g, count_votes(g) if g.votes is None else g.votes) for g in groups)
    return [(g, _as_texts(votes)) for g, votes in counted if votes is not None]


def _rates(group: RolloutGroup) -> list[float]:
    return [r.prediction.rate for r in group.metas if r.prediction and r.prediction.rate is not None]


def _votes(answer: Tensor, correct: Tensor) -> list[tuple[list[str | None], list[bool]]]:
    """Answers of each problem, as a text would write their numbers, and verdicts."""
    if answer.ndim != 2 or answer.shape != correct.shape:
        raise ValueError(
            f"answer has shape {tuple(answer.shape)} and correct {tuple(correct.shape)}; expected two dimensions, [P, N], "
            "of both"
        )
    if answer.is_floating_point() or correct.dtype != torch.bool:
        raise ValueError(f"answer is {answer.dtype} and correct {correct.dtype}; expected whole numbers and bool")
    texts = [_as_texts([None if number < 0 else number for number in row]) for row in answer.tolist()]
    return list(zip(texts, correct.tolist(), strict=True))


def _as_texts(numbers: Sequence[int | None]) -> list[str | None]:
    return [None if number is None else str(number) for number in numbers]


def _pass_at(k: int, correct: Tensor, count: Tensor) -> float:
    values = [pass_at_k(int(n), int(c), k) for c, n in zip(correct.tolist(), count.tolist(), strict=True)]
    return sum(values) / len(values) if values else NAN
