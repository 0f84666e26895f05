"""Final answers as text: where they are in a completion, and what of them can be compared without a maths checker."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final, NamedTuple

LeafCheck = Callable[[str, str], bool | None]  # (predicted, expected) -> equal?, None for "cannot tell"

MAX_ANSWER_CHARS: Final = 2000
_MAX_ELEMENTS: Final = 64

_BRACES: Final = re.compile(r"\\(?:boxed|fbox)\s*\{|(?<=\\)(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_WHOLE_TEXT: Final = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|rm)\s*\{([^{}]*)\}")
_SIZE: Final = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![a-zA-Z])\s*")
_SPACE: Final = re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|\s")
_DEGREE: Final = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})(?![a-zA-Z])|\\degree(?![a-zA-Z])|°")
_OR: Final = re.compile(r"\s*(?:\\(?:text|textrm|mathrm)\s*\{\s*(?:or|and)\s*\}|(?<![\w\\])(?:or|and)(?!\w)|;)\s*")
_THOUSANDS: Final = re.compile(r"(?<![\w.,])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\w,])")
_THIN_THOUSANDS: Final = re.compile(r"(?<![\w.,])\d{1,3}(?:\\[,!]\d{3})+(?![\w,\\])")
_LOOSE_SPACE: Final = re.compile(r"(?<!\d) | (?!\d)")

_DECIMAL: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_SLASH: Final = re.compile(r"([+-]?\d+) ?/ ?(\d+)")
_FRAC: Final = re.compile(r"([+-]?)\\frac ?(?:\{ ?([+-]?\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))")
_MIXED: Final = re.compile(r"([+-]?)(\d+) (\d+) ?/ ?(\d+)|([+-]?)(\d+) ?\\frac ?(?:\{(\d+)\}|(\d)) ?(?:\{(\d+)\}|(\d))")
_REPEATING: Final = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline ?(?:\{ ?(\d+) ?\}|(\d))")
_BASED: Final = re.compile(r"([0-9A-Z]+)_ ?(?:\{ ?(\d+) ?\}|(\d+))")
_PERCENT: Final = re.compile(r" ?\\?%$")
_TEXT_UNIT: Final = re.compile(
    r" ?\\(?:text|textrm|mbox|mathrm|rm)\s*\{([^{}]*)\} ?(\^ ?(?:\{ ?[23] ?\}|[23]))?$"  # \text{ cm}^2
    r"|(?<=\d) ([A-Za-z]{2,}(?: [A-Za-z]{2,}){0,2})(\^ ?(?:\{ ?[23] ?\}|[23]))?$"  # 5 cm
)
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z' -]*")
_CHOICE: Final = re.compile(
    r"\\text(?:bf|rm)?\{ ?\(([A-J])\) ?\} ?[^(]*|\(([A-Ja-j])\)(?: ?[^ (].*)?|([A-Ja-j])[.:)](?: .*)?|([A-Ja-j])",
    re.DOTALL,
)
_NAME: Final = re.compile(
    r"\\text\{[^{}]*\}|(?:\\angle ?)?(?:[A-Za-z]|[A-Z]+|\\[a-z]+|[A-Za-z]{3,})(?:_ ?(?:\{ ?\w+ ?\}|\w))?'?"
    r"(?:\( ?[a-z](?: ?, ?[a-z])* ?\))?"
)
# Words after a number that change what it says, unlike a unit.
_NO_UNIT_WORDS: Final = (
    "or and more less fewer not no than least most at base mod modulo if when for except about approximately over under "
    "million billion trillion thousand hundred dozen pairs half halves third thirds quarter percent to the of is per "
    "squared cubed by times minus plus remainder none"
)
_NO_UNIT: Final = frozenset(_NO_UNIT_WORDS.split())
_SHOUTED: Final = ("yes", "no", "true", "false", "none", "even", "odd")  # words that do not change with their case
# "(x, y) =" or "x \in" before a list or an interval.
_LIST_NAME: Final = re.compile(
    r"([A-Za-z]|\( ?[A-Za-z](?: ?, ?[A-Za-z])+ ?\)) ?(?:=|\\in(?![a-zA-Z])) ?(?=\(|\[|\\\{|\\mathbb)"
)
_INTERVAL: Final = re.compile(r"[(\[][)\]]")
_PAIRS: Final = {"(": ")]", "[": ")]", "{": "}"}


class Answer(NamedTuple):
    """An answer taken apart: the list signs around it ("" for none) and its elements."""

    opening: str
    closing: str
    elements: tuple[str, ...]


def last_box(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}` or `\fbox{...}`; None if there is none, or it is never closed.

    Of boxes in a box the outermost counts, and boxes directly around a box are taken off.
    """
    stack: list[int] = []  # content start of each open box, -1 for another brace
    boxes: list[tuple[int, int]] = []  # closed ones
    for match in _BRACES.finditer(text):
        token = match[0]
        if token[0] == "}":
            if stack and (start := stack.pop()) >= 0:
                while boxes and boxes[-1][0] > start:  # inside this one
                    boxes.pop()
                boxes.append((start, match.start()))
        elif token[-1] == "{" and (len(token) > 2 or token == "{"):
            stack.append(match.end() if len(token) > 1 else -1)
    if not boxes or max(stack, default=-1) > boxes[-1][0]:
        return None
    content = text[boxes[-1][0] : boxes[-1][1]].strip()
    while (inner := re.fullmatch(r"\\(?:boxed|fbox)\s*\{(.*)\}", content, re.DOTALL)) and _is_wrapped(content):
        content = inner[1].strip()
    return content


