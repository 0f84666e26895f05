r"""The structure of a final answer: lists, matrices, ratios and named values, down to what a leaf check compares.

Braces and bare lists have no order, parentheses and brackets have one and differ from each other (intervals). A bare list
equals a list in parentheses of the same order. In braces an element counts once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from masa_lightning.functional._bound import bound_values, part_residues, without_integers
from masa_lightning.functional._by_name import name_of, pairs_by_name, without_list_name, without_list_names
from masa_lightning.functional._equations import number_chain, part_equations, rounded_value, without_name
from masa_lightning.functional._formula import Unreadable, names, read_formula
from masa_lightning.functional._letters import without_letter
from masa_lightning.functional._levels import closes_at_end, split_outside
from masa_lightning.functional._quantity import TIME, read_number, same_clock, split_unit
from masa_lightning.functional._regions import MARK
from masa_lightning.functional._spelling import decimal_comma, join_thousands, squeeze
from masa_lightning.functional._vocabulary import AND, OR

__all__ = ["LeafCheck", "compare", "part_equations", "readings"]

LeafCheck = Callable[[str, str], bool | None]  # (predicted, expected) -> equal?, None for "cannot tell"

_MAX_ELEMENTS: Final = 64
_MAX_LAYERS: Final = 4  # of parentheses
_COMMA: Final = re.compile(rf"(?:{OR}|{AND}|,|;)\s*")
_OR: Final = re.compile(OR)
_AND: Final = re.compile(AND)
_INTERVAL: Final = re.compile(r"[(\[][)\]]")
_ANGLES: Final = re.compile(r"\\[lr]angle(?![A-Za-z]) ?")
_PAIRS: Final = {"(": ")]", "[": ")]", "\\{": "\\}"}
_MATRIX: Final = re.compile(
    r"(?P<factor>[^&]*?)(?:[(\[] ?)?\\begin ?\{(?:(?P<kind>[pbB]?matrix|smallmatrix)\}|array\} ?\{[lrc| ]*\})"
    r"(?P<body>.*?)\\end ?\{(?:(?P=kind)|array)\}(?: ?[)\]])?",
    re.DOTALL,
)
_ROW_END: Final = re.compile(
    r"\\\\(?: ?\[[^\]]*\])?|\\cr(?![a-z])|\\(?=[\d-])"
)  # MATH as verl has it lost half of each \\
_LOST: Final = re.compile(r"\\\\(?=(?:frac|sqrt|sin|cos|pi)(?![A-Za-z]))")
_SUM: Final = re.compile("[+-]")
_COLUMN: Final = re.compile("&")
_COLON: Final = re.compile(r":(?!=)")
_TO: Final = re.compile(r" ?(?:\\text ?\{ ?to ?\}|(?<![A-Za-z\\])to(?![A-Za-z])) ?")
_PADDED: Final = re.compile(r"(?<!\d)0\d")
_UNEQUAL: Final = re.compile(r"[<>]|\\(?:leq|geq|neq|in|notin|mid)(?![A-Za-z])")
_WORD: Final = re.compile(r"(?:\\text ?\{)?[A-Za-z' -]+\}?")
_SET: Final = re.compile(r"\\(?:emptyset|mathbb|\{)")
_DIGITS: Final = re.compile(r"\d+(?:,\d+)+")
_GROUP: Final = re.compile(r"0\d")
_MISPLACED: Final = re.compile(r"\d\.,\d")


class Answer(NamedTuple):
    """An answer taken apart: the list signs around it ("" for none), its elements, and what is between them."""

    opening: str
    closing: str
    elements: tuple[str, ...]
    joins: frozenset[str] = frozenset()  # of or, and, \\lor, \\land; empty for commas


def compare(predicted: str, expected: str, leaf: LeafCheck) -> bool | None:
    """Compares two normalised answers, element by element where they are lists, each without its name.

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
    if _is_decimal(expected):
        predicted = decimal_comma(predicted) or predicted
    predicted, expected = without_letter(predicted, expected)
    if values := bound_values(predicted, expected):
        return compare(*values, leaf)
    predicted, expected = without_integers(*without_list_names(predicted, expected))
    predicted, expected = part_residues(predicted), part_residues(expected)
    matrices = _matrix(predicted), _matrix(expected)
    if any(matrices):
        return _compare_matrices(*matrices, leaf)
    return _any(_verdicts(predicted, expected, leaf))


