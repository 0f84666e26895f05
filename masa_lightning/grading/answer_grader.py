"""Grading by the class of a problem's answer."""

from __future__ import annotations

from collections.abc import Sequence

from masa_lightning.functional.choices import grade_choice, grade_number
from masa_lightning.grading.code_grader import CodeGrader
from masa_lightning.grading.math_grader import MathGrader
from masa_lightning.protocols import Grader, ProgressFn
from masa_lightning.types import ChoiceAnswer, CodeAnswer, NumberAnswer, Problem


class AnswerGrader:
    """Grades each completion by the class of its problem's answer: mathematics, numbers, choices and programs, mixed.

    Numbers and choices are decided in this process, mathematics by `math` and programs by `code`.

    Args:
        math: Grades a `MathAnswer`; `MathGrader()` by default.
        code: Grades a `CodeAnswer`; `CodeGrader()` by default.
    """

    def __init__(self, math: MathGrader | None = None, code: CodeGrader | None = None) -> None:
        self.math = math if math is not None else MathGrader()
        self.code = code if code is not None else CodeGrader()

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion against the answer of the problem at the same index.

        Args:
            problems: [N] their answers are used, no more.
            completions: [N] decoded completions.
            on_progress: Told (done, total) as verdicts come in.

        Returns:
            [N] verdicts; None where no verdict could be had.

        Raises:
            ValueError: If there is not one problem a completion.
            RuntimeError: If programs are to be run and this machine has no safe sandbox, or no worker can be started.
        """
        if len(problems) != len(completions):
            raise ValueError(f"got {len(problems)} problems and {len(completions)} completions; expected one each")
        verdicts: list[bool | None] = [None] * len(problems)
        left: dict[str, list[int]] = {"math": [], "code": []}
        for index, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            match problem.answer:
                case ChoiceAnswer() as answer:
                    verdicts[index] = grade_choice(completion, answer, answer.options)
                case NumberAnswer() as answer:
                    verdicts[index] = grade_number(completion, answer, answer.tolerance)
                case CodeAnswer():
                    left["code"].append(index)
                case _:
                    left["math"].append(index)
        done = len(problems) - sum(map(len, left.values()))
        if on_progress is not None and done:
            on_progress(done, len(problems))
        graders: dict[str, Grader] = {"math": self.math, "code": self.code}
        for kind, indices in left.items():
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


def _shifted(on_progress: ProgressFn | None, before: int, total: int) -> ProgressFn | None:
    """Tells of a part as of the whole."""
    return None if on_progress is None else lambda done, _: on_progress(before + done, total)
