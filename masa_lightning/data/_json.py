"""JSON files as rows, with every number as it is written: other readers make one type of a whole column."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_LONGEST_INT = 4000  # digits; Python converts 4,300 at most
_FLOAT_DIGITS = 15  # that a float64 always keeps; its shortest writing has up to 17


def is_json(path: Path) -> bool:
    """Whether a file is JSON by its name, compressed by gzip or not."""
    return (
        path.with_suffix("").suffix.lower() in JSON_SUFFIXES
        if path.suffix == ".gz"
        else path.suffix.lower() in JSON_SUFFIXES
    )


class JsonRows:
    """The rows of a split of JSON files, read anew by each loop over them.

    Args:
        files: By split.
        split: As `datasets` understands it: "train", "train[:1000]", "train[50%:]+test".

    Raises:
        ValueError: If a file is damaged, naming the line, or there is no such split.
    """

    def __init__(self, files: Mapping[str, Iterable[Path]], split: str) -> None:
        from datasets import ReadInstruction

        columns: dict[str, None] = {}
        self._files = {name: list(paths) for name, paths in files.items()}
        instruction = ReadInstruction.from_spec(split)
        sizes = dict.fromkeys(self._files, 0)
        for name, paths in self._files.items():
            for row in _rows_of(paths):
                sizes[name] += 1
                if isinstance(row, Mapping):
                    columns.update(dict.fromkeys(row))
        self._parts = [(part.splitname, part.from_, part.to) for part in instruction.to_absolute(sizes)]
        self.column_names = list(columns)

    def __len__(self) -> int:
        return sum(max(0, to - start) for _, start, to in self._parts)

    def __iter__(self) -> Iterator[Any]:
        for name, start, to in self._parts:
            for i, row in enumerate(_rows_of(self._files[name])):
                if i >= to:
                    break
                if i >= start:
                    yield row


def read_json(path: Path) -> Iterator[Any]:
    """The rows of one file: one on each line, a list of them, one after the other, or columns as pandas writes them.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        yield from _read(path)
    except UnicodeDecodeError as e:
        raise ValueError(f"{path.name} is no text in UTF-8 ({e.reason}); write it anew in that encoding") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path.name} cannot be unpacked: {e}") from None


def _rows_of(paths: Iterable[Path]) -> Iterator[Any]:
    for path in paths:
        yield from read_json(path)


def _read(path: Path) -> Iterator[Any]:
    with _open(path) as file:
        start, blank = file.readline(), 0
        while start.isspace():
            start, blank = file.readline(), blank + 1
        if not start.lstrip().startswith("[") and (row := _try(start)) is not None:
            second = next((line for line in file if not line.isspace()), "")
            if not second:
                yield from _columns(row)
                return
            file.seek(0)
            yield from _lines(path, file)
            return
        yield from _values(path, start + file.read(), blank)


def _open(path: Path) -> TextIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return TextIOWrapper(gzip.open(path) if zipped else path.open("rb"), encoding="utf-8-sig", newline="\n")


def _lines(path: Path, file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if not line.isspace():
            try:
                yield _DECODER.decode(line)
            except (ValueError, RecursionError) as e:
                raise _damaged(path, number, e) from None


def _damaged(path: Path, line: int, error: Exception) -> ValueError:
    """Names a position in the file: the decoder knows but that in the text which it was given."""
    reason = f"{error.msg} in column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    return ValueError(f"line {line} of {path.name} cannot be read as JSON: {reason}")


def _values(path: Path, text: str, above: int) -> Iterator[Any]:
    """The values of a text, one after the other; the elements of a list if that is all there is.

    Args:
        path: Of the file, for errors.
        text: Of it, from the first line that is not blank.
        above: Blank lines before that.
    """
    index, values = 0, []
    while index < len(text):
        try:
            value, index = _DECODER.raw_decode(text, index)
        except (ValueError, RecursionError) as e:
            line = e.lineno if isinstance(e, json.JSONDecodeError) else 1 + text.count("\n", 0, index)
            raise _damaged(path, above + line, e) from None
        values.append(value)
        while index < len(text) and text[index].isspace():
            index += 1
    if len(values) == 1:
        yield from values[0] if isinstance(values[0], list) else _columns(values[0])
    else:
        yield from values


def _columns(value: Any) -> Iterator[Any]:
    """Rows of a table that is written by columns, {"a": {"0": 1, "1": 2}} or {"a": [1, 2]}; another value is one row."""
    columns = [*value.values()] if isinstance(value, dict) else []
    by_number = all(isinstance(column, dict) and {*column} == {*map(str, range(len(column)))} for column in columns)
    by_position = all(isinstance(column, list) and len(column) > 1 for column in columns)
    if len(columns) > 1 and (by_number or by_position) and len({len(column) for column in columns}) == 1:
        for i in range(len(columns[0])):
            yield {name: column[str(i) if by_number else i] for name, column in value.items()}
    else:
        yield value


def _try(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _int(text: str) -> int | Decimal:
    return int(text) if len(text) <= _LONGEST_INT else Decimal(text)


def _float(text: str) -> float | Decimal:
    """The number as it is written, but a float where that is how it was written: with all the digits of one."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent of more than 18 digits
        return math.inf
    digits = len("".join(map(str, number.as_tuple().digits)).strip("0"))
    rounded = _FLOAT_DIGITS < digits <= _FLOAT_DIGITS + 2 and Decimal(repr(float(text))) == number
    return float(text) if rounded else number


def _struct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    struct = dict(pairs)
    if len(struct) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one row")
    return struct


_DECODER = json.JSONDecoder(object_pairs_hook=_struct, parse_int=_int, parse_float=_float)
