"""Options in the shapes that people have, and the right one by letter, label, text or index; one row a case."""

from typing import Any

import numpy as np
import pytest

from masa_lightning.data._cells import UnusableRowError
from masa_lightning.data._choices import counting_of, read_choice
from masa_lightning.data._options import LETTERS, read_options, right_option
from masa_lightning.data._rows import ColumnReader, choose_columns

XY = ["x", "y"]


@pytest.mark.parametrize(
    "options",
    [
        XY,
        ("x", " y "),
        np.array(XY),
        ["A) x", "B) y"],
        ["(A) x", "(B) y"],
        ["a. x", "b. y"],
        {"A": "x", "B": "y"},
        {"B": "y", "A": "x"},
        {"A": "x", "B": "y", "C": None},  # of a table in which other rows have three
        [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}],
        [{"key": "1", "content": "x"}, {"key": "2", "content": "y"}],
        [{"id": "A", "option": "x"}, {"id": "B", "option": "y"}],
        {"text": ["x", "y"], "label": ["A", "B"]},
        {"text": ["x", "y"]},
        "x\ny",
        "A) x\n\nB) y\n",
        '["x", "y"]',
        "['x', 'y']",
        '{"A": "x", "B": "y"}',
        "{'A': 'x', 'B': 'y'}",
    ],
)
def test_shapes(options: Any) -> None:
    assert read_options(options).texts == XY
    assert read_options(options).lines == "A) x\nB) y"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("x", "a text of one line"),
        ("A) x B) y", "a text of one line"),
        (None, "options are a NoneType"),
        (5, "options are a int"),
        (["x"], "1 options, not 2 to 26"),
        ({}, "0 options"),
        ([str(i) for i in range(27)], "27 options"),
        (["x", ""], "an option without text"),
        (["x", None], "an option without text"),
        (["x", ["y"]], "an option is a list"),
        (["\tan x", "y"], "an option has LaTeX whose backslash was read as an escape"),
        (["x", {"picture": b"y"}], "an option is a struct"),
        ([{"label": "A", "text": "x"}, {"label": "A", "text": "y"}], "labels do not tell them apart"),
        ({"text": ["x", "y"], "label": ["A"]}, "labels do not tell them apart"),
        ({"text": ["x", "y"], "label": "AB"}, "labels do not tell them apart"),
    ],
)
def test_no_options(options: Any, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        read_options(options)


def answers(*rows: dict[str, Any]) -> list[str]:
    """The letters of rows of one table, or the reasons of those that have none."""
    full = [{"question": "q"} | row for row in rows]
    counting = counting_of(full)
    found = []
    for row in full:
        try:
            found.append(read_choice(row, counting).answer)
        except UnusableRowError as e:
            found.append(str(e))
    return found


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        *(
            (["red", "green"], answer, "B")
            for answer in ("B", "b", "(B)", "B.", "B)", " B ", "green", "B) green", ["B"])
        ),
        (["red", "green"], "C", None),
        (["red", "green"], "", None),
        (["red", "green"], None, None),
        (["red", "green"], True, None),
        (["red", "green"], ["A", "B"], None),
        (["red", "green"], {"label": "B"}, None),
        (["True", "False"], False, "B"),
        ([{"label": "1", "text": "red"}, {"label": "2", "text": "green"}], 2, "B"),
        ([{"label": "1", "text": "red"}, {"label": "2", "text": "green"}], "2", "B"),
        ([{"label": "1", "text": "red"}, {"label": "2", "text": "green"}], 0, None),
        ({"1": "red", "2": "green"}, "1", "A"),
        (["1", "2", "3", "4"], "1", None),  # a text among texts, or an index
        (["2", "3", "1"], "2", None),
        (["3", "1", "2", "0"], "2", None),
        (["5", "2", "7"], "2", None),
        (["12", "15", "18"], "15", "B"),  # no index
        ([12, 2, 18], "2", None),
        (["2 cm", "1 cm"], "1 cm", "B"),
        ({"A": "2", "B": "3", "C": "1"}, "2", None),
        (["10", "20"], 20, "B"),  # no index of two options
        ([10, 20], 20, "B"),
        ([0.5, 2.5], 2.5, "B"),
        ([1, 2, 3], 2, None),  # a value or an index
        (["B", "A"], "A", None),  # a letter or a text
        (["red", "red", "green"], "A", None),  # B is as right
        (["red", "red", "green"], "C", "C"),
        (["red", "green", "blue"], 1, None),  # from 0 or 1?
        (["red", "green", "blue"], "1", None),
        (["red", "green", "blue"], -1, None),
    ],
)
def test_one_row(options: Any, answer: Any, letter: str | None) -> None:
    (found,) = answers({"options": options, "answer": answer})
    assert found == letter if letter else len(found) > 1, found


