"""Problems -> scored rollouts -> what they say of the policy, batch by batch: validation, test and predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from masa_lightning.protocols import RolloutStore
from masa_lightning.rollouts.controlled import ControlledRollouts
from masa_lightning.rollouts.measurement import Measurement, Named
from masa_lightning.rollouts.plan import keys_by_problem, keys_by_text, left_out, merge_batches
from masa_lightning.rollouts.rollouter import Rollouter
from masa_lightning.rollouts.scorers import Scorers
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Kind, Problem, RolloutGroup

Stage = Literal["validate", "test"]
Counts = Mapping[Kind, int]


class Drawn(TypedDict):
    """What a step of validation or test returns, for callbacks."""

    groups: list[RolloutGroup]
    """Of all processes. Tokens and texts of a group are in one of them (`Rollout.holder`)."""
    left_out: list[Problem]
    """Problems whose prompts are too long."""


class Predicted(Drawn):
    """What a step of `masa predict` returns."""

    plain: list[RolloutGroup]
    """With `Evaluation.compare`, the same problems solved without any control, with the same seeds; else empty."""


class Evaluator:
    """Draws the rollouts of an evaluation, each process its part of them, and measures them.

    All processes get verdicts, lengths, predictions, votes and comparisons; tokens and texts stay where they are scored.

    Args:
        rollouter: Draws.
        scorers: Score.
        metrics: New ones, which are filled batch by batch.
        counts: Rollouts a problem, by kind.
        sampling: How tokens are drawn.
        stage: Seeds are functions of it and of the names of problems.
    """

    def __init__(
        self,
        *,
        rollouter: Rollouter,
        scorers: Scorers,
        metrics: Sequence[Named],
        counts: dict[Kind, int],
        sampling: SamplingSettings,
        stage: Stage,
    ) -> None:
        self.rollouter, self.scorers = rollouter, scorers
        self.counts, self.sampling, self.stage = counts, sampling, stage
        self.measured = Measurement(metrics)
        self.overlong = 0
        """Problems whose prompts are too long."""

    def step(self, batch: Sequence[Problem], stores: Sequence[RolloutStore] = ()) -> Drawn:
        """Draws, scores and measures the rollouts of a batch; a collective.

        Args:
            batch: Of this process.
            stores: What they have of the rollouts is not drawn again.
        """
        self.rollouter.watch.restart()
        processes = self.rollouter.processes
        with processes.together():
            problems = merge_batches(processes.gather(batch))
            groups = self.rollouter.new_groups(problems, self.counts)
            self.rollouter.restore(groups, stores)
            new = [g for g in groups if not g.rollouts]
            keys = keys_by_problem(new, self.stage)
            self.rollouter.generate(new, self.counts, self.sampling, keys, logprobs=False)
            self.scorers.score(new)
            self.scorers.note(groups)
        drawn = Drawn(groups=groups, left_out=left_out(problems, groups))
        self.overlong += len(drawn["left_out"])
        self.measured.add(groups)
        return drawn

    def compute(self, *, stage: str, some: bool) -> dict[str, float]:
        """Returns all that was measured, by name.

        Args:
            stage: For the error.
            some: Whether it is an error that nothing was measured.

        Raises:
            ValueError: If the prompts of all problems are too long.
        """
        if some and self.overlong and not self.measured.problems:
            raise ValueError(
                f"none of the {self.overlong} problems has a prompt of at most {self.rollouter.max_prompt_length} tokens, "
                f"so that nothing can be measured under {stage}/; expected some. Raise max_prompt_length, or shorten the "
                "prompts"
            )
        return self.measured.compute() | {"prompts/overlong": float(self.overlong)}


class Predictor:
    """Draws rollouts of problems whose answers need not be known: predictions, solutions under the run's controls, or both.

    Args:
        rollouts: Draws, scores and reads predictions, under the controls of the run.
        counts: Rollouts a problem, by kind; without solutions they are only predicted.
        sampling: How tokens are drawn.
        compare: Whether to solve them once more, without any control.
        step: Training steps that the policy had.
    """

    def __init__(
        self,
        rollouts: ControlledRollouts,
        *,
        counts: dict[Kind, int],
        sampling: SamplingSettings,
        compare: bool,
        step: int,
    ) -> None:
        self.rollouts, self.rollouter, self.scorers = rollouts, rollouts.rollouter, rollouts.scorers
        self.counts, self.sampling, self.compare, self.at = counts, sampling, compare, step

    def step(self, batch: Sequence[Problem]) -> Predicted:
        """Predicts, and solves if asked, the problems of a batch of this process; a collective."""
        plain: list[RolloutGroup] = []
        processes = self.rollouter.processes
        with processes.together():
            problems = merge_batches(processes.gather(batch))
            groups = self.rollouter.new_groups(problems, self.counts)
            keys = keys_by_text(groups, "predict")
            if "solution" not in self.counts:
                self._generate(groups, self.counts, keys)
                self.rollouts.read_predictions(groups)
            else:
                self.rollouts.draw(
                    groups, self.counts, self.sampling, keys, key="predict", step=self.at, training=False
                )
                if self.compare:
                    solutions: dict[Kind, int] = {"solution": self.counts["solution"]}
                    plain = self.rollouter.new_groups([group.problem for group in groups], solutions)
                    self._generate(plain, solutions, keys)
                    self.scorers.score(plain)
        return Predicted(groups=groups, left_out=left_out(problems, groups), plain=plain)

    def _generate(self, groups: Sequence[RolloutGroup], counts: Counts, keys: Sequence[str]) -> None:
        self.rollouter.generate(groups, counts, self.sampling, keys, logprobs=False)
