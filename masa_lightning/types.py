"""What travels between the rooms of the house: problems in, rollouts and training batches out.

Everything here is plain data; what a sampler, a grader or a reward function has to offer is in `protocols`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from statistics import fmean
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, cast

from masa_lightning.checks import check_number

if TYPE_CHECKING:
    import torch

Kind = Literal["solution", "meta"]
AnswerType = Literal["math", "number", "choice", "code"]
FinishReason = Literal["stop", "length"]

_NUMERIC: Final = re.compile(r"\d|\\pi\b|\u03c0|(?<![A-Za-z\\])e(?![A-Za-z])")  # in some spelling, as it is graded
_SEVERAL: Final = re.compile(  # `10:30`, `[5]`, `(1,2)`, `1 or 2`; but `1,234`, `1{,}234` and `\sqrt[3]{2}` are one
    r"(?<!\\)[:;]|(?<!sqrt)\[|(?<![{\\]),(?!\d{3}(?!\d))|(?<![\d{\\]),|(?<![A-Za-z])(?:or|and|to)(?![A-Za-z])"
)


class Answer(str):
    """The ground truth of a problem: a text that knows what grading needs besides.

    It is a `str`, equal to a plain one: code that reads an answer as text (a grader of your own, a file, a table, a set of
    answers) need not know its class.

    Args:
        text: What it is as text; a whole number will do.

    Raises:
        ValueError: If `text` is neither.
    """

    __slots__: tuple[str, ...] = ()
    kind: AnswerType = "math"
    """Its name in rows of a table (`Problem`'s `answer_type`)."""

    def __new__(cls, text: str) -> Self:
        if not isinstance(text, str | int) or isinstance(text, bool):
            raise ValueError(
                f'the answer is {text!r:.100}; expected a text ("" where nobody knows it), a number as it is written'
            )
        return super().__new__(cls, text)

    def _besides(self) -> dict[str, object]:
        """Returns what it has besides its text, by name: what its class and those that this one extends declare."""
        names = (name for kind in reversed(type(self).__mro__) for name in vars(kind).get("__slots__", ()))
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __reduce__(self) -> tuple[object, ...]:
        return _remade, (type(self), str(self), self._besides() | getattr(self, "__dict__", {}))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([repr(str(self)), *(f'{k}={v!r}' for k, v in self._besides().items())])})"


def _remade(kind: type[Answer], text: str, besides: Mapping[str, object]) -> Answer:
    """Returns a copy of an answer, of whatever class of yours; it was checked when it was made."""
    answer = str.__new__(kind, text)
    for name, value in besides.items():
        setattr(answer, name, value)
    return answer


class MathAnswer(Answer):
    r"""A value or formula, without `\boxed{}`: right is a box that holds an equal one.

    >>> MathAnswer("42")
    '42'
    """

    __slots__ = ()
    __repr__ = str.__repr__  # what a plain text is


class NumberAnswer(Answer):
    """One number: right is a box with a number that is close to it.

    Args:
        text: The number.
        tolerance: Largest difference relative to it, >= 0.

    Raises:
        ValueError: If `tolerance` is no such number, or `text` is not one number.

    >>> NumberAnswer("2.5", tolerance=0.01)
    NumberAnswer('2.5', tolerance=0.01)
    """

    __slots__ = ("tolerance",)
    kind = "number"
    tolerance: float

    def __new__(cls, text: str, *, tolerance: float) -> Self:
        check_number("tolerance", tolerance, ">= 0", note="(relative to the right number)")
        answer = super().__new__(cls, text)
        if answer and (not _NUMERIC.search(answer) or _SEVERAL.search(answer)):
            held = "several, or a ratio or time" if _NUMERIC.search(answer) else "no number"
            raise ValueError(f"the answer is {text!r:.100}, which holds {held}; expected one number, such as '2.5'")
        answer.tolerance = tolerance
        return answer