@pytest.mark.parametrize(
    ("columns", "indices", "letters"),
    [
        (("options", "answer"), [0, 1, 2], "ABC"),
        (("options", "answer"), [1, 2, 3], "ABC"),
        (("options", "answer"), [1.0, 2.0, 3.0], "ABC"),
        (("options", "answer"), ["1", "2", "3"], "ABC"),
        (("options", "answer"), ["0", "2", "1"], "ACB"),
        (("options", "answer"), [1, 2, 1], None),
        (("options", "answer"), [0, 3, 1], None),
        (("choices", "answer"), [1, 2, 1], "BCB"),  # as MMLU has them
        (("choices", "answer"), [1, 2, 3], "ABC"),
        (("options", "label"), [1, 2, 1], "BCB"),  # a class label
        (("options", "answer"), ["B", 0, 2], "BAC"),
    ],
)
def test_indices_are_counted_as_the_whole_column_is(
    columns: tuple[str, str], indices: list[Any], letters: str | None
) -> None:
    rows = [{columns[0]: ["red", "green", "blue"], columns[1]: index} for index in indices]
    found = answers(*rows)
    assert found == list(letters) if letters else all("do not tell whether" in reason for reason in found)
    # `MathDataModule` reads them the same way.
    table = [{"question": "q"} | row for row in rows]
    chosen = choose_columns([*table[0]], f"question+{columns[0]}", columns[1])
    assert isinstance(chosen, tuple)
    reader = ColumnReader([*table[0]], *chosen)
    reader.look_at(table)
    if letters:
        assert [reader(row).answer for row in table] == list(letters)


@pytest.mark.parametrize(
    ("others", "letter"),
    [
        ([(["a", "b", "c"], "0")], None),  # an index from 0: the text of A, or C
        ([(["a", "b", "c"], "3")], None),
        ([(["17", "9", "8"], "17")], "A"),  # texts: this one is no index
        ([(["red", "green", "blue"], "green")], "A"),
        ([(["red", "green", "blue"], "B")], None),  # letters say nothing about numbers
        ([(["red", "green", "blue"], 0), (["17", "9", "8"], "17")], None),
    ],
)
def test_an_index_as_text_where_the_texts_are_numbers(others: list[tuple[list[str], Any]], letter: str | None) -> None:
    table = [*others, (["2", "3", "1"], "2"), (["5", "0", "1"], "1")]
    *_, first, second = answers(*({"options": options, "answer": answer} for options, answer in table))
    assert first == letter if letter else "the text of one option and the index of another" in first
    assert second == "C" if letter else "the text of one option and the index of another" in second


def test_an_index_where_the_texts_are_numbers_too() -> None:
    assert answers({"choices": ["1", "2", "3", "4"], "answer": 1}) == ["B"]
    values = [{"options": ["2", "9", "17"], "answer": value} for value in (2, 9, 17)]
    assert answers(*values) == ["A", "B", "C"]  # 17 is no index, so none of them is


RACE = {
    "article": "It rained.",
    "question": "What fell?",
    "options": ["snow", "rain"],
    "answer": "B",
    "example_id": "r",
}


def test_the_article_is_a_part_of_the_question() -> None:
    assert read_choice(RACE).problem == "It rained.\n\nWhat fell?\n\nA) snow\nB) rain"
    refusal = choose_columns([*RACE], None, None)
    assert "there is also article and options" in refusal
    assert "'article+question+options'" in refusal
    problem = ColumnReader([*RACE], "article+question+options", "answer")(RACE)
    assert (problem.problem, problem.answer, problem.answer_type) == (read_choice(RACE).problem, "B", "choice")
    assert problem.answer.options == ("snow", "rain")
    assert problem.metadata == {"example_id": "r"}


def test_columns_of_letters_are_options() -> None:
    row = {"question": "q", "A": "x", "B": "y", "answer": "y"}
    assert "there is also A and B" in choose_columns([*row], None, None)
    problem = ColumnReader([*row], "question+A+B", "answer")(row)
    assert (problem.problem, problem.answer) == ("q\n\nA) x\nB) y", "B")


