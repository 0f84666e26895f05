"""Tasks of inputs and outputs: programs that read standard input and print, or a function that is called with arguments.

An answer of this form is JSON, `{"inputs": [...], "outputs": [...]}`, as of APPS; with "fn_name" the inputs are lists of
arguments and the outputs results, else both are texts (a list of lines is a text too).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

TOLERANCE: Final = 1e-6  # absolute and relative, of numbers that are written with a point or an exponent


class _Asked(Protocol):
    def ask(self, name: str, *arguments: Any) -> Any: ...


class Cases(NamedTuple):
    """Inputs, and the output that each has to give; a program may exit with any status, but not end with an error."""

    inputs: list[Any]
    outputs: list[Any]
    function: str = ""

    def hold(self, program: _Asked) -> bool:
        """Runs a program on each input; returns whether every output is right. Raises what the program raises.

        Two of the inputs then come once more, so that to count runs or calls is no way to the outputs.
        """
        order = [*range(len(self.inputs)), *self._again()]
        pairs = ((self.inputs[index], self.outputs[index]) for index in order)
        if not self.function:
            return all(same_output(program.ask("run", given), expected) for given, expected in pairs)
        find = _finder(program, self.function)
        return all(same_value(find()(*given), expected) for given, expected in pairs)

    def _again(self) -> list[int]:
        """Returns the shortest input and the shortest one with another output, the later one first."""
        by_length = sorted(range(len(self.inputs)), key=lambda index: len(str(self.inputs[index])))
        first = by_length[0]
        other = (index for index in by_length if self.outputs[index] != self.outputs[first])
        return sorted((first, *islice(other, 1)), reverse=True) if len(by_length) > 1 else []


def is_cases(answer: str) -> bool:
    """Returns whether an answer is inputs and outputs, and not tests in Python."""
    if not answer.lstrip().startswith("{"):
        return False
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"inputs", "outputs"} <= data.keys()


def read_cases(answer: str) -> Cases:
    """Reads an answer that is inputs and outputs.

    Raises:
        ValueError: If it is none, or one that a program passes which prints nothing; the message is the reason.
    """
    data = json.loads(answer)
    inputs, outputs, function = data.get("inputs"), data.get("outputs"), data.get("fn_name") or ""
    if not (isinstance(inputs, list) and isinstance(outputs, list) and isinstance(function, str)):
        raise ValueError("its inputs and outputs are no lists")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs; expected as many of both, and some")
    if function:
        if not all(isinstance(given, list) for given in inputs):
            raise ValueError(f"an input of {function} is no list of arguments")
        if all(expected is None for expected in outputs):
            raise ValueError(f"all outputs of {function} are null, which a function that does nothing returns too")
        return Cases(inputs, outputs, function)
    texts: list[list[Any]] = [
        ["\n".join(map(str, text)) if isinstance(text, list) else text for text in side] for side in (inputs, outputs)
    ]
    if not all(isinstance(text, str) for side in texts for text in side):
        raise ValueError("an input or output is no text, and there is no fn_name")
    if not any(text.strip() for text in texts[1]):
        raise ValueError("all its outputs are empty, which a program that prints nothing passes")
    return Cases(texts[0], texts[1])


def same_output(written: Any, expected: str) -> bool:
    r"""Compares what a program wrote: line by line without blanks at the ends, word by word, numbers within a tolerance.

    Empty lines at the end do not count. A number of the expected output may differ by `TOLERANCE` if it has a point or an
    exponent; whole numbers and words are exact.

    >>> same_output("1  2 \n0.33333333\n\n", "1 2\n0.3333333")
    True
    >>> same_output("1\n2", "1 2"), same_output("2.0", "2"), same_output("", "1")
    (False, False, False)
    """
    if not isinstance(written, str):
        return False
    ours, theirs = ([line.split() for line in text.strip().splitlines()] for text in (written, expected))
    return len(ours) == len(theirs) and all(
        len(line) == len(other) and all(map(_same_word, line, other)) for line, other in zip(ours, theirs, strict=True)
    )


def same_value(result: Any, expected: Any) -> bool:
    """Compares a result: as JSON has no tuples, lists and tuples are equal; floats within `TOLERANCE`.

    An expected list of one is also the one alone, as in APPS.

    >>> same_value((1, [2.0]), [1, [2.0000001]]), same_value(3, [3]), same_value([], [[]]), same_value(True, 1)
    (True, True, True, False)
    """
    return _same(result, expected) or (isinstance(expected, list) and len(expected) == 1 and _same(result, expected[0]))


def _same(result: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return (
            isinstance(result, list | tuple)
            and len(result) == len(expected)
            and all(_same(one, other) for one, other in zip(result, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(result, dict)
            and len(result) == len(expected)
            and all(str(key) in expected and _same(value, expected[str(key)]) for key, value in result.items())
        )
    if isinstance(expected, float) or isinstance(result, float):
        numbers = not any(isinstance(v, bool) or not isinstance(v, int | float) for v in (expected, result))
        return numbers and _close(result, expected)
    return type(result) is type(expected) and bool(result == expected)


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    if not any(sign in expected for sign in ".eE") or "_" in word or not word.isascii():  # what Python reads too
        return False
    try:
        return _close(float(word), float(expected))
    except ValueError:
        return False


def _close(one: float, other: float) -> bool:
    try:
        return math.isfinite(one) and math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # whole numbers beyond all floats
        return False


def _finder(program: _Asked, name: str) -> Callable[[], Callable[..., Any]]:
    """Finds a function, or the method of that name of a class `Solution`, of which each call has an object of its own."""
    try:
        function: Callable[..., Any] = program.ask("global", name)
        return lambda: function
    except KeyError:
        solution: Any = program.ask("global", "Solution")
        return lambda: getattr(solution(), name)