def readings(text: str) -> list[list[str]]:
    """The elements of a normalised answer as `compare` takes them to its leaf: in all ways in which commas can be read."""
    text = without_list_name(text)
    matrix = _matrix(text)
    if matrix is not None:
        return [[cell for row in matrix for cell in row]]
    return [list(reading.elements) for reading in _readings(text)]


def _verdicts(predicted: str, expected: str, leaf: LeafCheck) -> Iterable[bool | None]:
    def holds(chain: list[str]) -> bool | None:
        return not chain or leaf(" = ".join(chain), chain[-1])

    def value(mine: str, truth: str) -> bool | None:
        rounded = rounded_value(mine) if "\\approx" in mine and _is_decimal(truth) else ""
        if rounded and (found := _all((leaf(rounded, truth), holds(number_chain(mine, rounded=True))))) is not False:
            return found
        chain = number_chain(mine, rounded=False)
        mine, truth = without_name(mine, truth)
        if len(_take_apart(mine).elements) > 1 and len(_take_apart(truth).elements) > 1:
            return compare(mine, truth, leaf)  # a list of pairs
        found = _any((leaf(mine, truth), _compare_ratios(mine, truth, leaf)))
        return found if found is False else _all((found, holds(chain)))

    if MARK.search(predicted) or MARK.search(expected):
        yield leaf(predicted, expected)  # sets of numbers, whole
    number = "." not in expected and join_thousands(expected) != expected
    for mine in _readings(predicted):
        for truth in _readings(expected):
            if number and len(truth.elements) > 1 and any("." in element for element in mine.elements):
                continue  # 3.000,890 for 3,890
            yield _compare_lists(mine, truth, value)


def _is_decimal(text: str) -> bool:
    number = read_number(split_unit(text)[0])
    return number is not None and number.decimal


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found: bool | None = False
    for verdict in verdicts:
        if verdict:
            return True
        found = None if verdict is None else found
    return found


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found: bool | None = True
    for verdict in verdicts:
        if verdict is False:
            return False
        found = None if verdict is None else found
    return found


def _readings(text: str) -> list[Answer]:
    """Commas before digits may group thousands or part elements, so there can be two readings.

    "20,000" is no list: no element is written 000. Nor is "86,0400", which is nothing at all, as is "3.,890".
    """
    if _MISPLACED.search(text):
        return []
    grouped = _take_apart(join_thousands(text))
    plain = _take_apart(text)
    if grouped.opening and len(grouped.elements) == 1 and len(plain.elements) > 1:
        return [plain]  # (1,234) is a pair
    if not grouped.opening and any(map(_GROUP.match, plain.elements[1:])):
        return [Answer("", "", (text,)) if _DIGITS.fullmatch(text) and len(grouped.elements) > 1 else grouped]
    return [grouped] if grouped == plain else [grouped, plain]


def _take_apart(text: str, layers: int = _MAX_LAYERS) -> Answer:
    """Takes off brackets; parentheses that hold one point or interval only group, `((1,2))`."""
    whole = text
    if "angle" in text:
        text = _ANGLES.sub(lambda match: "(" if match[0][1] == "l" else ")", text)
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if len(text) > 1 and closing and closing in _PAIRS.get(opening, "") and closes_at_end(text):
        elements, joins = _split(text[len(opening) : -len(closing)])
        if len(elements) > 1 or (opening == "\\{" and "\\mid" not in text):
            return Answer(opening[-1], closing[-1], elements, joins)
        if whole != text and whole.startswith("\\langle"):
            return Answer("", "", (whole,))  # a vector of one
        if (opening, closing) == ("(", ")"):
            again = layers > 1 and len(elements) == 1
            return _take_apart(elements[0], layers - 1) if again else Answer("", "", elements)
    return Answer("", "", *_split(text))


