"""Grading by the type of a problem's answer."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from masa_lightning.functional.choices import grade_choice, grade_number
from masa_lightning.grading.code_grader import CodeGrader
from masa_lightning.grading.math_grader import MathGrader
from masa_lightning.protocols import Grader, ProgressFn
from masa_lightning.types import Problem


class AnswerGrader:
    """Grades each completion by its problem's `answer_type`: mathematics, numbers, choices and programs in any mixture.

    Numbers and choices are decided in this process, mathematics by `math` and programs by `code`.

    Args:
        math: Grades answers of type "math"; `MathGrader()` by default.
        code: Grades answers of type "code"; `CodeGrader()` by default.
    """

    def __init__(self, math: MathGrader | None = None, code: CodeGrader | None = None) -> None:
        self.math = math if math is not None else MathGrader()
        self.code = code if code is not None else CodeGrader()

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion against the answer of the problem at the same place.

        Args:
            problems: [N] their answers, types and metadata are used.
            completions: [N] decoded completions.
            on_progress: Told (done, total) as verdicts come in.

        Returns:
            [N] verdicts; None where no verdict could be had.

        Raises:
            ValueError: If there is not one problem a completion, an answer's type is unknown, what its type needs is not
                in a problem's metadata, or a choice's answer is the letter of no option.
            RuntimeError: If programs are to be run and this machine has no safe sandbox, or no worker can be started.
        """
        if len(problems) != len(completions):
            raise ValueError(f"got {len(problems)} problems and {len(completions)} completions; expected one each")
        verdicts: list[bool | None] = [None] * len(problems)
        places: dict[str, list[int]] = {"math": [], "code": []}
        for index, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            match problem.answer_type:
                case "choice":
                    verdicts[index] = grade_choice(completion, problem.answer, _options(problem))
                case "number":
                    verdicts[index] = grade_number(completion, problem.answer, _needed(problem, "tolerance"))
                case "math" | "code":
                    places[problem.answer_type].append(index)
                case _:
                    raise ValueError(
                        f"problem {problem.id!r} has the answer_type {problem.answer_type!r}; expected 'math', 'number', "
                        "'choice' or 'code'"
                    )
        done = len(problems) - sum(map(len, places.values()))
        if on_progress is not None and done:
            on_progress(done, len(problems))
        graders: dict[str, Grader] = {"math": self.math, "code": self.code}
        for kind, indices in places.items():
            if indices:
                part = graders[kind].grade(
                    [problems[index] for index in indices],
                    [completions[index] for index in indices],
                    _shifted(on_progress, done, len(problems)),
                )
                for index, verdict in zip(indices, part, strict=True):
                    verdicts[index] = verdict
                done += len(indices)
        return verdicts

    def close(self) -> None:
        """Closes both graders; `grade` may be called again."""
        self.math.close()
        self.code.close()


def _needed(problem: Problem, name: str) -> Any:
    if name not in problem.metadata:
        raise ValueError(
            f"problem {problem.id!r} has an answer of type {problem.answer_type!r} and no {name!r} in its metadata; found "
            f"{sorted(problem.metadata)}; the datamodule has to put it there"
        )
    return problem.metadata[name]


def _options(problem: Problem) -> Any:
    options = _needed(problem, "options")
    letters = ascii_uppercase[: len(options)]
    if problem.answer and problem.answer.strip().strip("().").upper() not in set(letters):
        raise ValueError(
            f"problem {problem.id!r} has the answer {problem.answer!r} and {len(options)} options; expected one of "
            f"{', '.join(letters)}: the letter of the right option"
        )
    return options


def _shifted(on_progress: ProgressFn | None, before: int, total: int) -> ProgressFn | None:
    """Tells of a part as of the whole."""
    return None if on_progress is None else lambda done, _: on_progress(before + done, total)
