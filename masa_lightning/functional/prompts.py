"""Problem text -> chat messages for the two kinds of rollouts. Templates are data: a user can replace all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from masa_lightning.types import AnswerType

_PLACEHOLDERS: Final = ("problem", "pass_rate_scale", "max_completion_length", "notions", "quantities", "json")
_PLACEHOLDER: Final = re.compile(r"\{(" + "|".join(_PLACEHOLDERS) + r")\}")

_SOLUTION: Final = """\
{problem}

Please reason step by step, and put your final answer within \\boxed{}."""

_CHOICE: Final = """\
{problem}

Please reason step by step, and put the letter of the right option within \\boxed{}."""

_CODE: Final = """\
{problem}

Please reason step by step, and end with the whole program in one block of Python code, from ```python to ```."""

_META: Final = """\
You will be given a problem. Do not solve it yet: predict how your own attempt at solving it will go.

First think step by step between <meta> and </meta>, about each of these in turn:
{quantities}

Then, after </meta>, give ONE JSON object and nothing else:
{json}

Problem:
{problem}"""

_HINT: Final = """\
{problem}

Hint: these notions may help: {notions}."""


@dataclass(frozen=True, slots=True)
class Question:
    """How one quantity is asked for in the meta prompt.

    Args:
        key: Of the JSON object.
        text: What it is, for its line: without a full stop, `{pass_rate_scale}` and `{max_completion_length}` are filled in.
        example: What stands for its value in the JSON object.
    """

    key: str
    text: str
    example: str

    def filled(self, **numbers: int) -> Question:
        """Puts numbers in place of placeholders."""
        return Question(
            self.key, _fill(self.text, {name: str(number) for name, number in numbers.items()}), self.example
        )


NOTIONS: Final = Question(
    "math_notion",
    "the mathematical notions (concepts, theorems, techniques) that a correct solution will use. "
    "Do not repeat words of the problem statement",
    '["first notion", "second notion"]',
)
PASS_RATE: Final = Question(
    "pass_rate",
    "out of {pass_rate_scale} independent attempts of yours, how many will end with the correct answer; "
    "an integer from 0 to {pass_rate_scale}",
    "<integer>",
)
SOLUTION_LENGTH: Final = Question(
    "solution_length",
    "how many tokens a correct solution of yours will take; an integer from 1 to {max_completion_length}",
    "<integer>",
)


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def _asking(questions: Sequence[Question]) -> dict[str, str]:
    lines = [f"{number}. {q.key}: {q.text}." for number, q in enumerate(questions, start=1)]
    members = ", ".join(f'"{q.key}": {q.example}' for q in questions)
    return {"quantities": "\n".join(lines), "json": f"{{{members}}}"}


_PAPER_META: Final = _fill(_META, _asking([NOTIONS, PASS_RATE, SOLUTION_LENGTH]))


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads default instances with vars()
class PromptTemplates:
    r"""The instructions around a problem.

    Only the known placeholders are filled in, in one pass: other braces, such as those of JSON or LaTeX, stay as they
    are, and a problem that happens to contain a placeholder is not changed.

    Args:
        solution: Asks for a solution with its answer in `\boxed{}`; `{problem}` is filled in.
        choice: Takes the place of `solution` where the answer is the letter of an option.
        code: Takes the place of `solution` where the answer is a program.
        meta: Asks for `<meta>` reasoning and the JSON object; `{problem}`, `{pass_rate_scale}` and
            `{max_completion_length}` are filled in, and `{quantities}` and `{json}` with what is predicted: a numbered line
            each, and the object to give. The default asks for the paper's three, and for others where these are given.
        hint: Takes the place of the problem in these where notions are given as a hint; `{problem}` and
            `{notions}` are filled in.
        system: Goes before both as it is, if given; None for no system message.

    Raises:
        ValueError: If a template has no `{problem}`, or `hint` no `{notions}`.
    """

    solution: str = _SOLUTION
    choice: str = _CHOICE
    code: str = _CODE
    meta: str = _PAPER_META
    hint: str = _HINT
    system: str | None = None

    def __post_init__(self) -> None:
        for name in ("solution", "choice", "code", "meta", "hint"):
            template = getattr(self, name)
            if "{problem}" not in template:
                raise ValueError(
                    f"the {name} template has no {{problem}} placeholder, so every problem would get the same prompt; "
                    f"add it to the template, which starts with {template[:60]!r}"
                )
        if "{notions}" not in self.hint:
            raise ValueError(f"the hint template has no {{notions}} placeholder; add it to {self.hint[:60]!r}")


def solution_messages(
    templates: PromptTemplates, problem_text: str, notions: Sequence[str] = (), answer_type: AnswerType = "math"
) -> list[dict[str, str]]:
    """Builds the chat of a solution rollout.

    Args:
        templates: The instructions.
        problem_text: The problem statement alone.
        notions: A hint; none for no hint.
        answer_type: Of the problem; says which template is used.

    >>> solution_messages(PromptTemplates(solution="Solve: {problem}"), "1+1=?")
    [{'role': 'user', 'content': 'Solve: 1+1=?'}]
    >>> solution_messages(PromptTemplates(solution="Solve: {problem}", hint="{problem} ({notions})"), "1+1=?", ["sums"])
    [{'role': 'user', 'content': 'Solve: 1+1=? (sums)'}]
    """
    if notions:
        problem_text = _fill(templates.hint, {"problem": problem_text, "notions": ", ".join(notions)})
    by_type = {"choice": templates.choice, "code": templates.code}
    return _messages(templates.system, by_type.get(answer_type, templates.solution), {"problem": problem_text})


def meta_messages(
    templates: PromptTemplates,
    problem_text: str,
    *,
    pass_rate_scale: int,
    max_completion_length: int,
    questions: Sequence[Question] = (NOTIONS, PASS_RATE, SOLUTION_LENGTH),
) -> list[dict[str, str]]:
    """Builds the chat of a meta rollout.

    Args:
        templates: The instructions.
        problem_text: The problem statement alone.
        pass_rate_scale: The same as the parser's and the reward's.
        max_completion_length: Completion budget of a solution rollout, in tokens.
        questions: What is asked for, by a template that is the default or has `{quantities}` or `{json}`.

    >>> meta_messages(
    ...     PromptTemplates(meta='{problem} -> {"pass_rate": 0..{pass_rate_scale}}'),
    ...     "1+1=?",
    ...     pass_rate_scale=8,
    ...     max_completion_length=64,
    ... )
    [{'role': 'user', 'content': '1+1=? -> {"pass_rate": 0..8}'}]
    """
    numbers = {"pass_rate_scale": str(pass_rate_scale), "max_completion_length": str(max_completion_length)}
    asking = {name: _fill(text, numbers) for name, text in _asking(questions).items()}
    template = _META if templates.meta == _PAPER_META else templates.meta
    return _messages(templates.system, template, {"problem": problem_text, **numbers, **asking})


def check_asked(templates: PromptTemplates, questions: Sequence[Question]) -> None:
    """Refuses a meta template that does not ask for what is predicted.

    The paper's three may be left unsaid, as the template of a model that was trained to predict them does.

    Raises:
        ValueError: If a question's key is not in it.
    """
    text = meta_messages(templates, "", pass_rate_scale=1, max_completion_length=1, questions=questions)[-1]["content"]
    known = {NOTIONS.key, PASS_RATE.key, SOLUTION_LENGTH.key}
    if missing := [q.key for q in questions if q.key not in text and q.key not in known]:
        raise ValueError(
            f"the meta template, which starts with {templates.meta[:60]!r}, does not ask for {', '.join(missing)}; expected "
            "a template that names it, or has {quantities} and {json} where all of them are asked for. Set it as "
            "prompts.meta: without that it is the one that the model was trained with, if it was"
        )


def _messages(system: str | None, template: str, values: Mapping[str, str]) -> list[dict[str, str]]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": _fill(template, values)}]
