"""The cells of a row, plain Python whatever wrote them, and what is wrong with a row that is no problem."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

Row = Mapping[str, Any]

_IDS = ("id", "unique_id", "ID", "Record ID", "task_id", "example_id", "problemid", "index")

# Lists and structs of texts, written into a text. Mathematics (`[1, 2]`, `\{x\}`, `{Friday}`) is none of these.
_WRITTEN = re.compile(r"""\s*(?:array\(\s*)?(?:(?:\[\s*)+(?:\{\s*)?|\{\s*)["']""")
# Letters behind a backslash that are a command of LaTeX, though the first of them is an escape too.
_COMMANDS = {
    "\t": "t(?:an|anh|au|binom|ext[a-z]*|frac|heta|herefore|ilde|imes|o|op|riangle[a-z]*)(?![A-Za-z])",
    "\n": "n(?:abla|atural|cong|e|earrow|eg|egthinspace|eq|ewline|exists|geq[a-z]*|gtr|i|icefrac|[Ll]eft(?:right)?arrow"
    "|leq[a-z]*|less|mid|obreak[a-z]*|oindent|olimits|onumber|orm[a-z]*|ot|otag|otin|parallel|prec[a-z]*|[Rr]ightarrow"
    "|short[a-z]+|sim|subset[a-z]*|succ[a-z]*|supset[a-z]*|triangle[a-z]*|u|[vV][dD]ash|warrow)(?![A-Za-z])",
    "\r": "r(?:angle|brace|brack|ceil|floor|ho|ight[a-zA-Z]*|m|oot|vert)(?![A-Za-z])",
    "\b": "b(?:ar|ecause|egin|eta|f|ig[a-zA-Z]*|inom|mod|ot|oxed|reve|ullet)(?![A-Za-z])",
    "\f": "f(?:box|lat|lloor|orall|rac|rown)(?![A-Za-z])",
}
_SWALLOWED = re.compile("|".join(escape + letters[1:] for escape, letters in _COMMANDS.items()))
# Where such a backslash was read as an escape, or others of Python's (`\alpha`, `\vec`, `\0`). Of a value no character but
# the ends of lines controls anything, and nothing is behind a tab or half an end of line; questions have lines and tables.
_NO_QUESTION = re.compile(
    "[\0-\a\x0e-\x1f\x7f]|[\b\f](?=[a-z])|\t(?:ext|frac|heta|imes)|\n(?:eq|abla|(?:[Rr]ight|[Ll]eft|[Ll]eftright)arrow)(?![A-Za-z])|\r(?:ight|ho)"
)
_NO_VALUE = re.compile("[^\t\n\r -~\xa0-\U0010ffff]|[\t\r](?=[A-Za-z])|\n" + _COMMANDS["\n"][1:])
_SINGLE_BACKSLASH = re.compile(
    r"(?<!\\)((?:\\\\)*)\\(?=" + "|".join(_COMMANDS.values()) + r"""|u(?![0-9a-fA-F]{4})|[^"'\\/bfnrtu])"""
)


class UnusableRowError(Exception):
    """A row that is no problem; the message is the reason."""


class MissingAnswerError(UnusableRowError):
    """A row whose answer is not there, or empty."""


def find(row: Row, path: str) -> Any:
    """The value of a column, or of a field "a.b" of a struct, which may be written as a text; None without."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = decoded(value)
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def first(row: Row, *columns: str) -> Any:
    """The first value that is there among some columns; None without."""
    return next((value for column in columns if (value := row.get(column)) is not None), None)


def own_id(row: Row, *columns: str) -> str:
    """The id that a row has in the first of these columns that it has one in, as text; empty without.

    Args:
        row: With its id.
        columns: Where to look; none for all the names that benchmarks have for it.
    """
    values = (row.get(column) for column in columns or _IDS)
    ids = (str(value).strip() for value in values if isinstance(value, str | int) and not isinstance(value, bool))
    return next((name for name in ids if name and is_unicode(name)), "")


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, or the NaN that pandas makes of it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind(value: Any) -> str:
    """What a value is called in a reason."""
    return "struct" if isinstance(value, Mapping) else type(value).__name__


def valid_text(text: str, what: str) -> str:
    r"""Returns a text, or raises a reason why it is none.

    Half a character (a lone surrogate) is taken by no tokenizer; a form feed before "rac" was the backslash of a `\frac`
    that was not doubled in JSON.
    """
    valid_unicode(text, what)
    found = (_NO_QUESTION if what == "problem" else _NO_VALUE).search(text)
    if found is None and what == "problem" and "\t" in text and all(map(_is_command, text.split("\t")[1:])):
        found = _SWALLOWED.search(text)
    if found is None:
        return text
    escape = found[0][0] in "\a\b\f\v" and text[found.start() + 1 : found.start() + 2].isalpha()
    if escape or _SWALLOWED.match(text, found.start()):
        raise UnusableRowError(f"{what} has LaTeX whose backslash was read as an escape; double it in JSON")
    raise UnusableRowError(f"{what} has the control character {found[0][0]!r}")


def _is_command(text: str) -> bool:
    """Whether a text behind a tab is the rest of a command of LaTeX, such as "an x" of a tangent."""
    return _SWALLOWED.match(f"\t{text}") is not None


def valid_unicode(text: str, what: str) -> str:
    """Returns a text of whole characters, or raises a reason."""
    if not is_unicode(text):
        raise UnusableRowError(f"{what} is not valid Unicode")
    return text


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decoded(value: Any) -> Any:
    r"""A list or struct from what holds it: an array, or a text of JSON or of Python; any other value as it is.

    LaTeX whose backslashes were not doubled (`["\frac12"]`) is read as it was meant.

    >>> decoded('["1/2"]'), decoded("['1/2']"), decoded("[1, 2]"), decoded('["\\frac12"]')
    (['1/2'], ['1/2'], '[1, 2]', ['\\frac12'])
    """
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, str) or not _WRITTEN.match(value):
        return value
    found = _loaded(value)
    if found is not None and not any(_SWALLOWED.search(text) for text in _texts(found)):
        return found
    found = _loaded(_SINGLE_BACKSLASH.sub(r"\1\\\\", value))
    return value if found is None else found


def looks_written(text: str) -> bool:
    """Whether a text is a list or struct that somebody wrote as text, readable or not."""
    return bool(_WRITTEN.match(text))


def _loaded(text: str) -> list[Any] | dict[str, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        for load in (_from_json, _from_python):
            try:
                found = load(text.strip())
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
                continue
            if isinstance(found, list | dict):
                return found
    return None


def _from_json(text: str) -> Any:
    return json.loads(text, strict=False)  # with line breaks in texts


def _from_python(text: str) -> Any:
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    if (tokenize.STRING, tokenize.STRING) in pairwise(kinds):
        raise ValueError("two texts without a comma, as numpy writes arrays: Python would join them")
    return ast.literal_eval(text)


def _texts(value: Any) -> list[str]:
    """All texts in a list or struct."""
    texts, rest = [], [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            rest.extend(part.values())
        elif isinstance(part, list | tuple):
            rest.extend(part)
    return texts
