"""Rows of any shape: what no reader can use is left out with a reason, and never ends a run."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hub_rows import HUB, LOGIC, gpqa
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.data._benchmarks import BENCHMARKS
from masa_lightning.data._cells import UnusableRowError
from masa_lightning.data._choices import counting_of
from masa_lightning.data._rows import ColumnReader, choose_columns, read_rows
from masa_lightning.types import Problem

OF_EVERY_TYPE = [
    *(None, True, 0, 3, -1, 10**400, 0.5, 1e300, float("nan"), float("-inf"), Decimal("1e9999999"), Decimal("sNaN")),
    *("", " ", "A", "1", "x" * 50, "\ud800", "[", '["', '[{"role"', "['a' 'b']", '{"A": "x", "B": "y"}', "#### "),
    *([], [None], ["A"], [["A"]], [1, "x"], [{}], [{"role": "user"}], [{"role": None, "content": []}], [[[[]]]]),
    *(
        {},
        {"target": None},
        {"A": "x", "B": None},
        {"text": "x", "label": ["A"]},
        {"text": ["x", "y"], "label": [1, {}]},
    ),
    *(b"x", datetime(2020, 1, 1), np.float32(0.1), np.array(["x", "y"]), np.array([[1.5]]), ("a", "b"), {"a", "b"}),
]
CELLS = st.sampled_from(OF_EVERY_TYPE) | st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text()
    | st.sampled_from(OF_EVERY_TYPE),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "A", "B"]), parts),
    max_leaves=6,
)
GOOD = {name: row for name, (row, _) in HUB.items()} | {"gpqa_diamond": gpqa(0)}
# Those of programs have their own tests.
NAMES = [name for name, benchmark in BENCHMARKS.items() if not benchmark.runs_code]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_cells_of_any_type(name: str, data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([GOOD[name], LOGIC, {"prompt": "x", "reward_model": {"ground_truth": "1"}}]))
    columns = st.sampled_from([*base, "answer", "context", "choices", "question"])
    row: dict[Any, Any] = base | data.draw(st.dictionaries(columns, CELLS, max_size=3))
    for cells in (row, base):  # the second looks at columns as a table would have them, with one good row
        counting_of([cells])
    check(BENCHMARKS[name].read, row)
    for part in ("question", "context+question+options", "prompt", "question+choices"):
        chosen = choose_columns([*row], part, None, answered=False)
        if not isinstance(chosen, str):
            reader = ColumnReader([*row], *chosen)
            reader.look_at([row, base])
            check(reader, row)


def test_another_column_does_not_take_the_place_of_the_options() -> None:
    row = {"question": "Which?", "choices": '{"A": "x", "B": "y"}', "options": "[", "answer": "B"}
    chosen = choose_columns([*row], "question+choices", None)
    assert not isinstance(chosen, str)
    reader = ColumnReader([*row], *chosen)
    reader.look_at([row])
    assert reader(row).answer.options == ("x", "y")


def test_roles_of_any_type_are_no_users() -> None:
    with pytest.raises(UnusableRowError, match="chat without a user message"):
        BENCHMARKS["math500"].read({"problem": [{"role": np.array(["user", "x"])}, {"role": None}], "answer": "1"})


@pytest.mark.parametrize("name", NAMES)
def test_each_cell_of_each_type(name: str) -> None:
    rows = [GOOD[name] | {column: cell} for column in GOOD[name] for cell in OF_EVERY_TYPE]
    table = read_rows([*rows, *OF_EVERY_TYPE], BENCHMARKS[name].read, name)
    assert table.rows == len(rows) + len(OF_EVERY_TYPE)
    assert len(table.problems) + len(table.unusable) == table.rows
    assert all(reason for _, reason in table.unusable)


def check(read: Any, row: dict[Any, Any]) -> None:
    try:
        problem = read(row)
    except UnusableRowError as e:
        assert str(e)
        return
    assert isinstance(problem, Problem)
    assert problem.problem.strip()
    assert problem.answer.strip()
    problem.problem.encode(), problem.answer.encode()
    if problem.answer_type == "choice":
        assert f"{problem.answer}) {problem.answer.options[ord(problem.answer) - ord('A')]}" in problem.problem
