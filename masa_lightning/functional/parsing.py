r"""Meta completion -> `MetaPrediction`. A malformed answer is data, not an error: nothing here raises because of a text.

The JSON object is looked for after the first `</meta>` (the last object wins, so a later `</meta>` changes nothing),
from the end of the text backwards, with bounded work: hostile text costs linear time at most.

Models of mathematics write `"\alpha"` and `"\frac{a}{b}"` into their notions, which JSON refuses or takes for a bell, a form
feed or a tab; and one slip (`5/8`) makes the whole object no JSON. So the `json` module reads values here, not objects:
commands of LaTeX get the second backslash that they lack, and members are read one by one. One whose value is no JSON is
bad alone: reading goes on at the next of the keys. A value counts only as it stands: `05`, `1,200`, `7.0`, `"7"` and
`5/8` are no integers, a list without its bracket is no list. What is around values may be missing or too much: commas, the
last brace, comments behind a comma.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from masa_lightning.types import MetaPrediction

FAILURE_REASONS: Final = ("no_json", "bad_json", "missing_key", "wrong_type", "out_of_range")
"""Why a part of a prediction is None. "no_json": nothing that looks like the object; "bad_json": one of its keys is there
in quotes, but no object around it; "missing_key": the object lacks the key, or lists no usable notion; "wrong_type": its
value is not of the type, or no JSON."""

META_KEYS: Final = ("math_notion", "pass_rate", "solution_length")
"""The keys of the object a meta completion ends with, in the order the prompt asks for."""

_META_END: Final = "</meta>"
_OBJECT_START: Final = re.compile(r'\{(?=\s*")')
_NEW_OBJECT: Final = re.compile(r'\{\s*"[^"\\\n]*"\s*:')
_MEMBER: Final = re.compile(r'\s*"((?:[^"\\\n]|\\.)*)"\s*:\s*')
_COMMA: Final = re.compile(r"\s*,(?=\s*(?:\{?\s*[\"'}]|\\*\}|//|/\*|#|$))")
_SEPARATOR: Final = re.compile(r"\s{0,99}[,;]")
_CLOSE: Final = re.compile(r"\s*\\*\}")
_BLANKS: Final = re.compile(r"\s*")
_LAST_COMMA: Final = re.compile(r",(?=\s*\])")
_MAX_ATTEMPTS: Final = 1000  # object starts tried, from the end; a real completion has a handful
_MAX_INT_DIGITS: Final = 18  # longer ones are out of any range, and int() refuses those past 4300 digits

# A backslash with what JSON may take with it. Backspaces, form feeds and carriage returns before letters are commands of
# LaTeX (\beta, \frac, \rho); newlines and tabs are where a command begins like that (\nabla, \theta).
_ESCAPE: Final = re.compile(r'\\(?:["\\/]|u[0-9a-fA-F]{4}|[bfr](?![A-Za-z])|([nt][A-Za-z]*)|)')
_LIKE_NEWLINE: Final = (
    "n ne neq neg nabla nu not notin ni nmid nexists nleq ngeq nless ngtr nparallel nsim ncong nsubseteq nsupseteq norm "
    "natural nearrow nwarrow nolimits nonumber newline nleftarrow nrightarrow nLeftarrow nRightarrow nleftrightarrow nprec "
    "nsucc nvdash nshortmid ntriangleleft ntriangleright "
    "t to tan tanh tau theta times top text textbf textit textrm texttt textsf textsc textup textnormal textstyle tilde "
    "textcolor textsl textmd textbackslash trianglelefteq trianglerighteq triangledown twoheadrightarrow twoheadleftarrow "
    "thinspace thickspace tiny triangle triangleq triangleleft triangleright therefore tfrac tbinom tag tr thickapprox "
    "thicksim"
)
_CONTROL: Final = re.compile(r'\\(?:(["\\/u])|[bfnrt])')
_CODES: Final = {"b": 8, "t": 9, "n": 10, "f": 12, "r": 13}
_COMMANDS: Final = frozenset(_LIKE_NEWLINE.split()) - {"n", "t"}


class _HugeInt(int):
    """The beginning of an integer too long to be worth converting."""


class _Bad:
    """Stands for a value that is no JSON."""


class _Object(NamedTuple):
    """Members of the object, where their values stand, and where it ends."""

    members: dict[str, Any]
    places: dict[str, tuple[int, int]]
    end: int


def parse_meta_prediction(text: str, *, pass_rate_scale: int = 8) -> MetaPrediction:
    r"""Reads what a meta completion predicts; each key is judged alone.

    Whole numbers have to be JSON integers, and notions a list: what might mean something else costs its own part, and
    no other one. A text that stops behind its last number, without the brace, is taken to be whole; of one that was
    cut there, put an ellipsis behind it.

    Args:
        text: The decoded completion, with or without `<meta>` reasoning before the JSON object.
        pass_rate_scale: What the prompt called a certain success; >= 1.

    Returns:
        The prediction. Where several objects qualify the last one counts, and of nested ones the outermost.

    Raises:
        ValueError: If `pass_rate_scale` is below 1. No text raises.

    >>> p = parse_meta_prediction('<meta>easy</meta> {"math_notion": ["parity"], "pass_rate": 7, "solution_length": "?"}')
    >>> p.notions, p.pass_rate, p.rate, p.solution_length, p.failures
    (('parity',), 7, 0.875, None, {'solution_length': 'wrong_type'})
    """
    if pass_rate_scale < 1:
        raise ValueError(f"pass_rate_scale is {pass_rate_scale}; expected an integer >= 1, as in the meta prompt")
    rate, length = partial(read_integer, low=0, high=pass_rate_scale), partial(read_integer, low=1)
    values, failures = read_members(text, dict(zip(META_KEYS, (read_notions, rate, length), strict=True)))
    named = dict(zip(("notions", "pass_rate", "solution_length"), map(values.get, META_KEYS), strict=True))
    return MetaPrediction(values=named, failures=failures, pass_rate_scale=pass_rate_scale)


class Unreadable(ValueError):
    """Raised by what reads a value of the object, to say why it is none.

    Args:
        reason: One of `FAILURE_REASONS`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        if reason not in FAILURE_REASONS:
            raise TypeError(f"the reason is {reason!r}; expected one of {FAILURE_REASONS}")
        self.reason = reason


