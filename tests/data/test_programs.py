"""Rows whose answer is a program, from files, with the tests looked at as they are loaded."""

import base64
import json
import warnings

import pytest
from programs import block, sandboxed

from masa_lightning.data.benchmarks import BenchmarkDataModule
from masa_lightning.data.math import MathDataModule
from masa_lightning.grading.code_grader import CodeGrader

pytest.importorskip("datasets")

IO = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
APPS = {
    "problem_id": 7,
    "question": "Add two numbers.",
    "solutions": "[]",
    "input_output": json.dumps(IO),
    "starter_code": "",
}
NAMED = APPS | {"input_output": json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}), "problem_id": 8}
LCB = {
    "question_id": "abc", "question_content": "Add two numbers.", "starter_code": "", "metadata": "{}",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "3 4\n", "output": "7", "testtype": "stdin"}]),
}  # fmt: skip
LEET = LCB | {
    "starter_code": "class Solution:\n    def add(self, a, b):", "metadata": json.dumps({"func_name": "add"}),
    "public_test_cases": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]), "private_test_cases": "",
}  # fmt: skip
OWN = {"id": 1, "problem": "Add two numbers.", **IO}
MBPP = {"task_id": 2, "text": "Add.", "code": "", "test_list": ["assert add(1, 2) == 3"]}
HUMANEVAL = {
    "task_id": 3, "prompt": "def add(a, b):\n    pass\n", "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}  # fmt: skip

SCRIPT = "a, b = map(int, input().split())\nprint(a {} b)"
FUNCTION = "def add(a, b): return a {} b"
METHOD = "class Solution:\n    def add(self, a, b): return a {} b"


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@sandboxed
@pytest.mark.parametrize(
    ("row", "program"),
    [
        (APPS, SCRIPT),
        (NAMED, FUNCTION),
        (NAMED, METHOD),
        (LCB, SCRIPT),
        (LEET, METHOD),
        (OWN, SCRIPT),
        (MBPP, FUNCTION),
        (HUMANEVAL, FUNCTION),
    ],
    ids=["apps", "function", "method", "lcb", "leet", "own", "mbpp", "humaneval"],
)
def test_programs_to_train_and_to_test_on(row, program, tmp_path):
    file = write(tmp_path / "x.jsonl", [row])
    data = MathDataModule(train=file, test=file, validation_size=0, batch_size=1)
    data.setup("fit")
    data.setup("test")
    (problem,) = data.splits["train"]
    assert data.splits["test"][0].answer == problem.answer and problem.answer_type == "code"
    verdicts = CodeGrader().grade([problem] * 2, [block(program.format(sign)) for sign in "+-"])
    assert verdicts == [True, False]


def test_the_problem_says_what_the_program_is_to_do(tmp_path):
    for row, words in (
        (APPS, "reads standard input"),
        (NAMED, "function `add`"),
        (LEET, "Start with:\n\n```python\nclass"),
    ):
        pytest.importorskip("datasets")
        from masa_lightning.data._programs import read_cases_row

        problem = read_cases_row(row)
        assert problem.problem.startswith("Add two numbers.\n\n") and words in problem.problem
    assert read_cases_row(LCB).id == "abc" and json.loads(read_cases_row(LCB).answer)["outputs"] == ["3", "7"]


PACKED = base64.b64encode(b"\x80\x04").decode()


@sandboxed
@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (MBPP, MBPP | {"test_list": ["add(1, 2) == 3"]}, "its tests assert nothing"),
        (MBPP, MBPP | {"test_list": ["def test_add(): add(1, 2)"]}, "its tests assert nothing"),
        (MBPP, MBPP | {"test_list": ["assert ("]}, "its tests are no Python"),
        (HUMANEVAL, HUMANEVAL | {"test": "def check(candidate): pass"}, "its tests assert nothing"),
        (APPS, APPS | {"input_output": ""}, "input_output is no JSON"),
        (APPS, APPS | {"input_output": json.dumps({"inputs": ["1"], "outputs": ["", ""]})}, "1 inputs and 2 outputs"),
        (APPS, APPS | {"input_output": json.dumps({"inputs": ["1"], "outputs": [" \n"]})}, "all its outputs are empty"),
        (LCB, LCB | {"private_test_cases": PACKED}, "private_test_cases is no JSON"),
        (LEET, LEET | {"metadata": "{}"}, "a functional test without"),
    ],
)
def test_rows_without_tests_are_left_out_with_the_reason(good, bad, reason, tmp_path):
    file = write(tmp_path / "x.jsonl", [good, bad])
    data = MathDataModule(test=file, max_unusable_share=0.5)
    with pytest.warns(UserWarning, match=f"1 of 2 rows cannot be used: row 1: .*{reason}"):
        data.setup("test")
    assert len(data.splits["test"]) == 1 and data.unusable == 1


@sandboxed
def test_benchmarks_leave_them_out_too(tmp_path):
    rows = [MBPP, MBPP | {"test_list": ["add(1, 2) == 3"], "task_id": 5}, MBPP | {"task_id": 6}]
    data = BenchmarkDataModule(["mbpp"], {"mbpp": write(tmp_path / "m.jsonl", rows)}, max_unusable_share=0.5)
    with pytest.warns(UserWarning, match="row 1: its tests assert nothing"):
        data.setup("test")
    assert [problem.id for problem in data.splits["test"]] == ["2", "6"]


def test_without_a_sandbox_programs_are_not_loaded(tmp_path, monkeypatch):
    def unsafe():
        raise RuntimeError("no sandbox here")

    monkeypatch.setattr("masa_lightning.grading.sandbox.check.check_sandbox", unsafe)
    with pytest.raises(RuntimeError, match="no sandbox here"), warnings.catch_warnings():
        MathDataModule(test=write(tmp_path / "x.jsonl", [APPS])).setup("test")