def _split(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    elements, signs = split_outside(text, _COMMA)
    if len(elements) > 1 and not elements[-1]:
        elements.pop()
    joins = {_join(sign) for sign in signs} - {","}
    return tuple(sign for element in elements for sign in _both_signs(element)), frozenset(joins)


def _join(sign: str) -> str:
    kind = "or" if _OR.match(sign) else "and" if _AND.match(sign) else ","
    return f"\\l{kind}" if kind != "," and re.search(r"\\(?!text)", sign) else kind


def _both_signs(element: str) -> tuple[str, ...]:
    if len(re.findall(r"\\pm(?![a-zA-Z])", element)) != 1 or "\\mp" in element:
        return (element,)
    head, tail = re.split(r"\\pm(?![a-zA-Z])", element)
    return (f"{head.strip()}+{tail.strip()}".removeprefix("+"), f"{head.strip()}-{tail.strip()}")


def _compare_lists(mine: Answer, truth: Answer, leaf: LeafCheck) -> bool | None:
    if max(len(mine.elements), len(truth.elements)) > _MAX_ELEMENTS:
        return False
    signs = mine.opening + mine.closing, truth.opening + truth.closing
    if signs == ("{}", "{}"):
        return _same_set(mine.elements, truth.elements, leaf)
    if len(mine.elements) != len(truth.elements):
        return False
    kinds = set(signs)
    if len(mine.elements) == 1:
        held = len(kinds) > 1 and any(map(_SET.match, mine.elements + truth.elements))  # a set of a set is another set
        return not held and leaf(mine.elements[0], truth.elements[0])
    if len(kinds) > 1 and kinds not in ({"", "()"}, {"", "{}"}):
        return False
    if not _joined_alike(mine, truth):
        return False
    letters, own = ({name for e in side.elements if (name := name_of(e))} for side in (truth, mine))
    if letters and own - letters:
        return False  # y = 8 where all are values of x
    pairs = pairs_by_name(mine.elements, truth.elements, point="()" in kinds)
    if pairs is not None and ("{}" in kinds or not pairs):
        return False
    if pairs is None and any(map(_INTERVAL.fullmatch, kinds)):
        pairs = list(zip(mine.elements, truth.elements, strict=True))
    if pairs is not None:
        return _all([leaf(p, e) for p, e in pairs])
    return _match(list(mine.elements), truth.elements, leaf)


def _joined_alike(mine: Answer, truth: Answer) -> bool:
    """Between the values of one thing "or", "and" and commas say the same, between words and conditions they do not."""
    if mine.joins == truth.joins:
        return len(mine.joins) < 2
    elements = mine.elements + truth.elements
    one_thing = len({name for element in elements if (name := name_of(element))}) < 2
    if one_thing and all(map(_is_number, elements)):
        return True
    kinds = {join.removeprefix("\\l") for join in mine.joins | truth.joins}
    if not mine.joins or not truth.joins:  # a list with commas
        alternatives = one_thing and not any(_UNEQUAL.search(e) or _WORD.fullmatch(e) for e in elements)
        return all(join == "and" or (join == "or" and alternatives) for join in mine.joins | truth.joins)
    return len(kinds) == 1


def _is_number(element: str) -> bool:
    """Is this a number, or a point of numbers, perhaps with its name?"""
    value = element.rpartition("=")[2].strip()
    parts = _take_apart(value)
    if (parts.opening, parts.closing) == ("(", ")"):
        return all(map(_is_number, parts.elements))
    try:
        return not names(read_formula(split_unit(value)[0]))
    except Unreadable:
        return False


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


def _same_set(mine: tuple[str, ...], truth: tuple[str, ...], leaf: LeafCheck) -> bool | None:
    """Is each element of one set in the other?"""
    return _all(
        [_any(leaf(predicted, expected) for predicted in mine) for expected in truth]
        + [_any(leaf(predicted, expected) for expected in truth) for predicted in mine]
    )


def _matrix(text: str) -> list[list[str]] | None:
    """Returns the rows of a matrix, multiplied by what stands before it; None if the text is no matrix."""
    match = _MATRIX.fullmatch(text) if "\\begin" in text else None
    if match is None:
        return None
    factor = match["factor"].strip().removesuffix("\\cdot").strip()
    factor = {"-": "-1", "+": ""}.get(factor, factor)
    if factor and (re.search(r"[=,;<>]", factor) or split_outside(factor.lstrip("+- "), _SUM)[1]):
        return None
    rows, _ = split_outside(_LOST.sub(r"\\\\\\", match["body"].replace("\\hline", "")), _ROW_END)
    if len(rows) > 1 and not rows[-1]:
        rows.pop()
    cells = _with_lost_row_ends([split_outside(row, _COLUMN)[0] for row in rows])
    return [[f"({factor}) \\cdot ({cell})" if factor else cell for cell in row] for row in cells]


def _with_lost_row_ends(rows: list[list[str]]) -> list[list[str]]:
    r"""Ends rows that are longer than others before a fraction: MATH as verl has it lost all of `\\` before `\frac`."""
    width, found = min(map(len, rows)), []
    for row in rows:
        while len(row) > width:
            start = row[width - 1].rfind("\\frac")
            if start <= 0:
                return rows
            found.append([*row[: width - 1], row[width - 1][:start]])
            row = [row[width - 1][start:], *row[width:]]
        found.append(row)
    return found


def _compare_matrices(mine: list[list[str]] | None, truth: list[list[str]] | None, leaf: LeafCheck) -> bool | None:
    if mine is None or truth is None or [len(row) for row in mine] != [len(row) for row in truth]:
        return False
    cells = [pair for rows in zip(mine, truth, strict=True) for pair in zip(*rows, strict=True)]
    return len(cells) <= _MAX_ELEMENTS and _all([leaf(p, e) for p, e in cells])


def _compare_ratios(mine: str, truth: str, leaf: LeafCheck) -> bool | None:
    """4:6 is 2:3 and 2/3, and so is "4 to 6" where a ratio is asked for; 10:30 may be a time, and 10:05 is."""
    if (same := same_clock(mine, truth)) is not None:
        return same
    if ":" not in mine and ":" not in truth:
        return False
    mine, truth = (_TO.sub(":", text) for text in (mine, truth))
    parts, wanted = (split_outside(text, _COLON)[0] for text in (mine, truth))
    if TIME.fullmatch(truth) or (TIME.fullmatch(mine) and (_PADDED.search(mine) or len(wanted) < 2)):
        return parts == wanted
    if len(parts) + len(wanted) == 3:
        (ratio, quotient) = (parts, truth) if len(parts) == 2 else (wanted, mine)
        number = read_number(quotient)
        return number is not None and not number.percent and leaf(rf"\frac{{{ratio[0]}}}{{{ratio[1]}}}", quotient)
    if len(parts) != len(wanted) or len(parts) < 2 or not all(parts + wanted):
        return False
    numbers = [[read_number(part) for part in side] for side in (parts, wanted)]
    if any(number is not None and not number.value for side in numbers for number in side):
        return False
    if all(number is not None for side in numbers for number in side):
        first, second = ([number.value for number in side if number] for side in numbers)
        return all(a * second[0] == b * first[0] for a, b in zip(first, second, strict=True))
    zero = _any(leaf(part, "0") for part in parts + wanted)  # a product with it says nothing of the other parts
    if zero is not False:
        return None if zero is None else False
    pairs = zip(parts[1:], wanted[1:], strict=True)
    return _all([leaf(f"({p}) \\cdot ({wanted[0]})", f"({e}) \\cdot ({parts[0]})") for p, e in pairs])