def normalise(text: str) -> str:
    """Removes what never changes the meaning of an answer: dollars, spacing and size commands, text around all of it."""
    text = text.strip().replace("\\$", "").replace("$", "").replace("\\!", "").replace("\u2212", "-")
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    text = _THIN_THOUSANDS.sub(lambda match: re.sub(r"\\[,!]", "", match[0]), text)
    text = _DEGREE.sub("", _SIZE.sub("", text))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = " ".join(_SPACE.sub(" ", text).split())
    while whole := _WHOLE_TEXT.fullmatch(text):
        text = whole[1].strip()
    return re.sub(r"(?<![.\\])\.$", "", text).strip()


def compare(predicted: str, expected: str, leaf: LeafCheck) -> bool | None:
    """Compares two normalised answers, element by element where they are lists.

    Braces and bare lists have no order, parentheses and brackets have one and differ from each other (intervals). A bare
    list equals a list in parentheses of the same order.

    Args:
        predicted: Of the model.
        expected: The ground truth.
        leaf: Compares two elements.

    Returns:
        Equal or not; None if `leaf` could not tell where it mattered.
    """
    if not predicted or not expected:
        return False
    if squeeze(predicted) == squeeze(expected):
        return True
    mine_named, truth_named = _LIST_NAME.match(predicted), _LIST_NAME.match(expected)
    if not (mine_named and truth_named and squeeze(mine_named[1]) != squeeze(truth_named[1])):
        predicted, expected = _LIST_NAME.sub("", predicted, 1), _LIST_NAME.sub("", expected, 1)
    verdict: bool | None = False
    for mine in _readings(predicted):
        for truth in _readings(expected):
            one = _compare_lists(mine, truth, leaf)
            if one:
                return True
            verdict = None if one is None else verdict
    return verdict


def quick_leaf(predicted: str, expected: str) -> bool | None:
    """Compares numbers, words and choices; None for anything else."""
    predicted, expected = _without_name(predicted, expected)
    if not predicted or not expected:
        return False
    if squeeze(predicted) == squeeze(expected):
        return True
    units = split_unit(predicted), split_unit(expected)
    (predicted, my_unit), (expected, true_unit) = units
    if my_unit and true_unit and my_unit != true_unit:
        return False
    mine, truth = _number(predicted), _number(expected)
    if mine and truth:
        return _same_number(mine, truth)
    based = _BASED.fullmatch(predicted), _BASED.fullmatch(expected)
    if any(based):
        return _same_based(predicted, expected, *based)
    if re.fullmatch(r"\(?[A-J]\)?", expected) and (choice := _CHOICE.fullmatch(predicted)):
        return next(group for group in choice.groups() if group).upper() == expected.strip("()")
    if _WORDS.fullmatch(predicted) and _WORDS.fullmatch(expected) and max(len(predicted), len(expected)) > 2:
        return _same_words(predicted, expected)
    return None


def split_unit(text: str) -> tuple[str, str]:
    """Splits "5 cm" into value and unit; the unit is "" if there is none or it might change the value."""
    match = _TEXT_UNIT.search(text)
    if match is None or match.start() == 0:
        return text, ""
    words = (match[1] or match[3] or "").lower().replace(".", " ").split()
    named = all(re.fullmatch(r"[a-z/]+", word) and word not in _NO_UNIT for word in words)
    if not words or len(words) > 3 or not named:
        return text, ""
    power = (match[2] or match[4] or "").strip("^ {}")
    return text[: match.start()].strip(), " ".join(word.rstrip("s") or word for word in words) + power


