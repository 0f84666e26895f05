import copy

import pytest
from programs import block, sandboxed

from masa_lightning.grading.answer_grader import AnswerGrader
from masa_lightning.grading.code_grader import CodeGrader
from masa_lightning.grading.math_grader import MathGrader
from masa_lightning.protocols import Grader
from masa_lightning.types import Problem


def problem(answer_type, answer, **metadata):
    return Problem(id=answer_type, problem="?", answer=answer, answer_type=answer_type, metadata=metadata)


CHOICE = problem("choice", "B", options=["red", "green"])
NUMBER = problem("number", "1200", tolerance=0.05)
MATH = problem("math", "5")
CODE = problem("code", "assert f(-1) == 1")


@pytest.fixture
def grader():
    with_workers = AnswerGrader()
    yield with_workers
    with_workers.close()


@sandboxed
@pytest.mark.filterwarnings("ignore:problem .code. has no verdicts")
def test_each_answer_by_its_type_and_in_order(grader):
    assert isinstance(grader, Grader)
    pairs = [
        (CODE, block("f = abs"), True),
        (CHOICE, r"\boxed{B}", True),
        (MATH, r"\boxed{5.0}", True),
        (NUMBER, r"\boxed{1.21 \times 10^3 \text{ J}}", True),
        (CODE, block("f = int"), False),
        (CHOICE, r"\boxed{A}", False),
        (MATH, r"\boxed{6}", False),
        (NUMBER, r"\boxed{1300}", False),
        (CODE, r"\boxed{B}", False),
        (CHOICE, block("f = abs"), False),
        (problem("code", "assert True"), block("f = abs"), None),
        (problem("math", "B"), r"\boxed{B}", True),
    ]
    told = []
    verdicts = grader.grade([p for p, _, _ in pairs], [c for _, c, _ in pairs], lambda *args: told.append(args))
    assert verdicts == [verdict for _, _, verdict in pairs]
    assert told[-1] == (12, 12) and {total for _, total in told} == {12}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    grader.close()
    assert grader.grade([NUMBER], [r"\boxed{1200}"]) == [True]


def test_graders_that_are_not_needed_are_not_asked(grader, monkeypatch):
    for kind in (MathGrader, CodeGrader):
        monkeypatch.setattr(kind, "grade", lambda *args: pytest.fail("asked"))
    assert grader.grade([CHOICE, NUMBER], [r"\boxed{B}", r"\boxed{1}"]) == [True, False]
    assert grader.grade([], []) == []


def test_graders_are_those_given():
    math, code = MathGrader(timeout=2.0), CodeGrader(timeout=3.0)
    grader = AnswerGrader(math=math, code=code)
    assert grader.math is math and grader.code is code
    assert copy.deepcopy(grader).code.timeout == 3.0


def test_what_cannot_be_graded_is_named(grader):
    with pytest.raises(ValueError, match="got 1 problems and 0 completions"):
        grader.grade([MATH], [])
    with pytest.raises(
        ValueError, match="problem 'essay' has the answer_type 'essay'; expected 'math', 'number', 'choice'"
    ):
        problem("essay", "5")
    with pytest.raises(ValueError, match=r"'choice' and no 'options' in its metadata; found \['level'\]"):
        problem("choice", "A", level=1)
    with pytest.raises(
        ValueError, match="problem 'choice': the answer is 'C' and there are 2 options; expected one of A, B"
    ):
        problem("choice", "C", options=["x", "y"])
    with pytest.raises(ValueError, match="'number' and no 'tolerance' in its metadata"):
        problem("number", "1")


def test_programs_without_a_safe_sandbox_are_an_error(grader, monkeypatch):
    def unsafe():
        raise RuntimeError("no user namespaces")

    monkeypatch.setattr("masa_lightning.grading.code_grader.check_sandbox", unsafe)
    with pytest.raises(RuntimeError, match="no user namespaces"):
        grader.grade([CHOICE, CODE], [r"\boxed{B}", block("f = abs")])
