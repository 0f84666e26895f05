"""JSON files: every value as it is written, in all shapes of files, and errors that name the line."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from masa_lightning.data._json import JsonRows, is_json, read_json

ROWS = [{"problem": "q", "answer": 1}, {"problem": "r", "answer": "x"}]
LINES = "\n".join(map(json.dumps, ROWS))


def rows_of(path: Path, text: str | bytes) -> list[Any]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_json(path))


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        f"\n{LINES}\n \n",
        LINES.replace("\n", "\r\n"),
        "\ufeff" + LINES,
        gzip.compress(LINES.encode(), mtime=0),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n" + json.dumps(ROWS),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        json.dumps({"problem": ["q", "r"], "answer": [1, "x"]}),  # as pandas writes columns
        json.dumps({"problem": {"0": "q", "1": "r"}, "answer": {"0": 1, "1": "x"}}, indent=1),
    ],
)
def test_shapes_of_files(tmp_path: Path, text: str | bytes) -> None:
    assert rows_of(tmp_path / "a.json", text) == ROWS


@pytest.mark.parametrize(
    "row", [{"answer": ["a"]}, {"answer": {"0": "a"}}, {"a": [1, 2], "b": [1]}, {"a": [1], "b": [2]}]
)
def test_a_row_alone_is_a_row(tmp_path: Path, row: Any) -> None:
    for indent in (None, 1):
        assert rows_of(tmp_path / "a.json", json.dumps(row, indent=indent)) == [row]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12345678901234567890123", 12345678901234567890123),
        ("9007199254740993", 9007199254740993),
        ("18446744073709551616", 2**64),
        ("0.1234567890123456789", Decimal("0.1234567890123456789")),
        ("1.50", Decimal("1.50")),
        ("1e400", Decimal("1e400")),
        ("6.02e23", Decimal("6.02e23")),
        ("1e-5", Decimal("0.00001")),
        ("0.30000000000000004", 0.1 + 0.2),  # a float, with all the digits of one
        ("1.2345678901234568e+22", 1.2345678901234568e22),
        ("9007199254740993.0", Decimal("9007199254740993")),  # which no float is
        ("-0", 0),
        ("true", True),
        ('"2020-01-01"', "2020-01-01"),
        ('"1e-05"', "1e-05"),
        ("1" * 5000, Decimal("1" * 5000)),
    ],
)
def test_values_are_as_written(tmp_path: Path, written: str, value: Any) -> None:
    for text in (f'{{"a": {written}}}', f'{{"a": {written}}}\n{{"a": "text"}}', f'[{{"a": {written}}}, {{"a": 0.5}}]'):
        found = rows_of(tmp_path / "a.json", text)[0]["a"]
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1}\n{"a": \n{"a": 2}', "line 2 of a.json cannot be read as JSON: Expecting value"),
        ('{"a": 1}\n\n{"a": 1} x', "line 3 of a.json cannot be read as JSON: Extra data in column 10$"),
        ('\n\n[{"a": 1},\n{"a": }]', "line 4 of a.json cannot be read as JSON: Expecting value in column 7$"),
        ('\n{"a": 1,\n"a": 2}', "line 2 of a.json cannot be read as JSON: 'a' stands twice"),
        ('{"a": \n{"a": 2}', "line 2 of a.json cannot be read as JSON"),
        ('[{"a": 1}', "a.json cannot be read as JSON"),
        ('{"a": 1}\n{"a": 1, "a": 2}', "line 2 of a.json .* 'a' stands twice in one row"),
        ('[{"a": 1, "a": 2}]', "'a' stands twice in one row"),
        (f'{{"a": {"[" * 100000}{"]" * 100000}}}', "a.json cannot be read as JSON"),
        ('{"a": "é"}'.encode("latin-1"), "a.json is no text in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "a.json is no text in UTF-8"),
        (b"\x1f\x8b12345", "a.json cannot be unpacked"),
        (gzip.compress(b'{"a": 1}', mtime=0)[:-9], "a.json cannot be unpacked"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str | bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        rows_of(tmp_path / "a.json", text)


def test_splits_and_columns(tmp_path: Path) -> None:
    files = []
    for i in range(2):
        files.append(tmp_path / f"{i}.jsonl")
        files[-1].write_text("\n".join(json.dumps({"n": 5 * i + k, f"column{i}": k}) for k in range(5)) + "\n7")

    def numbers(split: str) -> list[int]:
        rows = JsonRows({"train": files, "test": files[:1]}, split)
        assert rows.column_names == ["n", "column0", "column1"]
        found = [row["n"] if isinstance(row, dict) else row for row in rows]
        assert len(rows) == len(found)
        assert found == [row["n"] if isinstance(row, dict) else row for row in rows]  # once more
        return found

    assert numbers("train") == [0, 1, 2, 3, 4, 7, 5, 6, 7, 8, 9, 7]
    assert numbers("train[4:7]") == [4, 7, 5]
    assert numbers("train[50%:]+test[:1]") == [5, 6, 7, 8, 9, 7, 0]
    assert numbers("train[-2:]") == [9, 7]
    with pytest.raises(ValueError, match=r"Unknown split \"dev\""):
        numbers("dev")


def test_names() -> None:
    assert [is_json(Path(n)) for n in ("a.json", "a.JSONL", "a.jsonl.gz", "a.ndjson")] == [True] * 4
    assert [is_json(Path(n)) for n in ("a.parquet", "a.gz", "a.csv.gz", "json")] == [False] * 4