@pytest.mark.parametrize(
    ("names", "answers", "letters"),
    [
        ("opa opb opc", [2, 0], "CA"),  # MedMCQA's
        ("opa opb opc", [2, 1], [None, None]),  # from 0 or from 1?
        ("option1 option2", ["2", "1"], "BA"),  # WinoGrande's
        ("sol1 sol2", [1, 0], "BA"),  # PIQA's
        ("option_a option_b option_c", ["B", "option_c", "x2"], "BCC"),
        ("ending0 ending1 ending2 ending3", [0, 2], "AC"),
    ],
)
def test_columns_of_one_option_each(names: str, answers: list[Any], letters: Any) -> None:
    columns = names.split()
    rows = [{"question": "p", **{c: f"x{i}" for i, c in enumerate(columns)}, "key": answer} for answer in answers]
    assert _letters(rows, "+".join(["question", *columns])) == [*letters]


@pytest.mark.parametrize("column", ["endings", "answers"])  # HellaSwag's and ReClor's
def test_lists_of_options_by_other_names(column: str) -> None:
    rows = [{"question": "p", column: ["x", "y", "z"], "key": answer} for answer in ("2", "0")]
    assert _letters(rows, f"question+{column}") == ["C", "A"]


def test_a_column_of_one_option_is_empty_at_the_end_only() -> None:
    rows = [
        {"question": "p", "option1": "x", "option2": "y", "option3": None, "key": "option1"},
        {"question": "p", "option1": "x", "option2": None, "option3": "z", "key": "3"},
        {"question": "p", "option1": "x", "option2": "y", "option3": None, "key": "option3"},
    ]
    assert _letters(rows, "question+option1+option2+option3") == ["A", None, None]


def _letters(rows: list[dict[str, Any]], problem: str) -> list[str | None]:
    reader = ColumnReader([*rows[0]], problem, "key")
    reader.look_at(rows)
    found: list[str | None] = []
    for row in rows:
        try:
            found.append(str(reader(row).answer))
        except UnusableRowError:
            found.append(None)
    return found


def test_questions_with_options_to_predict_need_no_answer() -> None:
    row = {"question": "q", "options": XY}
    problem = ColumnReader([*row], "question+options", None, answered=False)(row)
    assert (problem.problem, problem.answer, problem.answer_type) == ("q\n\nA) x\nB) y", "", "choice")
    with pytest.raises(UnusableRowError, match="no answer"):
        ColumnReader([*row], "question+options", "answer")(row)


def test_an_answer_of_several_columns_is_no_option() -> None:
    table = [{"question": "q", "options": XY, "a": 0, "b": None}, {"question": "q", "options": XY, "a": 0, "b": 1}]
    reader = ColumnReader([*table[0]], "question+options", "a+b")
    reader.look_at(table)
    for row in table:
        with pytest.raises(UnusableRowError):
            reader(row)


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        ("1. x\n2. y", "1", "A"),
        (["1) x", "2) y"], 2, "B"),
        (["0. x", "1. y"], "1", "B"),
        ("B) x\nA) y", "A", "B"),
        (["B) x", "A) y"], "B", "A"),
        (["2. x", "1. y"], 1, "B"),
        (["1.5", "2.5"], "2.5", "B"),
    ],
)
def test_labels_in_the_texts_of_options_are_their_labels(options: Any, answer: Any, letter: str) -> None:
    read = read_options(options)
    assert read.texts == XY or (letter == "B" and read.texts == ["1.5", "2.5"])
    assert LETTERS[right_option(read, answer, "from 0")] == letter


def test_letters_of_options_that_begin_with_others() -> None:
    read = read_options(["C. elegans", "E. coli"])
    assert right_option(read, "E. coli", "unknown") == 1
    with pytest.raises(UnusableRowError, match="the texts of the options begin with others"):
        right_option(read, "A", "unknown")


@pytest.mark.parametrize("answer", ["a", "b", "(a)", "A", "B"])
def test_a_letter_that_is_the_text_of_another_option_is_unusable(answer: str) -> None:
    with pytest.raises(UnusableRowError, match="the letter of one option and the text of another"):
        right_option(read_options(["B", "A"]), answer, "from 0")
