"""The quantities of a run, asked, read, calibrated and drawn together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from masa_lightning.functional.experts import best_rollout, has_reasoning, rewritten
from masa_lightning.functional.parsing import read_members, render_members
from masa_lightning.functional.prompts import Question
from masa_lightning.quantities.confidence import StatedConfidence
from masa_lightning.quantities.defaults import default_quantities
from masa_lightning.quantities.guarded import (
    called,
    check_metric,
    check_truth,
    is_row,
    pictures_of,
    reading,
    reward_of,
    who,
)
from masa_lightning.quantities.notions import Notions
from masa_lightning.quantities.pass_rate import PassRate
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.quantities.schemas import check_schema
from masa_lightning.quantities.shown import ShownQuantity, shown
from masa_lightning.quantities.solution_length import SolutionLength
from masa_lightning.types import Comparisons, MetaPrediction, Rollout, RolloutGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from masa_lightning.metrics.calibration import Calibration

_PAPERS: Final = (PassRate, SolutionLength, Notions)
_NAME: Final = re.compile(r"[A-Za-z]\w*", re.ASCII)
_FORM: Final = "letters, digits and '_', a letter first, as it names a metric and a member of a JSON object"


def quantities_of(module: object) -> Quantities:
    """Those of a module, the paper's of one that does not say."""
    return getattr(module, "quantities", None) or Quantities(default_quantities(), budget=1)


