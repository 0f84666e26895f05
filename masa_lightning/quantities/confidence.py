"""How sure a solution says it is of its own answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from masa_lightning.functional.confidence import CONFIDENCE, confidence_reward, parse_confidence, stated_confidence
from masa_lightning.types import MetaPrediction, RolloutGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from masa_lightning.metrics.confidence import ConfidenceCalibration, ConfidencePoints

_ASK = (
    "Then say how likely it is that your answer is right: end with a number from 0 to 1 between <confidence> and "
    "</confidence>, and nothing after it."
)


class StatedConfidence:
    r"""Lets solutions state how sure they are, and rewards them for being as sure as they are right (RLCR).

    .. math:: R = y - (q - y)^2 \text{ + reward functions}, \qquad y = [\text{correct}]

    The prompt of solutions asks for it. The confidence q is read by `functional.confidence.parse_confidence`; the grader
    does not see it. A solution that states none, or not as it is asked for, earns what the worst confidence earns,
    :math:`y - 1`. Calibrated as the predicted pass rates of meta rollouts are, ``calibration/confidence/...``.

    Args:
        instruction: Said after the instructions of `prompts`, with a space between; "" where these ask for it.

    Raises:
        ValueError: If the instruction is no text.

    Example:
        >>> StatedConfidence().reward(0.75, correct=True)
        -0.0625
    """

    metric_name = CONFIDENCE
    title = "Stated confidence"
    unit = "share of correct rollouts"
    greatest = 1.0
    shown = ("pearson", "brier", "ece", "auroc", "bias")

    def __init__(self, instruction: str = _ASK) -> None:
        if not isinstance(instruction, str):
            raise ValueError(f'instruction of StatedConfidence is {instruction!r}; expected a text, "" for none')
        self.instruction = instruction

    def check_stops(self, texts: Sequence[str]) -> None:
        """Refuses texts that end solutions before their tag does: what stops a text is no part of it.

        Raises:
            ValueError: If there is such a one.
        """
        marks = (f"<{CONFIDENCE}>", f"</{CONFIDENCE}>")
        if wrong := [text for text in texts if any(text in mark or mark in text for mark in marks)]:
            raise ValueError(
                f"sampling.stop has {wrong[0]!r}, with which <{CONFIDENCE}> is written, so that none would be stated; "
                "expected other texts, or none: a solution ends its turn after the tag"
            )

    def ask(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Adds the instruction to the last message of a solution's chat."""
        if not self.instruction:
            return messages
        *before, last = messages
        return [*before, {**last, "content": f"{last['content']} {self.instruction}"}]

    def read(self, text: str) -> MetaPrediction:
        """What a solution states of itself, as `Rollout.prediction` has it: "confidence", or why there is none."""
        value, failure = parse_confidence(text)
        if value is None:
            return MetaPrediction(failures={CONFIDENCE: str(failure)})
        return MetaPrediction(values={CONFIDENCE: value})

    def reward(self, confidence: float | None, correct: bool) -> float:
        """As `functional.confidence.confidence_reward`, in [-1, 0]."""
        return confidence_reward(confidence, correct)

    def metric(self, **settings: Any) -> ConfidenceCalibration:
        """Makes the metric that calibrates it."""
        from masa_lightning.metrics.confidence import ConfidenceCalibration  # the report does without torch

        return ConfidenceCalibration(**settings)

    def compare(self, group: RolloutGroup) -> list[tuple[float, ...]]:
        """Stated confidence and correctness (0 or 1) of each solution that states one, as its metric takes them.

        None of a problem where a control kept its statistics from being true.
        """
        stated = [(stated_confidence(r), r) for r in (group.solutions if group.is_unbiased else ())]
        return [(value, float(rollout.correct)) for value, rollout in stated if value is not None]

    def pictures(self, points: ConfidencePoints, where: str = "") -> dict[str, Figure]:
        """Draws what its metric knows: means of problems against pass rates, and solutions against verdicts."""
        from masa_lightning.metrics.confidence import STATED, STATED_MEAN
        from masa_lightning.metrics.figures import pass_rate_scatter, reliability_diagram

        return {
            "confidence_scatter": pass_rate_scatter(points.predicted, points.actual, where, name=STATED_MEAN),
            "confidence_reliability": reliability_diagram(
                points.confidence, points.verdict, where=where, name=STATED, problem=points.problem
            ),
        }
