r"""What may stand before `=` and name the value behind it: `x`, `f(2)`, `|z|`, `AB`, `m+n`.

One rule: the name of a quantity, or a sum of such names. What is worked out of unknown numbers in another way, `xy`,
`x^2`, `|x|`, `\lfloor x\rfloor`, is an equation for them. A right answer may begin with a quotient of segments, as the
question asks for it then, but not with a sum: `x + y = 5` is a line.
"""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._evaluation import Budget
from masa_lightning.functional._levels import split_outside
from masa_lightning.functional._quantity import read_value
from masa_lightning.functional._units import is_word
from masa_lightning.functional._vocabulary import GREEK, NO_UNITS, SHORT_NAMES

_INDEX: Final = r"_ ?(?:\{[^{}=]*\}|\w)"
_GREEK: Final = rf"\\(?:{'|'.join(sorted(GREEK))})(?![A-Za-z])"
LETTER: Final = rf"(?:[A-Za-z]|{_GREEK})(?:{_INDEX})?'*"
"""A pattern of a letter, perhaps with an index."""

_WORD: Final = re.compile(r"[A-Za-z]{3,}")
_NAME: Final = re.compile(
    rf"\\text ?\{{[^{{}}]*\}}(?:{_INDEX})?|(?:m ?)?\\angle ?[A-Z]+|[A-Z]{{2,}}|"
    rf"{LETTER}(?: ?\( ?(?:\d+|[+-] ?\d+|{LETTER})(?: ?, ?\w+)* ?\))?"
)
_SEGMENT: Final = rf"(?:[A-Z]{{1,4}}|[A-Z]{_INDEX})"
_STYLED: Final = r"\\(?:overline|overrightarrow|vec|hat|bar|tilde|widehat|mathcal|mathbf) ?(?:\{[^{}=]*\}|\w)"
_INNER: Final = r"[^()\[\]{}]*(?:[(\[{][^()\[\]{}]*[)\]}][^()\[\]{}]*)*"
_FUNCTION: Final = (
    r"(?:[fghpqEFGHNPV]|n(?=.*[A-Z])|\\(?:text|mathbb|mathcal) ?\{[^{}]*\}|\\Pr|"
    r"\( ?[fgh](?: ?\\circ ?[fgh](?: ?\^ ?\{-1\})?)+ ?\))"
    rf"(?:{_INDEX}|'| ?\^ ?(?:\{{ ?(?:-1|\\prime|\(\d+\)) ?\}}|\\prime))*"
)
_OWN_ARGUMENT: Final = re.compile(r"([npqh]) ?\(.*(?<![A-Za-z\\])\1(?![A-Za-z]).*\)")  # n(n+1) is a product
_QUANTITY: Final = re.compile(
    rf"{_FUNCTION} ?(?:\({_INNER}\)|\[{_INNER}\])|\[ ?[A-Z]{{3,}} ?\]|\\triangle ?[A-Z]{{3}}|"
    rf"\\text ?\{{[^{{}}]*\}} ?[A-Z]{{2,}}|{_STYLED}|\\\| ?[^|=]+ ?\\\||[A-Za-z]_ ?\{{ ?\\text ?\{{[^{{}}]*\}} ?\}}|"
    rf"\| ?[A-Z]{{2}} ?\||{_SEGMENT}(?: ?: ?{_SEGMENT})+"
)
_QUOTIENT: Final = re.compile(rf"\\frac ?\{{ ?{_SEGMENT} ?\}} ?\{{ ?{_SEGMENT} ?\}}|{_SEGMENT}(?: ?/ ?{_SEGMENT})+")
_THING: Final = rf"(?:[A-Zzw](?:{_INDEX})?'*|[A-Z]{{2}}|{_STYLED})"  # of which |..| is the size, and no real number
_MEASURE: Final = re.compile(
    rf"\| ?{_THING}(?: ?\\(?:cup|cap|setminus|times)(?![A-Za-z]) ?{_THING})* ?\||"
    rf"\\(?:det|max|min|arg|Re|Im) ?[({{]? ?{LETTER} ?[)}}]?|\\(?:gcd|lcm|max|min) ?\( ?{LETTER}(?: ?, ?{LETTER})+ ?\)"
)
_WORKED_OUT: Final = re.compile(r"\\lim ?_.*|\\(?:i*nt|oint)(?![A-Za-z])(?= ?_|.*(?<![A-Za-z\\])d ?[a-z]).*")
_OF_ANGLE: Final = re.compile(  # \sin x = 1 is an equation for x
    rf"\\(?:(?P<bounded>sin|cos)|tan|cot) ?[({{]? ?(?:\\angle ?[A-Z]+|[A-Z]+|{_GREEK}) ?[)}}]?"
)
_PLUS: Final = re.compile("[+-]")
_TERM: Final = re.compile(r"(\d*) ?(.*)", re.DOTALL)
_LINE_LETTERS: Final = frozenset("xyzt")
_SIZE_COST: Final = 0.02  # seconds at most


def is_quantity(text: str) -> bool:
    r"""Is this the name of one quantity, `x`, `f(2)`, `P(A)`, `AB`, `\text{area}`?

    >>> [is_quantity(text) for text in ("x_1", "f(x+1)", "AB", "Area", "xyz", "n(n+1)", "m+n")]
    [True, True, True, True, False, False, False]
    """
    if _WORD.fullmatch(text):
        return text.isupper() or is_word(text) or text.lower() in NO_UNITS | SHORT_NAMES or len(text) > 4
    return bool((_NAME.fullmatch(text) or _QUANTITY.fullmatch(text)) and not _OWN_ARGUMENT.fullmatch(text))


def is_name(text: str, *, wide: bool) -> bool:
    r"""Is this what may stand before the value of an answer?

    Args:
        text: Normalised.
        wide: Of the model's answer, where the right one has no name. Else quotients of segments are names, but not sums.

    >>> [is_name(text, wide=True) for text in ("m+n", "|z|", r"\tan A", "mn", "m^2", "|x|", "m/n", "2x+y")]
    [True, True, True, False, False, False, False, False]
    """
    if is_quantity(text):
        return True
    if not wide:
        return bool(_QUOTIENT.fullmatch(text))
    return any(pattern.fullmatch(text) for pattern in (_MEASURE, _WORKED_OUT, _OF_ANGLE)) or _is_sum(text)


def is_impossible(name: str, value: str) -> bool:
    r"""Is this the sine or cosine of an angle, with a value that none has?"""
    match = _OF_ANGLE.fullmatch(name)
    if match is None or not match["bounded"]:
        return False
    size = read_value(value, Budget(_SIZE_COST))
    return size is not None and abs(size) > 1


def _is_sum(text: str) -> bool:
    """Is this a sum or difference of different names, `10p+q`? `2x+y` is the left side of a line."""
    parts, signs = split_outside(text, _PLUS)
    if not parts[0] and "+" in signs:  # -a+b, but not -a or -a-b
        del parts[0]
    terms = [match.groups() for part in parts if (match := _TERM.fullmatch(part))]
    names = {name for _, name in terms}
    of_line = names <= _LINE_LETTERS and any(factor for factor, _ in terms)
    return len(names) == len(terms) > 1 and all(map(is_quantity, names)) and not of_line
