"""What one predicted quantity has to say of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from masa_lightning.functional.prompts import Question
from masa_lightning.quantities.shown import DEFAULT
from masa_lightning.types import RolloutGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torchmetrics import Metric


class Quantity(ABC):
    """Something that the model predicts of its own solutions before it solves a problem.

    Derive from it for one of your own: `key` and the first four methods are needed, `metric`, `compare` and `pictures` where
    it is to be calibrated and drawn. An object holds its settings alone, so that all processes and all steps can share it.
    """

    key: str
    """Of the JSON object that a prediction ends with, and in ``failures``."""
    name: str
    """In predictions and the files of rollouts; `key` by default."""
    reward_name: str
    """Of its reward, ``meta/rewards/<reward_name>/mean``, and of its weight; `key` by default."""
    metric_name: str
    """Of its metrics, ``calibration/<metric_name>/...``, and of its picture over steps; `key` by default."""
    title: str
    """In pictures; `key` in words by default."""
    unit: str = ""
    """In pictures, such as "tokens"."""
    greatest: float | None = None
    """Upper end of the axis over steps; None for what the data needs."""
    shown: Sequence[str] = DEFAULT
    """Names of what its metric computes that tables show; what it does not compute is left out."""
    expert_reward: float | None = None
    """Where nobody knows what would have been right to predict, so that an expert keeps what it predicted: the least reward
    of this quantity that it takes to be an expert, in [0, 1]. None where `truth` is known."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if key := cls.__dict__.get("key"):
            words = str(key).replace("_", " ")
            defaults = {"name": key, "reward_name": key, "metric_name": key, "title": words[:1].upper() + words[1:]}
            for name, default in defaults.items():
                if name not in cls.__dict__:
                    setattr(cls, name, default)

    @abstractmethod
    def ask(self, budget: int) -> Question:
        """Says how it is asked for in the meta prompt.

        Args:
            budget: Most tokens of a solution.
        """

    @abstractmethod
    def read(self, value: Any) -> Any:
        """Makes the predicted value of what the JSON object has at `key`; never None.

        Args:
            value: None, bool, int, float, str, or a list or dictionary of these: a model wrote it, so it may be anything.

        Raises:
            functional.parsing.Unreadable: If it is none, with the reason; it then earns 0 and counts as a failure.
        """

    @abstractmethod
    def reward(self, predicted: Any, group: RolloutGroup) -> float:
        """Scores a prediction by what the solutions of its problem turned out to be.

        Args:
            predicted: What `read` made.
            group: Of the problem, with graded solutions.

        Returns:
            In [0, 1]; 1 for the best prediction.
        """

    @abstractmethod
    def truth(self, predicted: Any, group: RolloutGroup) -> Any:
        """Says what would have been right to predict: what an expert writes in its place, as `read` would read it.

        Args:
            predicted: What the expert predicted, None for nothing.
            group: Of the problem; at least one solution is correct.
        """

    def schema(self, budget: int) -> dict[str, Any] | None:
        """Says which values structured outputs may give it, as JSON schema; None where it is for free drawing alone.

        Every value of the schema is one that `read` takes, and its keywords are those that a grammar heeds
        (`quantities.schemas`): others are refused. Texts and lists have a greatest length, and an item of a list
        takes few tokens: objects inside of lists may be cut.

        Args:
            budget: Most tokens of a solution.
        """
        return None

    def metric(self, **settings: Any) -> Metric | None:
        """Makes the metric that calibrates it; None for none.

        `masa_lightning.metrics` has `ValueCalibration` for any number, `LengthCalibration` for numbers above 0, and
        `PassRateCalibration` for shares. Another one has to have the same two methods: `update`, which takes the columns
        of `compare` and, by name, ``problem`` (which entries are of the same problem) and ``weight`` (how many problems
        each stands for); and `points`, which gives an object with ``predicted`` and ``actual``, a number a problem.

        Args:
            settings: Those of every `torchmetrics.Metric`.
        """
        return None

    def compare(self, predicted: Any, group: RolloutGroup, budget: int) -> tuple[float, ...] | None:
        """Puts a prediction beside what happened, for `metric`.

        Args:
            predicted: What `read` made.
            group: Of the problem, whose statistics are those of the policy on its own.
            budget: Most tokens of a solution.

        Returns:
            What the metric's `update` takes first, a number a column; None where there is nothing to compare with.
        """
        return None

    def pictures(self, points: Any, where: str = "") -> dict[str, Figure]:
        """Draws what its metric knows: by default the predicted against the actual values.

        Args:
            points: What `points` of its metric gives: one entry a problem, at least one.
            where: Run, stage and step, for the second line of a title.

        Returns:
            Figures by name; a name begins with `metric_name`. Axes are logarithmic where all values are above 0.
        """
        from masa_lightning.metrics.figures import length_scatter

        figure = length_scatter(
            points.predicted,
            points.actual,
            getattr(points, "low", None),
            getattr(points, "high", None),
            where,
            title=self.title,
            name=self.metric_name.replace("_", " "),
            unit=self.unit,
        )
        return {f"{self.metric_name}_scatter": figure}