def squeeze(text: str) -> str:
    """Removes spaces, but for those between digits."""
    return _LOOSE_SPACE.sub("", text)


def _is_wrapped(text: str) -> bool:
    """Is the first brace of the text closed by its last character?"""
    depth = 0
    for match in _BRACES.finditer(text):
        if match[0][-1] == "{" and match[0] != "\\{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.end() == len(text)
    return False


def _readings(text: str) -> list[Answer]:
    """Commas before three digits may group thousands or part elements, so there can be two readings."""
    grouped = _take_apart(_THOUSANDS.sub(lambda match: re.sub(r"[{},]", "", match[0]), text))
    plain = _take_apart(text)
    if grouped.opening and len(grouped.elements) == 1 and len(plain.elements) > 1:
        return [plain]  # (1,234) is a pair
    return [grouped] if grouped == plain else [grouped, plain]


def _take_apart(text: str) -> Answer:
    text = text.replace("\\{", "\x01").replace("\\}", "\x02").replace("\\lbrace", "\x01").replace("\\rbrace", "\x02")
    opening, closing = text[:1].replace("\x01", "{"), text[-1:].replace("\x02", "}")
    if len(text) > 1 and text[0] != "{" and closing in _PAIRS.get(opening, "") and _closes_at_end(text):
        elements = _split(text[1:-1])
        if len(elements) > 1 or opening == "{" or (opening, closing) == ("(", ")"):
            return Answer(opening if len(elements) > 1 else "", closing if len(elements) > 1 else "", elements)
    return Answer("", "", _split(text))


def _closes_at_end(text: str) -> bool:
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{\x01") - (char in ")]}\x02")
        if depth <= 0:
            return index == len(text) - 1
    return False


def _split(text: str) -> tuple[str, ...]:
    text = _OR.sub(",", text)
    elements, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char == "," and depth == 0:
            elements.append(text[start:index])
            start = index + 1
        depth += (char in "([{\x01") - (char in ")]}\x02")
    elements.append(text[start:])
    if len(elements) > 1 and not elements[-1].strip():
        elements.pop()
    parts = (part.strip().replace("\x01", "\\{").replace("\x02", "\\}") for part in elements)
    return tuple(sign for part in parts for sign in _both_signs(part))


def _both_signs(element: str) -> tuple[str, ...]:
    if len(re.findall(r"\\pm(?![a-zA-Z])", element)) != 1 or "\\mp" in element:
        return (element,)
    head, tail = re.split(r"\\pm(?![a-zA-Z])", element)
    return (f"{head.strip()}+{tail.strip()}".removeprefix("+"), f"{head.strip()}-{tail.strip()}")


def _compare_lists(mine: Answer, truth: Answer, leaf: LeafCheck) -> bool | None:
    if len(mine.elements) != len(truth.elements) or len(mine.elements) > _MAX_ELEMENTS:
        signs = mine.opening + mine.closing, truth.opening + truth.closing
        if any(_INTERVAL.fullmatch(one) and not other for one, other in (signs, signs[::-1])):
            return leaf(_put_together(mine), _put_together(truth))  # (0, 1) and 0 < x < 1
        return False
    if len(mine.elements) == 1:
        return leaf(mine.elements[0], truth.elements[0])
    kinds = {mine.opening + mine.closing, truth.opening + truth.closing}
    if len(kinds) > 1 and kinds not in ({"", "()"}, {"", "{}"}):
        return False
    if kinds & {"()", "[]", "(]", "[)"}:
        verdicts = [leaf(p, e) for p, e in zip(mine.elements, truth.elements, strict=True)]
        return False if False in verdicts else None if None in verdicts else True
    return _match(list(mine.elements), truth.elements, leaf)


def _put_together(answer: Answer) -> str:
    return f"{answer.opening}{', '.join(answer.elements)}{answer.closing}"


def _match(mine: list[str], truth: tuple[str, ...], leaf: LeafCheck) -> bool | None:
    """Pairs elements regardless of order. Where `leaf` cannot tell about an element, neither can this."""
    unsure = False
    for expected in truth:
        verdicts = []
        for index, predicted in enumerate(mine):
            verdicts.append(leaf(predicted, expected))
            if verdicts[-1]:
                del mine[index]
                break
        else:
            if None not in verdicts:
                return False
            unsure = True
    return None if unsure else True


