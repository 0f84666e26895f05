"""Solutions -> verdicts and rewards. What a grader or a reward function gives is checked before it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from masa_lightning.checks import check_object
from masa_lightning.distributed import Processes
from masa_lightning.functional.confidence import answer_text, stated_confidence
from masa_lightning.functional.rewards import soft_overlong_penalty
from masa_lightning.protocols import Grader, PhaseProgress, ProgressFn, RewardFunction
from masa_lightning.quantities import StatedConfidence
from masa_lightning.rewards.asked import gives_at_once, read_signature
from masa_lightning.rewards.background import Background
from masa_lightning.rewards.calls import Calls, NamedFunction
from masa_lightning.rewards.early import EarlyCalls
from masa_lightning.rewards.logged import LoggedMetrics
from masa_lightning.rewards.names import reward_names
from masa_lightning.rewards.values import listed, number, of, shown
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Objective, Problem, Rollout, RolloutGroup

Running = tuple[Calls, Future[list[float]]]


class SolutionScorer:
    r"""Grades solution rollouts and adds up their rewards.

    .. math:: r = [\text{correct}] + \text{confidence} + \sum_i w_i f_i(\text{problem}, \text{completion}) + \text{overlong}

    Functions that are ``async def`` are called while the grader works, but those that ask for its verdicts; and, if they are
    for one completion, while other solutions are drawn (`hear`).

    Args:
        grader: Decides which solutions are right.
        functions: Extra rewards f, added in their order.
        weights: One factor w a function, finite; 1 each by default.
        max_length: Most tokens of a solution.
        overlong_buffer: Tokens before `max_length` over which the soft overlong penalty grows; 0 is no penalty.
        confidence: Reads and rewards what solutions state of themselves; None if they are not asked.

    Raises:
        TypeError: If the functions are no list of callables, one requires what there is not, `grader` is no grader, or
            `confidence` no confidence.
        ValueError: If a function's name is taken, or there is not one finite weight a function.
    """

    def __init__(
        self,
        grader: Grader,
        functions: Sequence[RewardFunction] | None = None,
        weights: Sequence[float] | None = None,
        *,
        max_length: int,
        overlong_buffer: int = 0,
        confidence: StatedConfidence | None = None,
    ) -> None:
        grade = getattr(grader, "grade", None)
        closes = callable(getattr(grader, "close", None))
        if not callable(grade) or not closes or isinstance(grader, type) or not gives_at_once(grade):
            raise TypeError(
                f"grader is {shown(grader)}; expected an object with a plain method `grade(problems, completions, "
                "on_progress)` that gives a list with True, False or None a completion, and a method `close()`"
            )
        if confidence is not None:
            check_object("confidence", confidence, StatedConfidence, note="such as StatedConfidence()")
        self.grader = grader
        absent = ("confidence",) if confidence is None else ()
        self.functions = dict(zip(reward_names(functions or []), functions or [], strict=True))
        """By their names in metrics."""
        self._named = [
            NamedFunction(
                name=name, function=f, asked=read_signature(f, f"the reward function {name!r}", absent=absent)
            )
            for name, f in self.functions.items()
        ]
        self.weights = _read_weights(weights, list(self.functions))
        self.max_length = max_length
        self.overlong_buffer = overlong_buffer
        self.confidence = confidence
        self.logged = LoggedMetrics()
        """What reward functions log of themselves."""
        self._watch, self._device = Stopwatch(), torch.device("cpu")
        self._early: EarlyCalls | None = None
        self._known: dict[int, dict[str, float]] = {}

    @property
    def hears(self) -> bool:
        """Whether there is anything that `hear` can begin."""
        return any(each.asked.can_begin_early for each in self._named)

    def hear(self, problem: Problem, rollout: Rollout) -> None:
        """Begins what can be asked of a solution, while others are drawn.

        Args:
            problem: That it is of.
            rollout: With the completion that the rollout of the next `score` has.
        """
        if self._early is None:
            self._early = EarlyCalls(self._named, logged=self.logged, device=self._device)
        if self.confidence is not None:
            rollout.prediction = self.confidence.read(rollout.text)
        self._early.begin(problem, rollout)

    def heard(self, rollout: Rollout) -> dict[str, float]:
        """Waits for what `hear` began of a rollout. Returns what functions gave, by their names.

        Raises:
            ValueError: If one failed.
        """
        return {} if self._early is None else self._early.values(rollout)

    def know(self, rollouts: Sequence[Rollout], values: Sequence[dict[str, float]]) -> None:
        """Takes what other processes heard of rollouts that are to be scored here (`heard`)."""
        self._known = {id(rollout): of for rollout, of in zip(rollouts, values, strict=True) if of}

    @property
    def parts(self) -> list[str]:
        """Names of what a reward is made of."""
        first, *others = self._of_correctness
        return [first, *self.functions, *others]

    @property
    def objectives(self) -> list[Objective]:
        """What the reward is the weighted sum of; the overlong penalty is one on correctness.

        So is the score of the confidence: the two together are what it is best to be sure of, and to be right by.
        """
        functions = zip(self.weights, self.functions, strict=True)
        return [(1.0, self._of_correctness), *((weight, (name,)) for weight, name in functions if weight)]

    @property
    def _of_correctness(self) -> tuple[str, ...]:
        return ("correct", *["confidence"] * (self.confidence is not None), *["overlong"] * bool(self.overlong_buffer))

    phase = "grade"

    def score(self, groups: Sequence[RolloutGroup], progress: PhaseProgress) -> None:
        """Grades solutions and sets their rewards, in place; where nobody knows the answer they are ungraded.

        Raises:
            ValueError: As `grade`; or if a reward function does not give one finite number a completion, or fails; the
                cause is kept.
        """
        total = sum(len(g.solutions) for g in groups if g.problem.answer)
        self.read(groups)
        try:
            with Background() as background:
                early = [each for each in self._named if each.asked.is_async and not each.asked.waits_for_verdicts]
                begun = self._begin(early, groups, background)
                self.grade(groups, progress(self.phase, total))
                self._reward(groups, begun, background, progress)
        finally:
            self.forget()

    def forget(self) -> None:
        """Ends what `hear` began."""
        if self._early is not None:
            self._early.close()
        self._early, self._known = None, {}

    def __getstate__(self) -> dict[str, Any]:
        """For copies, of which nothing was begun."""
        return vars(self) | {"_early": None, "_known": {}}

    def close(self) -> None:
        """Frees what the grader holds, and ends what `hear` began."""
        self.forget()
        self.grader.close()

    def read(self, groups: Sequence[RolloutGroup]) -> None:
        """Reads what solutions state of themselves, in place; a control may have cut them shorter since."""
        if self.confidence is not None:
            for rollout in (r for g in groups for r in g.solutions):
                rollout.prediction = self.confidence.read(rollout.text)

    def start(self, watch: Stopwatch, device: torch.device) -> None:
        """Gets ready for a run, of which nothing is logged yet.

        Args:
            watch: Measures each reward function, as the phase "rewards/NAME".
            device: Of the policy.
        """
        self._watch, self._device = watch, device
        self.forget()
        self.logged.restart()

    def take_metrics(self, processes: Processes) -> dict[str, float]:
        """As `LoggedMetrics.take`; nothing without reward functions. A collective."""
        return self.logged.take(processes) if self._named else {}

    def grade(self, groups: Sequence[RolloutGroup], on_progress: ProgressFn | None = None) -> None:
        """Sets the verdicts of solutions, in place; where nobody knows the answer they are ungraded.

        Args:
            groups: With solutions.
            on_progress: Told (done, total) as verdicts come in.

        Raises:
            ValueError: If the grader does not give a list with one verdict a solution, or fails; the cause is kept.
        """
        for rollout in (r for g in groups for r in g.solutions):
            rollout.correct, rollout.ungraded = False, True
        pairs = [(g.problem, r) for g in groups for r in g.solutions if g.problem.answer]
        if not pairs:
            return
        problems = [problem for problem, _ in pairs]
        try:
            given = self.grader.grade(problems, [answer_text(rollout) for _, rollout in pairs], on_progress)
        except Exception as error:
            raise ValueError(
                f"the grader {type(self.grader).__name__} failed on the {len(pairs)} completions {of(problems)} with "
                f"{type(error).__name__}: {error}; expected a list with True, False or None a completion, None where no "
                "verdict could be had"
            ) from error
        for (_, rollout), verdict in zip(pairs, read_verdicts(self.grader, problems, given), strict=True):
            rollout.correct, rollout.ungraded = verdict is True, verdict is None

    def _begin(
        self, functions: Sequence[NamedFunction], groups: Sequence[RolloutGroup], background: Background
    ) -> dict[str, Running]:
        calls = {each.name: self._calls(each, groups) for each in functions}
        return {name: (each, background.start(each.together())) for name, each in calls.items()}

    def _calls(self, named: NamedFunction, groups: Sequence[RolloutGroup]) -> Calls:
        early = self._early if named.asked.can_begin_early else None
        return Calls(
            named,
            groups,
            logged=self.logged,
            watch=self._watch,
            device=self._device,
            early=early,
            known=self._known,
        )

    def _reward(
        self,
        groups: Sequence[RolloutGroup],
        begun: Mapping[str, Running],
        background: Background,
        progress: PhaseProgress,
    ) -> None:
        """Sets the rewards of graded solutions and their parts; what is begun is waited for, after the others."""
        late = [each for each in self._named if each.asked.is_async and each.name not in begun]
        running = {**begun, **self._begin(late, groups, background)}
        values = {n.name: self._calls(n, groups).now() for n in self._named if not n.asked.is_async}
        if running:
            total = sum(len(calls.calls) for calls, _ in running.values())
            report = progress("rewards", total)
            background.wait(lambda: report(sum(calls.done for calls, _ in running.values()), total))
            values |= {name: future.result() for name, (_, future) in running.items()}
        pairs = [(g.problem, r) for g in groups for r in g.solutions]
        for i, (problem, rollout) in enumerate(pairs):
            rollout.rewards = {"correct": float(rollout.correct)}
            rollout.reward = rollout.rewards["correct"]
            for named, weight in zip(self._named, self.weights, strict=True):
                self._add(rollout, named.name, values[named.name][i], weight, problem)
            if self.confidence is not None:
                score = self.confidence.reward(stated_confidence(rollout), rollout.correct)
                self._add(rollout, "confidence", score, 1.0, problem)
            if self.overlong_buffer:
                penalty = soft_overlong_penalty(rollout.length, self.max_length, self.overlong_buffer)
                self._add(rollout, "overlong", penalty, 1.0, problem)

    @staticmethod
    def _add(rollout: Rollout, name: str, value: float, weight: float, problem: Problem) -> None:
        assert rollout.reward is not None
        rollout.rewards[name] = value
        rollout.reward += weight * value
        if not math.isfinite(rollout.reward):
            raise ValueError(
                f"with {weight} * {value} of the reward function {name!r} the reward of a solution of problem "
                f"{problem.id!r} is {rollout.reward}; expected finite rewards"
            )


def read_verdicts(grader: Grader, problems: Sequence[Problem], verdicts: Any) -> list[bool | None]:
    """Checks what a grader gave: a list with True, False or None a problem; 1 and 0 of any type of numbers count as these.

    Args:
        grader: Named in errors.
        problems: [N] of the completions.
        verdicts: What it gave.

    Raises:
        ValueError: If that is no list with one verdict a problem.
    """
    who = f"the grader {type(grader).__name__}"
    given = listed(verdicts, len(problems), who, of(problems), "True, False or None")
    read: list[bool | None] = []
    for problem, value in zip(problems, given, strict=True):
        read_value = number(value)
        if value is not None and read_value not in (0.0, 1.0):
            raise ValueError(
                f"{who} gave {shown(value)} for a completion of problem {problem.id!r}; expected True, False, or None "
                "where no verdict could be had"
            )
        read.append(None if read_value is None else read_value == 1)
    return read


def _read_weights(weights: Sequence[Any] | None, names: Sequence[str]) -> list[float]:
    if weights is None:
        return [1.0] * len(names)
    if len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} reward_weights were given for {len(names)} reward_functions; expected one each"
        )
    read = []
    for name, weight in zip(names, weights, strict=True):
        value = number(weight)
        if value is None or not math.isfinite(value):
            raise ValueError(f"the weight of the reward function {name!r} is {shown(weight)}; expected a finite number")
        read.append(value)
    return read