class Quantities:
    """The quantities that meta rollouts predict, in the order in which they are asked for.

    Args:
        quantities: At least one, but where there is a `confidence`; their names differ.
        budget: Most tokens of a solution, >= 1.
        confidence: What solutions state of themselves, which is calibrated and drawn with the quantities.

    Raises:
        TypeError: If they are no list of objects of `Quantity`.
        ValueError: If there are none, or a name is not fit, or one of two, or that of one of the paper's for something else,
            or one asks for another key than its own.

    Example:
        >>> quantities = Quantities(default_quantities(), budget=512)
        >>> quantities.names, quantities.reward_names
        (['notions', 'pass_rate', 'solution_length'], ['length', 'difficulty', 'notion'])
        >>> quantities.read('{"pass_rate": 3, "solution_length": 0}').failures
        {'math_notion': 'missing_key', 'solution_length': 'out_of_range'}
    """

    def __init__(
        self, quantities: Sequence[Quantity], *, budget: int, confidence: StatedConfidence | None = None
    ) -> None:
        _check(quantities, confidence)
        self._all = tuple(quantities)
        self.budget = budget
        self.confidence = confidence
        for quantity in self._all:
            asked = called(quantity, "ask", budget)
            if not isinstance(asked, Question):
                raise TypeError(
                    f"{who(quantity)} asks with {asked!r}; expected a functional.Question(key, text, example)"
                )
            if asked.key != quantity.key:
                raise ValueError(
                    f"{who(quantity)} asks for {asked.key!r}; expected its `key`, under which its value is then looked for"
                )

    def __iter__(self) -> Iterator[Quantity | StatedConfidence]:
        """All that is calibrated and drawn: the quantities, then the confidence."""
        return iter((*self._all, *([] if self.confidence is None else [self.confidence])))

    @property
    def predicted(self) -> tuple[Quantity, ...]:
        """Those of meta rollouts, without the confidence."""
        return self._all

    @property
    def names(self) -> list[str]:
        """In predictions."""
        return [quantity.name for quantity in self._all]

    @property
    def reward_names(self) -> list[str]:
        """In the order in which rewards are added: what is asked for last comes first, as in the first version."""
        return [quantity.reward_name for quantity in reversed(self._all)]

    @property
    def pass_rate_scale(self) -> int:
        """What the prompt calls a certain success."""
        return next((q.scale for q in self._all if isinstance(q, PassRate) and q.name == PassRate.name), 8)

    def shown(self) -> list[ShownQuantity]:
        """What tables and charts say of them."""
        return shown(self)

    def questions(self) -> list[Question]:
        """How they are asked for."""
        return [quantity.ask(self.budget) for quantity in self._all]

    def schema(self) -> str:
        """The JSON schema of the object that a prediction ends with, as JSON; its members in the order of the prompt.

        Raises:
            ValueError: If a quantity has none.
        """
        members = self._schemas()
        return json.dumps(
            {"type": "object", "properties": members, "required": [*members], "additionalProperties": False}
        )

    def _schemas(self) -> dict[str, Any]:
        members = {quantity.key: called(quantity, "schema", self.budget) for quantity in self._all}
        for quantity in self._all:
            if not isinstance(members[quantity.key], dict):
                raise ValueError(
                    f"{who(quantity)} has the schema {members[quantity.key]!r}, and meta.structured_outputs draws "
                    'predictions under one; expected a JSON schema such as {"type": "integer", "minimum": 0, "maximum": 9}: '
                    f"give {type(quantity).__name__} a method `schema`, or set meta.structured_outputs to false"
                )
        return members

    def check_schemas(self) -> None:
        """Refuses schemas that structured outputs would not heed in full, or that allow what cannot be read.

        Raises:
            ValueError: If a quantity has such a one, or none.
        """
        for quantity, schema in zip(self._all, self._schemas().values(), strict=True):
            check_schema(who(quantity), schema, reading(quantity))

    def read(self, text: str) -> MetaPrediction:
        """Reads what a meta completion predicts; each quantity is judged alone.

        Args:
            text: The decoded completion.

        Raises:
            ValueError: If a quantity fails on a value with anything but `Unreadable`; the cause is kept.
        """
        found, failures = read_members(text, {q.key: reading(q) for q in self._all})
        values = {q.name: found[q.key] for q in self._all if q.key in found}
        return MetaPrediction(values=values, failures=failures, pass_rate_scale=self.pass_rate_scale)

    def rewards(self, prediction: MetaPrediction, group: RolloutGroup, names: Iterable[str]) -> dict[str, float]:
        """Scores a prediction against the solutions of its group.

        Args:
            prediction: Of one of its meta rollouts.
            group: With graded solutions.
            names: Of the rewards that are wanted.

        Returns:
            Rewards in [0, 1] by name, in the order of `reward_names`; 0 for what was not predicted.

        Raises:
            ValueError: If a quantity gives another reward.
        """
        wanted = {*names}
        parts = {}
        for quantity in reversed(self._all):
            if quantity.reward_name in wanted:
                predicted = prediction.values.get(quantity.name)
                parts[quantity.reward_name] = 0.0 if predicted is None else reward_of(quantity, predicted, group)
        return parts

    def expert(self, group: RolloutGroup) -> tuple[Rollout, str] | None:
        """Picks the best meta rollout of a problem, and writes what it should have predicted.

        The best is the one with the most reward for what nobody knows better (`Quantity.expert_reward`), and then in all; of
        what is not rewarded (weight 0) nothing is asked, and it is left out where it was not predicted.

        Args:
            group: With rewards.

        Returns:
            The rollout, and its text with the JSON object rewritten; None if no solution is correct, or no rollout has
            closed reasoning, enough reward, and a value for all that is not known better.

        Raises:
            ValueError: If a quantity's `truth` is nothing that its `read` takes.
        """
        rewarded = {name for rollout in group.metas for name in rollout.rewards}
        kept = [q for q in self._all if q.expert_reward is not None and q.reward_name in rewarded]

        def qualifies(rollout: Rollout) -> bool:
            prediction = rollout.prediction
            return (
                prediction is not None
                and has_reasoning(rollout.text)
                and all(prediction.values.get(quantity.name) is not None for quantity in kept)
            )

        best = best_rollout(group, {q.reward_name: q.expert_reward or 0.0 for q in kept}, qualifies)
        if best is None or best.prediction is None:
            return None
        predicted = best.prediction.values
        written = [q for q in self._all if q.expert_reward is None or predicted.get(q.name) is not None]
        truths = {q.key: called(q, "truth", predicted.get(q.name), group) for q in written}
        for quantity in written:
            check_truth(quantity, truths[quantity.key], group)
        return best, rewritten(best.text, render_members(truths))

    def calibration(self) -> Calibration:
        """Makes the metrics, as one; every process adds all rollouts to them."""
        from masa_lightning.metrics.calibration import Calibration  # the report does without torch

        return Calibration(self.metrics(sync_on_compute=False), self.calibrate)

    def metrics(self, **settings: Any) -> dict[str, Any]:
        """Makes the metrics that calibrate them, by `Quantity.metric_name`.

        Args:
            settings: Those of every `torchmetrics.Metric`.

        Raises:
            TypeError: If one is none that problems can be given to (`Quantity.metric`).
        """
        for quantity in self._all:
            if not callable(quantity.metric):
                raise TypeError(
                    f"{who(quantity)} has {quantity.metric!r} as its metric; expected a class, such as "
                    "masa_lightning.metrics.ValueCalibration, or a method"
                )
        made = {each.metric_name: called(each, "metric", **settings) for each in self}
        for quantity in self._all:
            if made[quantity.metric_name] is not None:
                check_metric(quantity, made[quantity.metric_name])
        return {name: metric for name, metric in made.items() if metric is not None}

    def compare(self, group: RolloutGroup) -> Comparisons:
        """Puts the predictions of a problem beside what happened, as the metrics take them; where its texts are.

        Args:
            group: With scored rollouts; none if a control kept its statistics from being true.

        Returns:
            By `Quantity.metric_name` a row a prediction.
        """
        found: Comparisons = {}
        for quantity in self._all if group.is_unbiased else ():
            for prediction in (rollout.prediction for rollout in group.metas):
                predicted = None if prediction is None else prediction.values.get(quantity.name)
                row = None if predicted is None else called(quantity, "compare", predicted, group, self.budget)
                if row is not None and not is_row(row):
                    raise ValueError(
                        f"`compare` of {who(quantity)} gave {row!r} for problem {group.problem.id!r}; expected a tuple of "
                        "finite numbers, with NaN where there is nothing to compare with, or None"
                    )
                if row is not None:
                    found.setdefault(quantity.metric_name, []).append(row)
        return found

    def calibrate(self, metrics: Mapping[str, Any], groups: Sequence[RolloutGroup]) -> None:
        """Adds what was predicted, or stated, and what happened, to metrics.

        Args:
            metrics: Of `metrics`.
            groups: With scored rollouts, each of the weight that it has now. Those without `comparisons` are compared.
        """
        compared = [self.compare(g) if g.comparisons is None else g.comparisons for g in groups]
        if (stated := self.confidence) is not None:
            compared = [
                {**rows, stated.metric_name: stated.compare(g)} for g, rows in zip(groups, compared, strict=True)
            ]
        for name, metric in metrics.items():
            known = [
                (*row, group.weight, index)
                for index, (group, rows) in enumerate(zip(groups, compared, strict=True))
                for row in rows.get(name, ())
            ]
            if known:
                import torch  # the report does without

                *columns, weight, index = torch.tensor(known, dtype=torch.float64).unbind(1)
                try:
                    metric.update(*columns, problem=index, weight=weight)
                except (TypeError, ValueError) as error:
                    owner = next(each for each in self if each.metric_name == name)
                    raise ValueError(
                        f"the {type(metric).__name__} of {who(owner)} did not take what its `compare` gives: {error}"
                    ) from error

    def pictures(self, points: Mapping[str, Any], where: str = "") -> dict[str, Figure]:
        """Draws what metrics know; nothing of a quantity without a prediction.

        Args:
            points: Of the metrics, by name, what their `points` gives, which is a collective.
            where: Run, stage and step, for the second line of titles.
        """
        figures: dict[str, Figure] = {}
        drawn: dict[str, Any] = {name: known for name, known in points.items() if len(known.predicted)}
        for each in self:
            if each.metric_name in drawn:
                figures |= pictures_of(each, drawn[each.metric_name], where)
        if PassRate.metric_name in drawn and self.confidence is not None and self.confidence.metric_name in drawn:
            from masa_lightning.metrics.figures import self_knowledge

            rate, stated = drawn[PassRate.metric_name], drawn[self.confidence.metric_name]
            figures["self_knowledge"] = self_knowledge(
                (rate.predicted, rate.correct, rate.count),
                (stated.confidence, stated.verdict, stated.problem),
                where=where,
            )
        return figures


