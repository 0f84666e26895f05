"""The table and the JSON."""

from __future__ import annotations

import json
import math

import pytest

from masa_lightning.doctor.check import Line
from masa_lightning.doctor.report import as_json, closing, head, row

LINES = [
    Line("packages", "ok", "torch 2.13", 0.1),
    Line("devices", "note", "a | b\nc", 0.2, remedy="look", facts={"gpus": []}),
    Line("engine, 32-true: start", "failed", "no weights " * 40, 3.0, remedy="give some"),
    Line("engine, 32-true: parity", "not run", "after engine, 32-true: start"),
]


def test_the_table_is_markdown_that_lines_up() -> None:
    table = [*head(23).splitlines(), *(row(line, 23) for line in LINES)]
    assert {line.count("|") for line in table} == {5}
    assert len({tuple(i for i, c in enumerate(line) if c == "|")[:4] for line in table}) == 1
    assert table[3].endswith("| a / b c |")
    assert table[4].endswith(" ... |")
    assert max(map(len, table)) < 460


def test_what_failed_is_told_whole_with_its_remedy() -> None:
    assert closing(LINES).splitlines() == [
        "* **devices**: look",
        f"* **engine, 32-true: start** failed: {('no weights ' * 40).strip()}",
        "  Remedy: give some",
        "",
        "1 of 4 lines failed.",
    ]
    assert closing(LINES[:1]) == "This machine is ready."
    there = [LINES[0], Line("training, DDP", "not run", "needs two GPUs, found 0")]
    assert closing(there) == "This machine is ready for what was run; 1 of 2 lines were not."
    assert closing(LINES[:1], interrupted=True) == "Interrupted: 0 of 1 lines failed so far."


def test_what_is_wrong_with_several_is_said_once() -> None:
    lines = [Line(name, "failed", "no room", remedy=f"look at {name}") for name in ("a", "b")]
    assert closing(lines).splitlines()[:2] == ["* **a**, **b** failed: no room", "  Remedy: look at a; look at b"]


def test_json_has_all_fields() -> None:
    told = json.loads(as_json(LINES))
    assert (told["ready"], len(told["lines"])) == (False, 4)
    assert {*told} == {"masa_lightning", "ready", "interrupted", "lines"}
    assert all({*line} == {"name", "state", "found", "seconds", "remedy", "facts"} for line in told["lines"])
    assert json.loads(as_json(LINES[:2]))["ready"] is True
    told = json.loads(as_json(LINES[:2], interrupted=True))
    assert (told["ready"], told["interrupted"]) == (False, True)


def test_json_has_no_numbers_that_json_has_not() -> None:
    line = Line(
        "engine", "failed", "apart", facts={"difference": math.nan, "gpus": [{"free_gib": math.inf}], "limit": 0.1}
    )
    [told] = json.loads(as_json([line]), parse_constant=lambda word: pytest.fail(word))["lines"]
    assert told["facts"] == {"difference": None, "gpus": [{"free_gib": None}], "limit": 0.1}