def _without_name(predicted: str, expected: str) -> tuple[str, str]:
    """Takes "x =" off where the other side has no equation or names the same; turns "1/2 = 0.5" into its last part."""
    mine, my_name = _value(predicted)
    truth, true_name = _value(expected)
    if my_name is not None and true_name is not None:
        return (mine, truth) if squeeze(my_name) == squeeze(true_name) else (predicted, expected)
    if (my_name is not None and "=" not in expected) or (true_name is not None and "=" not in predicted):
        return mine, truth
    return predicted, expected


def _value(text: str) -> tuple[str, str | None]:
    belongs = re.fullmatch(r"([A-Za-z]) ?\\in(?![a-zA-Z])(.*)", text, re.DOTALL)
    if belongs:
        return belongs[2].strip(), belongs[1]
    parts = [part.strip() for part in re.split(r"(?<![<>!\\])=", text)]
    if len(parts) < 2 or not all(parts):
        return text, None
    if _NAME.fullmatch(parts[0]):
        return (text, None) if _NAME.fullmatch(parts[-1]) and len(parts) > 2 else (parts[-1], parts[0])
    if all(_number(part) for part in parts):
        return parts[-1], ""
    if len(parts) == 2 and _NAME.fullmatch(parts[1]):
        return parts[0], parts[1]
    return text, None


class _Number(NamedTuple):
    value: Fraction
    percent: bool
    decimal: bool


def _number(text: str) -> _Number | None:
    bare = _PERCENT.sub("", text)
    percent = bare != text
    bare = re.sub(r"^([+-]) ", r"\1", bare)
    try:
        if _DECIMAL.fullmatch(bare):
            return _Number(Fraction(bare.removesuffix(".")), percent, "." in bare)
        if match := _SLASH.fullmatch(bare):
            return _Number(Fraction(int(match[1]), int(match[2])), percent, False)
        if match := _FRAC.fullmatch(bare):
            value = Fraction(int(match[2] or match[3]), int(match[4] or match[5]))
            return _Number(-value if match[1] == "-" else value, percent, False)
        if match := _MIXED.fullmatch(bare):
            sign, whole, *parts = [group for group in match.groups() if group is not None]
            value = int(whole) + Fraction(int(parts[0]), int(parts[1]))
            return _Number(-value if sign == "-" else value, percent, False)
        if match := _REPEATING.fullmatch(bare):
            period = match[4] or match[5]
            once, whole = int(f"{match[2]}{match[3]}{period}"), int(f"0{match[2]}{match[3]}")
            value = Fraction(once - whole, 10 ** len(match[3]) * (10 ** len(period) - 1))
            return _Number(-value if match[1] == "-" else value, percent, False)
    except (ValueError, ZeroDivisionError):
        return None
    return None


def _same_number(mine: _Number, truth: _Number) -> bool | None:
    if mine.value == truth.value:  # "10%" and "10" too: the question says whether the answer is in percent
        return True
    my_value, true_value = (n.value / 100 if n.percent else n.value for n in (mine, truth))
    if my_value == true_value:
        return True
    rounded = any(a.decimal and not b.decimal and b.value.denominator > 1 for a, b in ((mine, truth), (truth, mine)))
    return None if rounded else False  # 0.33333333 and 1/3: the maths checker knows how close is close


def _same_based(predicted: str, expected: str, mine: re.Match[str] | None, truth: re.Match[str] | None) -> bool:
    def value(text: str, match: re.Match[str] | None) -> int | None:
        try:
            return int(match[1], int(match[2] or match[3])) if match else int(text)
        except ValueError:
            return None

    if mine is None and truth is not None and predicted == truth[1]:
        return True  # the question said which base
    a, b = value(predicted, mine), value(expected, truth)
    same_base = mine is not None and truth is not None and (mine[2] or mine[3]) == (truth[2] or truth[3])
    ten = mine is not None and truth is None and (mine[2] or mine[3]) == "10"
    return a is not None and a == b and (same_base or ten)


def _same_words(predicted: str, expected: str) -> bool:
    folded = predicted.casefold()
    if folded != expected.casefold():
        return False
    shouting = {predicted, expected} == {folded, folded.upper()}  # abc is not ABC
    return not shouting or folded in _SHOUTED