def _check(quantities: Any, confidence: StatedConfidence | None) -> None:
    if not isinstance(quantities, (list, tuple)) or not (quantities or confidence):
        raise TypeError(f"quantities is {quantities!r}; expected a list with at least one masa_lightning.Quantity")
    for i, quantity in enumerate(quantities):
        if not isinstance(quantity, Quantity):
            raise TypeError(
                f"quantities[{i}] is {quantity!r}; expected an object of a class that derives from masa_lightning.Quantity"
            )
        for what in ("key", "name", "reward_name", "metric_name"):
            name = getattr(quantity, what, None)
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _reserved():
                raise ValueError(
                    f"quantities[{i}], a {type(quantity).__name__}, has the {what} {name!r}; expected {_FORM}, "
                    "and none that is in use already, such as 'keys': change it"
                )
        if isinstance(quantity.shown, str):
            raise ValueError(
                f"quantities[{i}], a {type(quantity).__name__}, has the text {quantity.shown!r} as `shown`; expected a "
                f"tuple of names, such as ({quantity.shown!r},)"
            )
        meant = next((kind for kind in _PAPERS if quantity.name == kind.name), Quantity)
        if not isinstance(quantity, meant):
            raise ValueError(
                f"quantities[{i}], a {type(quantity).__name__}, has the name {quantity.name!r}, by which controls, votes "
                f"and reports know what masa_lightning.{meant.__name__} predicts; expected a class that derives from it, or "
                "another name"
            )
    for what in ("key", "name", "reward_name", "metric_name"):
        names = [getattr(quantity, what) for quantity in quantities]
        if confidence is not None and confidence.metric_name in names:
            raise ValueError(
                f"a quantity has the {what} {confidence.metric_name!r}, which is that of the confidence that solutions "
                "state; expected another one, or no confidence"
            )
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{len(twice)} of the quantities have the {what} {twice[0]!r}; expected different ones")


@cache
def _reserved() -> frozenset[str]:
    """Names that mean something else in a prediction, or in the `ModuleDict` of metrics."""
    from torch import nn

    return frozenset({"failures", "pass_rate_scale", *dir(nn.ModuleDict())})
