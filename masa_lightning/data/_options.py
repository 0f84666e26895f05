"""Questions with options: the options in all shapes in which people have them, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from string import ascii_uppercase as LETTERS
from typing import Any, Literal

import numpy as np

from masa_lightning.data._answers import number_text
from masa_lightning.data._cells import UnusableRowError, decoded, first, kind, valid_text

OPTION_COLUMNS = ("options", "choices")
_LETTER = re.compile(r"\(?([A-Za-z])\s*[).:]\s*")
_NUMBERED = re.compile(r"\(?(\d{1,2})\s*(?:\)\s*|[.:]\s+)")  # 1.5 is a number
_LABEL_FIELDS = ("label", "key", "letter", "id", "option_label")
_TEXT_FIELDS = ("text", "content", "value", "option", "option_text")

# What the numbers of a column of answers are: indices of the options, their values, or nobody knows.
Counting = Literal["from 0", "from 1", "values", "unknown"]


@dataclass(frozen=True, slots=True)
class Options:
    """The texts of some options, and what they are called by the data; `labels` is None if they have no names."""

    texts: list[str]
    labels: list[str] | None
    numbers: bool  # whether they were no texts, but numbers

    @property
    def lines(self) -> str:
        """One line for each, with the letter that it has here."""
        return "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, self.texts, strict=False))


def read_options(value: Any, labels: list[str] | None = None) -> Options:
    """Reads options from a list of texts or structs, a struct of texts or lists, or a text with one on each line.

    Args:
        value: Of the cell or cells that hold them.
        labels: Their names, if those are in another place.

    Raises:
        UnusableRowError: If they cannot be read, are fewer than 2 or more than 26, or one is empty.
    """
    value = decoded(value)
    if isinstance(value, str):
        value = [line for line in value.splitlines() if line.strip()]
        if len(value) == 1:
            raise UnusableRowError("options are a text of one line, not a list")
    if isinstance(value, Mapping):
        named = _fields(value)
    elif isinstance(value, list):
        parts = [decoded(part) for part in value]
        if parts and all(isinstance(part, Mapping) for part in parts):
            named = [(first(part, *_LABEL_FIELDS), first(part, *_TEXT_FIELDS)) for part in parts]
        else:
            named = [(None, part) for part in parts]
    else:
        raise UnusableRowError(f"options are a {kind(value)}, not a list")
    texts = [_option_text(text) for _, text in named]
    names = labels or (
        [_option_text(label) for label, _ in named] if any(label is not None for label, _ in named) else None
    )
    if not 2 <= len(texts) <= len(LETTERS):
        raise UnusableRowError(f"{len(texts)} options, not 2 to {len(LETTERS)}")
    bare = _without_labels(texts)
    if bare is not None and (names is None or bare[0] == list(LETTERS[: len(texts)])):
        texts, names = bare[1], names or bare[0]
    if not all(texts):
        raise UnusableRowError("an option without text")
    if names is not None and (len(names) != len(texts) or len({*names}) < len(names) or not all(names)):
        raise UnusableRowError("options whose labels do not tell them apart")
    numbers = bare is None and not any(isinstance(text, str) for _, text in named)
    return Options(texts, names, numbers)


def right_option(options: Options, answer: Any, counting: Counting) -> int:
    """The index of the right option: by its label, letter, text or index.

    Args:
        options: As read.
        answer: Of the answer's cell.
        counting: What numbers mean in the column of answers.

    Raises:
        UnusableRowError: If no option is meant, or it is not clear which.
    """
    answer = _one(answer)
    if isinstance(answer, list | Mapping):
        raise UnusableRowError(f"the answer is a {kind(answer)}, not one option")
    index, written = _index(answer), _option_text(answer)
    if index is None or isinstance(answer, str) or counting == "values" or written in (options.labels or ()):
        position = _named(options, written)
    else:
        position = None
    numbered = options.labels is not None and any(label.isdigit() for label in options.labels)
    if (
        position is not None
        and index is not None
        and not numbered
        and {*_positions(options, index, counting)} - {position}
    ):
        raise UnusableRowError("the answer is the text of one option and the index of another")
    if position is None and index is not None and not numbered and counting != "values":
        position = _counted(options, index, counting)
        if options.numbers and written in options.texts and options.texts[position : position + 1] != [written]:
            raise UnusableRowError("the answer is the index of one option and the value of another")
    if position is None or not 0 <= position < len(options.texts):
        raise UnusableRowError("the answer is not among the options")
    if options.texts.count(options.texts[position]) > 1:
        raise UnusableRowError("another option has the text of the right one")
    return position


def usual_counting(options: str, answer: str | None) -> Counting:
    """What numbers mean by the names of the columns, where no row shows it.

    On the hub MMLU and its descendants (`choices`, `answer`) count from 0, and so does every class label (`label`).
    """
    return "from 0" if answer == "label" or (options, answer) == ("choices", "answer") else "unknown"


def how_counted(rows: Iterable[tuple[Options, Any]], default: Counting = "unknown") -> Counting:
    """What numbers mean in a column of answers, as its rows show it together.

    Args:
        rows: The options and the answer's cell of each.
        default: Where no row shows it.
    """
    zero = last = more = text = False
    for options, answer in rows:
        answer = _one(answer)
        index = _index(answer)
        if isinstance(answer, str) and answer.strip() in options.texts:
            text |= not (_positions(options, index, "unknown") if index is not None else _is_letter(answer))
        elif index is not None and str(index) not in (options.labels or ()):
            zero |= index == 0
            last |= index == len(options.texts)
            more |= index > len(options.texts)
    match zero, last, more:
        case False, False, False:
            return "values" if text else default
        case True, False, False:
            return "from 0"
        case False, True, False:
            return "from 1"
        case False, _, True:
            return "values"
    return "unknown"


def _one(answer: Any) -> Any:
    """An answer without the list of one that it may be in."""
    answer = decoded(answer)
    return decoded(answer[0]) if isinstance(answer, list) and len(answer) == 1 else answer


def _index(answer: Any) -> int | None:
    """A number that may be an index; 1.0 is what an index becomes beside rows that have none."""
    if isinstance(answer, np.generic):
        answer = answer.item()
    if isinstance(answer, bool):
        return None
    if isinstance(answer, str):
        return int(answer) if re.fullmatch(r"\s*\d{1,3}\s*", answer) else None
    if isinstance(answer, float | Decimal):
        number = Decimal(answer)
        return int(number) if number.is_finite() and 0 <= number < 1000 and number == int(number) else None
    return answer if isinstance(answer, int) else None


def _is_letter(answer: str) -> bool:
    return len(answer.strip("(). ")) == 1


def _named(options: Options, name: str) -> int | None:
    """The position of the option with a label, letter or text; None without."""
    texts, labels = options.texts, options.labels
    letters = labels or list(LETTERS[: len(texts)])
    stripped = name.strip("(). ")
    by_letter = next((letters.index(n) for n in (name, stripped, stripped.upper()) if n in letters), None)
    by_text = next((texts.index(n) for n in (name, stripped) if n in texts), None)
    folded = [text.casefold() for text in texts]
    if by_text is None and by_letter is not None and name not in letters and stripped.casefold() in folded:
        by_text = folded.index(stripped.casefold())
    if by_text is None and (match := _LETTER.match(name)) and match[1].upper() in letters:  # "B) green"
        position = letters.index(match[1].upper())
        by_text = position if name[match.end() :].strip() == texts[position] else None
    if labels is None and by_letter is not None and by_text is not None and by_letter != by_text:
        raise UnusableRowError("the answer is the letter of one option and the text of another")
    if labels is None and by_letter is not None and by_text is None and all(map(_LETTER.match, texts)):
        raise UnusableRowError("the answer is a letter, and the texts of the options begin with others")
    return by_text if by_letter is None else by_letter


def _counted(options: Options, index: int, counting: Counting) -> int:
    if counting == "unknown":
        raise UnusableRowError(
            "the answer is an index, and the rows do not tell whether the first option is 0 or 1; write its letter"
        )
    for position in _positions(options, index, counting):
        return position
    raise UnusableRowError("the answer is not among the options")


def _positions(options: Options, index: int, counting: Counting) -> list[int]:
    """The positions that an index may mean."""
    from_one = {"from 0": [False], "from 1": [True], "unknown": [False, True], "values": []}[counting]
    return [index - one for one in from_one if 0 <= index - one < len(options.texts)]


def _fields(value: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """The labels and texts of a struct: {"A": "x", "B": "y"}, or {"label": ["A", "B"], "text": ["x", "y"]}."""
    if isinstance(texts := decoded(first(value, *_TEXT_FIELDS, "texts")), list):
        labels = decoded(first(value, *_LABEL_FIELDS, "labels"))
        if labels is None:
            return [(None, text) for text in texts]
        if not isinstance(labels, list) or len(labels) != len(texts):
            raise UnusableRowError("options whose labels do not tell them apart")
        return list(zip(labels, texts, strict=True))
    there = [(label, text) for label, text in value.items() if text is not None]  # a table gives all rows all fields
    labels = [label for label, _ in there]
    return sorted(there) if sorted(labels) == list(LETTERS[: len(labels)]) else there


def _option_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return valid_text(value, "an option").strip()
    if isinstance(value, bool | int | float | Decimal | np.number | np.bool_):
        return number_text(value, rounded=True)
    raise UnusableRowError(f"an option is a {kind(value)}, not text")


def _without_labels(options: list[str]) -> tuple[list[str], list[str]] | None:
    """Takes the labels off options that all carry theirs, "A) True", "(B) False", or "1. True"; None if they do not.

    They are the first letters, or numbers from 0 or 1, in any order.
    """
    letters, numbers = ([pattern.match(option) for option in options] for pattern in (_LETTER, _NUMBERED))
    found = [match for match in letters if match] or [match for match in numbers if match]
    labels = [match[1].upper() for match in found]
    counted = [{str(index + start) for index in range(len(options))} for start in (0, 1)]
    if len(labels) != len(options) or {*labels} not in ({*LETTERS[: len(options)]}, *counted):
        return None
    return labels, [option[match.end() :] for option, match in zip(options, found, strict=True)]