def read_members(text: str, readers: Mapping[str, Callable[[Any], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads members of the object a meta completion ends with; each is judged alone.

    Args:
        text: The decoded completion, with or without `<meta>` reasoning before the JSON object.
        readers: By key of the object, what makes a value of what JSON has there, or raises `Unreadable`.

    Returns:
        Values by key, and for each other key why it has none: one of `FAILURE_REASONS`.

    >>> read_members('<meta>two</meta> {"steps": 2, "tables": "none"}', {"steps": read_integer, "tables": read_integer})
    ({'steps': 2}, {'tables': 'wrong_type'})
    """
    tail = text[_begin(text) :]
    keys = tuple(readers)
    found = _last_object(_ESCAPE.sub(_escaped, tail), keys)
    if found is None:
        reason = "bad_json" if "{" in tail and _patterns(keys).quoted.search(tail) else "no_json"
        return {}, dict.fromkeys(keys, reason)
    values: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for key, read in readers.items():
        if key not in found.members or isinstance(found.members[key], _Bad):
            failures[key] = "wrong_type" if key in found.members else "missing_key"
            continue
        try:
            values[key] = read(found.members[key])
        except Unreadable as error:
            failures[key] = error.reason
    return values, failures


def value_places(text: str, keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Says where the values stand that `read_members` reads.

    Args:
        text: The decoded completion.
        keys: Those of the readers: they decide which object is read.

    Returns:
        By key, the first character of its value and the one behind its last; without keys whose value is no JSON.

    >>> text = '<meta>two</meta> {"steps": 12, "tables": none}'
    >>> {key: text[start:stop] for key, (start, stop) in value_places(text, ["steps", "tables"]).items()}
    {'steps': '12'}
    """
    begin = _begin(text)
    added: list[int] = []  # places of the backslashes that `_ESCAPE.sub` puts in
    for match in _ESCAPE.finditer(text, begin):
        if len(_escaped(match)) > len(match[0]):
            added.append(match.start() - begin + len(added))
    found = _last_object(_ESCAPE.sub(_escaped, text[begin:]), keys)
    places = {} if found is None else {key: found.places[key] for key in keys if key in found.places}
    return {
        key: (begin + start - bisect_left(added, start), begin + stop - bisect_left(added, stop))
        for key, (start, stop) in places.items()
    }


def read_integer(value: Any, low: int = 0, high: int | None = None) -> int:
    """Reads a whole number of JSON.

    Args:
        value: Of the member.
        low: Least value.
        high: Greatest; None for none but that of 18 digits.

    Raises:
        Unreadable: "wrong_type" if it is no integer (true, 3.0 and "5" are none), "out_of_range".

    >>> read_integer(7, 0, 8)
    7
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unreadable("wrong_type")
    if isinstance(value, _HugeInt) or value < low or (high is not None and value > high):
        raise Unreadable("out_of_range")
    return value


def read_notions(value: Any) -> tuple[str, ...]:
    """Reads a list of texts: stripped, without empty ones and case-folded duplicates; what is no text is left out.

    Raises:
        Unreadable: "wrong_type" if it is no list, "missing_key" if no text is left.

    >>> read_notions(["parity ", 3, "Parity", ""])
    ('parity',)
    """
    if not isinstance(value, list):
        raise Unreadable("wrong_type")
    distinct: dict[str, str] = {}
    for entry in value:
        if isinstance(entry, str):
            # A lone surrogate ("\ud800" is valid JSON) could be neither tokenised nor logged: it becomes "?".
            notion = entry.encode("utf-8", "replace").decode("utf-8").strip()
            if notion:
                distinct.setdefault(notion.casefold(), notion)
    if not distinct:
        raise Unreadable("missing_key")
    return tuple(distinct.values())


def render_prediction(*, notions: tuple[str, ...], pass_rate: int, solution_length: int) -> str:
    """Writes the JSON object that `parse_meta_prediction` reads back to the same values.

    Args:
        notions: Stripped, distinct, none empty; at least one.
        pass_rate: In 0..pass_rate_scale.
        solution_length: Tokens, >= 1.

    >>> render_prediction(notions=("parity",), pass_rate=7, solution_length=120)
    '{"math_notion": ["parity"], "pass_rate": 7, "solution_length": 120}'
    """
    return render_members(dict(zip(META_KEYS, (notions, pass_rate, solution_length), strict=True)))


def render_members(values: Mapping[str, Any]) -> str:
    """Writes the JSON object that `read_members` reads back to the same values.

    Args:
        values: By key: numbers, texts, and lists of these.

    Raises:
        TypeError: If JSON has no such value.
        ValueError: If a number is not finite.

    >>> render_members({"steps": 3, "math_notion": ("parity",)})
    '{"steps": 3, "math_notion": ["parity"]}'
    """
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    # A control character before a letter would be read as a command of LaTeX.
    return _CONTROL.sub(lambda match: match[0] if match[1] else f"\\u{_CODES[match[0][1]]:04x}", text)


def _begin(text: str) -> int:
    """Where the object is looked for: behind the reasoning."""
    end = text.find(_META_END)
    return 0 if end < 0 else end + len(_META_END)


def _parse_int(digits: str) -> object:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else _HugeInt(digits[: _MAX_INT_DIGITS + 2])


_DECODER: Final = json.JSONDecoder(strict=False, parse_int=_parse_int)


def _escaped(match: re.Match[str]) -> str:
    """Gives a command of LaTeX the backslash that it needs in JSON."""
    text = match[0]
    if match[1]:
        return f"\\{text}" if match[1] in _COMMANDS else text
    return text if len(text) > 1 else "\\\\"


class _Patterns(NamedTuple):
    """What depends on the keys that are looked for."""

    quoted: re.Pattern[str]
    anchor: re.Pattern[str]
    stray_close: re.Pattern[str]


@lru_cache(maxsize=64)
def _patterns(keys: tuple[str, ...]) -> _Patterns:
    names = "|".join(map(re.escape, keys))
    return _Patterns(
        re.compile(rf"""["'](?:{names})["']"""),
        re.compile(rf'(?P<opens>\{{\s*)?(?<!\\)"(?:{names})"\s*:'),
        re.compile(rf'\s*\\*\}}\s*,(?=\s*$|\s*"(?:{names})"\s*:)'),
    )


def _last_object(text: str, keys: Sequence[str]) -> _Object | None:
    """Returns the last object with one of the keys; an object around it that has one too takes its place."""
    scanner = _Scanner(text, tuple(keys))
    best: _Object | None = None
    best_start = -1
    starts = [match.start() for match in _OBJECT_START.finditer(text)]
    for start in reversed(starts[-_MAX_ATTEMPTS:]):
        if scanner.budget < 0:
            break
        found = scanner.read_object(start)
        if any(key in found.members for key in keys) and (best is None or found.end > best_start):
            best, best_start = found, start
    return best


class _Scanner:
    """Reads objects of a text, members of which may be no JSON."""

    def __init__(self, text: str, keys: tuple[str, ...]) -> None:
        self.text = text
        self.keys = keys
        self.patterns = _patterns(keys)
        self.budget = 8 * len(text) + 100_000  # characters that may be decoded in all attempts together
        anchors = [(match.start(), match["opens"]) for match in self.patterns.anchor.finditer(text)]
        self.anchors = [start + len(opens or "") for start, opens in anchors]
        self.opens = [opens is not None for _, opens in anchors]

    def read_object(self, start: int) -> _Object:
        """Reads from an opening brace on. Bad values are `_Bad`."""
        text, position = self.text, start + 1
        members: dict[str, Any] = {}
        places: dict[str, tuple[int, int]] = {}
        more = True
        while more and self.budget >= 0 and (member := _MEMBER.match(text, position)):
            begin = member.end()
            self.budget -= begin - position
            value, position = self.read_value(begin)
            stop = position
            go_on = self.patterns.stray_close.match(text, position) or _COMMA.match(text, position)
            position = go_on.end() if go_on else position
            close = _CLOSE.match(text, position)
            if close and self.key_behind(close.end(), {*members, member[1]}):
                go_on, close, value = None, None, _Bad()
            elif not (go_on or close or self.may_stop(position) or self.list_ended(value, position)):
                value = _Bad()
            members[member[1]] = value
            places.pop(member[1], None)  # a key that comes twice: the last one counts
            if not isinstance(value, _Bad):
                places[member[1]] = begin, stop
            if close and not isinstance(value, _Bad):
                return _Object(members, places, close.end())
            if isinstance(value, _Bad):
                position, more = self.next_key(begin)
            elif not (go_on and _MEMBER.match(text, position)):
                position, more = self.next_key(position)
        return _Object(members, places, position)

    def may_stop(self, position: int) -> bool:
        """Is a value at its end here though no comma and no brace follows: a key, a new line, a fence, or nothing more?"""
        behind = _BLANKS.match(self.text, position)
        assert behind is not None
        self.budget -= behind.end() - position
        index = bisect_left(self.anchors, behind.end())
        at_key = index < len(self.anchors) and self.anchors[index] == behind.end()
        following = self.text[behind.end() : behind.end() + 2]
        new_line = "\n" in behind[0] and following[:1] not in "-+*/%.,]:" and not following[:1].isdigit()
        return at_key or not following or new_line or following.startswith(("`", "</", "<|"))

    def read_value(self, position: int) -> tuple[Any, int]:
        """Returns a value and its end; for what is no JSON `_Bad` and the place where it begins."""
        text = self.text
        try:
            value, end = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            # An unterminated string was read to the end of the text, though the error points at its beginning.
            self.budget -= (len(text) if error.msg.startswith("Unterminated") else error.pos) - position
            self.budget -= error.pos // 16  # the error counts the lines before it
            return self._list_with_comma(position, error.pos)
        except (RecursionError, ValueError):
            self.budget -= len(text) - position
            return _Bad(), position
        self.budget -= end - position
        return value, end

    def list_ended(self, value: object, position: int) -> bool:
        """Is it a list with a separator behind it? What is wrong then is the next key, or that it is no comma."""
        return isinstance(value, list) and _SEPARATOR.match(self.text, position) is not None

    def key_behind(self, position: int, known: set[str]) -> bool:
        """Does a key that the object lacks follow a brace, so that this brace was a slip?"""
        index = bisect_left(self.anchors, position)
        if index == len(self.anchors) or self.opens[index]:
            return False
        anchor = self.anchors[index]
        self.budget -= anchor - position
        key = self.text[anchor + 1 : self.text.index('"', anchor + 1)]
        begun = any(key in known for key in self.keys)
        return begun and key not in known and not _NEW_OBJECT.search(self.text, position, anchor)

    def next_key(self, position: int) -> tuple[int, bool]:
        """Returns where one of the keys comes next in this object, or its end and False."""
        index = bisect_left(self.anchors, position)
        anchor = self.anchors[index] if index < len(self.anchors) else len(self.text)
        close = self.text.find("}", position, anchor)
        end = close + 1 if close >= 0 else anchor
        self.budget -= end - position
        another = index == len(self.anchors) or (close >= 0 and self.opens[index])  # the key begins another object
        return (end, False) if another else (anchor, True)

    def _list_with_comma(self, position: int, error: int) -> tuple[Any, int]:
        """Reads a list that is JSON but for a comma behind its last element."""
        comma = self.text.rfind(",", position, error + 1)
        if self.text.startswith("[", position) and comma >= 0 and _LAST_COMMA.match(self.text, comma):
            self.budget -= comma - position
            try:
                value, end = _DECODER.raw_decode(self.text[position:comma] + "]")
            except (ValueError, RecursionError):
                return _Bad(), position
            if end == comma - position + 1:
                return value, self.text.index("]", comma) + 1
        return _Bad(), position