class ChoiceAnswer(Answer):
    """The letter of the right option: right is a box with this letter, or with the text of this option.

    Args:
        text: The letter, A for the first option; "" where nobody knows it.
        options: Their texts, without letters.

    Raises:
        ValueError: If `text` is the letter of no option.

    >>> answer = ChoiceAnswer("B", options=["4", "5"])
    >>> answer, answer == "B", answer.options
    (ChoiceAnswer('B', options=('4', '5')), True, ('4', '5'))
    """

    __slots__ = ("options",)
    kind = "choice"
    options: tuple[str, ...]

    def __new__(cls, text: str, *, options: Sequence[str]) -> Self:
        if not isinstance(options, list | tuple) or not options or not all(isinstance(each, str) for each in options):
            raise ValueError(f"options is {options!r}; expected a list with the text of each option")
        letters = ascii_uppercase[: len(options)]
        answer = super().__new__(cls, text)
        if answer and answer.strip().strip("().").upper() not in {*letters}:
            raise ValueError(
                f"the answer is {text!r} and there are {len(options)} options; expected one of {', '.join(letters)}: the "
                "letter of the right option"
            )
        answer.options = tuple(options)
        return answer


class CodeAnswer(Answer):
    """Tests: right is a program, in the last block of Python code that defines what is tested, that passes them.

    Args:
        text: Python that asserts, or JSON with inputs and outputs (`grading.programs.stdio`).
        preamble: Python that programs and tests build on.

    Raises:
        ValueError: If one of them is no text.

    >>> CodeAnswer("assert double(2) == 4").preamble
    ''
    """

    __slots__ = ("preamble",)
    kind = "code"
    preamble: str

    def __new__(cls, text: str, *, preamble: str = "") -> Self:
        if not isinstance(preamble, str):
            raise ValueError(f'preamble is {preamble!r:.100}; expected Python as a text, "" for none')
        answer = super().__new__(cls, text)
        answer.preamble = preamble
        return answer


_ANSWERS: Final[dict[str, type[Answer]]] = {a.kind: a for a in (MathAnswer, NumberAnswer, ChoiceAnswer, CodeAnswer)}


@dataclass(slots=True, kw_only=True, init=False)
class Problem:
    """One task, as text.

    Args:
        id: Names it, with `source`, in logs and files, and so to seeds: each problem of a data set has its own.
        problem: The problem statement alone, without instructions.
        answer: The ground truth. A plain text is a `MathAnswer`.
        source: The data set that it comes from.
        metadata: Anything of yours, for your reward functions and graders.
        answer_type: For rows of a table, which have plain texts alone: the `kind` of the answer; what it needs besides comes
            from `metadata`.

    Raises:
        ValueError: If there is no such type of answers, or what it needs is not in `metadata`.

    >>> Problem(id="1", problem="Compute 17+25.", answer="42").answer
    '42'
    >>> volume = Problem(id="2", problem="Litres?", answer=NumberAnswer("2.5", tolerance=0.01))
    >>> letter = Problem(id="3", problem="Which is prime? A. 4 B. 5", answer=ChoiceAnswer("B", options=["4", "5"]))
    >>> row = {"id": "3", "problem": "Which is prime? A. 4 B. 5", "answer": "B", "answer_type": "choice"}
    >>> Problem(**row, metadata={"options": ["4", "5"]}).answer == letter.answer
    True
    """

    id: str
    """Names it, with `source`, in logs and files, and so to seeds: each problem of a data set has its own."""
    problem: str
    """The problem statement alone, without instructions."""
    answer: str
    """The ground truth: a `MathAnswer`, `NumberAnswer`, `ChoiceAnswer` or `CodeAnswer`, all of which are texts.

    Empty only where nobody knows it, which is for `predict` alone.
    """
    source: str
    """The data set that it comes from; with `id` it names the problem."""
    metadata: dict[str, Any]
    """Anything of yours, for your reward functions and graders to read."""

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        problem: str,
        answer: str,
        source: str = "",
        metadata: dict[str, Any] | None = None,
        answer_type: AnswerType | None = None,
    ) -> None:
        self.id, self.problem, self.source = id, problem, source
        self.metadata = {} if metadata is None else metadata
        self.answer = answer if isinstance(answer, Answer) else self._typed(answer, answer_type or "math")
        if answer_type not in (None, self.answer_type):
            raise ValueError(
                f"problem {id!r} has a {type(answer).__name__} and the answer_type {answer_type!r}; give one"
            )

    @property
    def answer_type(self) -> AnswerType:
        """The `kind` of the answer: "math", "number", "choice" or "code"."""
        return self.answer.kind if isinstance(self.answer, Answer) else "math"

    def _typed(self, answer: str, answer_type: str) -> Answer:
        if answer_type not in _ANSWERS:
            *most, last = map(repr, _ANSWERS)
            raise ValueError(
                f"problem {self.id!r} has the answer_type {answer_type!r}; expected {', '.join(most)} or {last}"
            )
        kind = _ANSWERS[answer_type]
        found = {name: self.metadata[name] for name in kind.__slots__ if name in self.metadata}
        if missing := {*kind.__slots__} - {*found, "preamble"}:
            raise ValueError(
                f"problem {self.id!r} has an answer of type {answer_type!r} and no {missing.pop()!r} in its metadata; found "
                f"{sorted(self.metadata)}; expected answer={kind.__name__}(...) with it"
            )
        try:
            return kind(answer, **found)
        except ValueError as error:
            raise ValueError(f"problem {self.id!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What a completion has to be: free text up to a mark, a JSON object, and its end (`sampling.structured`)."""

    mark: str
    """What free text ends with, such as "</meta>"."""
    schema: str
    """JSON schema of the object, as JSON."""
    ending: tuple[int, ...]
    """The tokens behind the object; the last one is a stop."""
    stop_token_ids: tuple[int, ...]
    """Any of these ends a completion, so that none stands before its end."""


@dataclass(slots=True, kw_only=True)
class SamplingRequest:
    """One completion to draw. Equal requests give equal tokens, whatever else is in the batch; on a GPU up to rounding."""

    prompt_ids: list[int]
    max_tokens: int
    """Most tokens to generate, the end-of-sequence token included; >= 1."""
    seed: int
    """Of this request alone, in [0, 2**63)."""
    logprobs: bool = True
    """Whether the log-probabilities of the drawn tokens are wanted; a completion without is drawn sooner."""
    structure: Structure | None = None
    """What the completion has to be; None for anything. Tokens that would break it have probability 0."""


@dataclass(slots=True, kw_only=True)
class Completion:
    """What the sampler returned, token by token; never re-tokenised."""

    token_ids: Sequence[int]
    """Generated tokens, the stop token, or those of a stop text, included when there are any."""
    logprobs: Sequence[float]
    """Of each token under the distribution it was drawn from (after structure, temperature and truncation), in nats;
    empty if the request wanted none.
    """
    finish_reason: FinishReason
    """"stop" at any of the stops, "length" where the request's limit cut it short."""


@dataclass(slots=True, kw_only=True, init=False)  # not frozen: Lightning takes no frozen dataclass among predictions
class MetaPrediction:
    """What a rollout says of how the policy does: a meta rollout of its problem's solutions, a solution of itself.

    What is absent or malformed is None.

    Args:
        pass_rate: In 0..pass_rate_scale.
        solution_length: Tokens, >= 1.
        notions: Stripped, without empty ones and case-folded duplicates; never an empty tuple.
        values: Of further quantities, by name.
        failures: Why what is missing is so: one of `functional.parsing.FAILURE_REASONS` by key of the JSON object.
        pass_rate_scale: What the prompt called a certain success.
    """

    values: dict[str, object]
    """What was predicted, by `Quantity.name`; without what was not."""
    failures: dict[str, str]
    pass_rate_scale: int

    def __init__(
        self,
        *,
        pass_rate: int | None = None,
        solution_length: int | None = None,
        notions: tuple[str, ...] | None = None,
        values: Mapping[str, object] | None = None,
        failures: Mapping[str, str] | None = None,
        pass_rate_scale: int = 8,
    ) -> None:
        named = {"pass_rate": pass_rate, "solution_length": solution_length, "notions": notions}
        self.values = {name: value for name, value in {**named, **(values or {})}.items() if value is not None}
        self.failures = dict(failures or {})
        self.pass_rate_scale = pass_rate_scale

    @property
    def pass_rate(self) -> int | None:
        return cast("int | None", self.values.get("pass_rate"))

    @property
    def solution_length(self) -> int | None:
        return cast("int | None", self.values.get("solution_length"))

    @property
    def notions(self) -> tuple[str, ...] | None:
        return cast("tuple[str, ...] | None", self.values.get("notions"))

    @property
    def rate(self) -> float | None:
        """Predicted pass rate in [0, 1]."""
        return None if self.pass_rate is None else self.pass_rate / self.pass_rate_scale


class Elsewhere:
    """Stands for what another process alone has of a rollout: its tokens, log-probabilities or text.

    How many tokens there are is known everywhere; any other use is an error. It is no `Sequence`: Lightning looks into those
    of predictions.

    Args:
        what: "tokens", "log-probabilities" or "text".
        holder: Rank of the process that has it.
        length: Number of tokens; None where nobody may ask.

    >>> len(Elsewhere("tokens", holder=3, length=17))
    17
    """

    __slots__ = ("_holder", "_length", "_what")

    def __init__(self, what: str, holder: int, length: int | None = None) -> None:
        self._what, self._holder, self._length = what, holder, length

    def __len__(self) -> int:
        return self._refuse() if self._length is None else self._length

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError(
            f"process {self._holder} has the {self._what} of this rollout, and this one has not (`Rollout.holder`): they go "
            "only where they are scored, trained or written. Look at rollouts that are here (`Rollout.is_here`), or have "
            "some brought by `fetch` or `collect` of `masa_lightning.distributed`, which all processes call"
        )

    __getitem__ = __iter__ = __contains__ = __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __hash__ = _refuse
    __add__ = __radd__ = __mul__ = __mod__ = __str__ = __format__ = _refuse

    def __repr__(self) -> str:
        return f"<{self._what} in process {self._holder}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying and pickling look for
            raise AttributeError(name)
        return self._refuse()


@dataclass(slots=True, kw_only=True)
class Rollout:
    """One completion of one problem, and all that was found out about it.

    With several processes one of them has tokens and text (`holder`), and all have the rest.
    """

    kind: Kind
    prompt_ids: list[int]
    completion: Completion
    text: str
    """The completion decoded, without special tokens."""
    correct: bool = False
    """Solution rollouts: verified correctness."""
    correct_when_cut: bool | None = None
    """Solution rollouts past `RolloutGroup.foreseen_limit`: whether they would be right if it had cut them."""
    ungraded: bool = False
    """Solution rollouts: no verdict could be had."""
    prediction: MetaPrediction | None = None
    """Meta rollouts: what was parsed. Solution rollouts: the confidence that they state, where they are asked for one."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Parts of the reward by name: "correct", "confidence" and reward functions, or "length", "difficulty", "notion"."""
    reward: float | None = None
    """Total; None keeps the rollout out of the update."""
    advantage: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    """What each part of the reward adds to the advantage, where the tokens of its value get that alone."""
    holder: int | None = None
    """Rank of the process that has tokens, log-probabilities and text; None where all have them."""

    @property
    def length(self) -> int:
        """Generated tokens, end-of-sequence included."""
        return len(self.completion.token_ids)

    @property
    def teaches(self) -> bool:
        """Whether any of its tokens has an advantage."""
        return self.advantage != 0 or any(self.terms.values())

    @property
    def is_here(self) -> bool:
        """Whether this process has its tokens and text."""
        return not isinstance(self.completion.token_ids, Elsewhere)


Gate = Literal["hopeless", "trivial"]


@dataclass(slots=True, kw_only=True)
class Decision:
    """What one control decided on one problem."""

    wanted: bool
    """Whether it wanted to change how the problem is solved."""
    acted: bool = False
    """Whether it did: neither in shadow mode nor audited."""
    weight: float = 1.0
    """Problems that this one stands for in statistics, as far as the control goes: 1 / `share` if it was left alone."""
    share: float = 1.0
    """Chance with which the control leaves such a problem alone; 1 where it does not act."""
    draw: str = "audit"
    """Name of the random number that decided so: controls that share one leave the same problems alone."""
    skips: bool = False
    """Whether it is about solving the problem at all."""
    detail: Gate | int | tuple[str, ...] | None = None
    """What it wanted: a gate, a number of tokens, notions."""

    @property
    def gate(self) -> Gate | None:
        """What a gate takes the problem for."""
        return cast("Gate | None", self.detail)

    @property
    def limit(self) -> int:
        """Tokens that a cutoff wanted its rollouts to have at most."""
        return cast("int", self.detail)


Objective = tuple[float, tuple[str, ...]]
"""A weight, and the parts of a reward (`Rollout.rewards`) that it is of; a reward is the weighted sum of its objectives."""

Comparisons = dict[str, list[tuple[float, ...]]]
"""What was predicted beside what happened, a row a prediction, by `Quantity.metric_name`."""


@dataclass(slots=True, kw_only=True)
class RolloutGroup:
    """All rollouts of one problem in one step."""

    problem: Problem
    solutions: list[Rollout] = field(default_factory=list)
    metas: list[Rollout] = field(default_factory=list)
    decisions: dict[str, Decision] = field(default_factory=dict)
    """By name of the control."""
    gated: bool = False
    """No solution rollouts are drawn."""
    token_limit: int | None = None
    """Most tokens of a solution rollout, below the completion budget."""
    foreseen_limit: int | None = None
    """The limit that a control would have set, and did not."""
    num_solutions: int | None = None
    """Solution rollouts to draw, where it is not the number that all problems get."""
    hint: tuple[str, ...] = ()
    """Notions that are put into the solution prompt."""
    withheld_hint: tuple[str, ...] = ()
    """Notions that would have been, but for chance: what hints are compared with."""
    prompts: dict[Kind, list[int]] = field(default_factory=dict)
    """Token ids of the prompt of each kind that is drawn."""
    votes: list[int | None] | None = None
    """Of `functional.voting.count_votes`, once they are counted: all processes know them."""
    comparisons: Comparisons | None = None
    """Of `Quantities.compare`, once it was asked: all processes know them."""

    @property
    def rollouts(self) -> list[Rollout]:
        """Both kinds, solutions first."""
        return [*self.solutions, *self.metas]

    @property
    def holder(self) -> int | None:
        """Rank of the process that has tokens and texts of all its rollouts, once they are scored; None where all have."""
        holders = {r.holder for r in self.rollouts} or {None}
        if len(holders) > 1:
            raise RuntimeError(
                f"processes {holders} have rollouts of problem {self.problem.id!r}; expected one: score them"
            )
        return next(iter(holders))

    @property
    def correct(self) -> list[bool]:
        return [r.correct for r in self.solutions]

    @property
    def lengths(self) -> list[int]:
        return [r.length for r in self.solutions]

    @property
    def pass_rate(self) -> float | None:
        """Share of right solution rollouts in [0, 1]; None without any."""
        return fmean(self.correct) if self.solutions else None

    @property
    def teaches(self) -> bool:
        """Whether the rewards of its solutions differ, so that the group has a gradient; the overlong penalty aside."""
        return len({round((r.reward or 0.0) - r.rewards.get("overlong", 0.0), 9) for r in self.solutions}) > 1

    @property
    def is_unbiased(self) -> bool:
        """Whether the solutions are what the policy does without controls, so that their pass rate and lengths are unbiased.

        A gated problem has none, and those of a hinted one, or of one with a rollout that its limit cut short, are not.
        """
        cut = self.token_limit is not None and any(r.completion.finish_reason == "length" for r in self.solutions)
        return bool(self.solutions) and not self.hint and not cut

    @property
    def weight(self) -> float:
        """Problems that the statistics of this one stand for, >= 1, if they are unbiased: more than 1 if it was audited.

        It is one over the chance that they are unbiased. Controls that share a draw leave a problem alone together, so that
        the smallest of their shares is that chance.
        """
        return self._product((d.draw, d.weight) for d in self.decisions.values())

    @property
    def greatest_weight(self) -> float:
        """What `weight` may have become, as far as one knew before the draws: its greatest possible value."""
        return self._product((d.draw, 1 / d.share) for d in self.decisions.values())

    @staticmethod
    def _product(weights: Iterable[tuple[str, float]]) -> float:
        greatest: dict[str, float] = {}
        for draw, weight in weights:
            greatest[draw] = max(weight, greatest.get(draw, 1.0))
        return prod(greatest.values())


class Example(NamedTuple):
    """A prompt and what to answer, to clone (`ExpertSFT`); a plain tuple will do, also one without a weight."""

    prompt_ids: Sequence[int]
    target_ids: Sequence[int]
    """The end of sequence included."""
    weight: float = 1.0
    """In the loss, >= 0."""


@dataclass(slots=True, kw_only=True)
class AllowedTokens:
    """Which tokens each of K tokens was drawn from, as bits; many of them share a row."""

    rows: torch.Tensor  # [U, 4 W] uint8: bit i % 8 of byte i // 8 is that of token i; W words of 32 tokens
    index: torch.Tensor  # [K] the row of each

    def to(self, device: torch.device | str) -> AllowedTokens:
        """Moves its tensors to a device."""
        return AllowedTokens(rows=self.rows.to(device), index=self.index.to(device))


@dataclass(slots=True, kw_only=True)
class PackedTokens:
    """B completions behind their prompts, in one row without padding (`models.packing.pack`).

    N tokens go into the model: a prompt that neighbours share comes once, and the last token of a completion, which
    predicts nothing, not at all. K is the number of completion tokens, T the longest completion.
    """

    input_ids: torch.Tensor  # [N]
    position_ids: torch.Tensor  # [N] in the sequence of prompt and completion
    spans: list[tuple[int, int, int, int]]  # [B] start and end of the prompt, start and end of the completion
    targets: torch.Tensor  # [K] the completion tokens, row by row
    mask: torch.Tensor  # [B, T] bool, True at completion tokens
    allowed: AllowedTokens | None = None  # what targets were drawn from; None is all tokens

    def to(self, device: torch.device | str) -> PackedTokens:
        """Moves its tensors to a device."""
        return PackedTokens(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            spans=self.spans,
            targets=self.targets.to(device),
            mask=self.mask.to(device),
            allowed=None if self.allowed is None else self.allowed.to(device),
        )


@dataclass(slots=True, kw_only=True)
class Experience:
    """One micro-batch of B rollouts as tensors; T is the longest completion."""

    tokens: PackedTokens
    sampler_logp: torch.Tensor  # [B, T] as the sampler reported, right-padded
    advantages: torch.Tensor  # [B]
    kind: torch.Tensor  # [B] 0 solution, 1 meta
    old_logp: torch.Tensor | None = None  # [B, T] under the policy before this batch's first update
    ref_logp: torch.Tensor | None = None  # [B, T] under the reference
    entropy: torch.Tensor | None = None  # [B, T] of the policy before this batch's first update, nats
    chosen: torch.Tensor | None = None  # [B, T] bool: the tokens that the surrogate trains; None is all
    token_advantages: torch.Tensor | None = None  # [B, T] where they differ within a rollout; None is `advantages`

    @property
    def by_token(self) -> torch.Tensor:
        """The advantage of each token, [B, T], or [B, 1] where those of a rollout are alike."""
        return self.advantages[:, None] if self.token_advantages is None else self.token_advantages
