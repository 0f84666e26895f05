r"""A number, and a value with its unit: the one reading of both, on text that `_spelling.normalise` has been through.

What counts as a unit: a sign of money, a symbol of `_units`, or an English word (`_units.is_word`), alone or as a product
or quotient of up to 6, behind the value; money also before it. Bare, without a text command, a symbol of one letter is a
letter and one of two letters has to be a usual one, so that `5 xy`, `5m` and `3d` are products. Words that change the
number ("million", "half", "more") are no units.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from masa_lightning.functional._evaluation import Budget, real_value
from masa_lightning.functional._formula import read_formula
from masa_lightning.functional._units import counts_things, is_word, read_unit
from masa_lightning.functional._vocabulary import MONEY

_SIGN: Final = r"([+-]? ?)"
_POWER: Final = r"10 ?\^ ?(?:\{ ?([+-]?\d{1,3}) ?\}|([+-]?\d{1,3}))"
_DECIMAL: Final = re.compile(rf"{_SIGN}(\d+(?:\.\d*)?|\.\d+)(?: ?(?:\\times|\\cdot|\*|x) ?{_POWER})?")
_POWER_ALONE: Final = re.compile(_SIGN + _POWER)
_SLASH: Final = re.compile(r"([+-]? ?\d+) ?/ ?(\d+)")
_FRAC: Final = re.compile(r"([+-]? ?)\\frac ?\{ ?([+-]? ?\d+) ?\} ?\{ ?(\d+) ?\}")
_MIXED: Final = re.compile(r"([+-]? ?)(\d+)(?: (\d+) ?/ ?(\d+)| ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\})")
_REPEATING: Final = re.compile(r"([+-]? ?)(\d*)\.(\d*)\\overline ?(?:\{ ?(\d+) ?\}|(\d))")
_PERCENT: Final = re.compile(r" ?(?:\\?%|\\text ?\{ ?(?:per ?cent|pct) ?\}|per ?cent)$|(?<=\d) pct$")

TIME: Final = re.compile(r"\d{1,2} ?: ?[0-5]\d(?: ?: ?[0-5]?\d)?")
"""What may be a time."""

_CLOCK: Final = re.compile(
    r"(?:(?P<time>\d{1,2}(?: ?: ?[0-5]\d){0,2})(?P<hour> ?o['\u2019]clock)?)?(?: ?(?:(?P<half>[AaPp])\.? ?[Mm]\.?|"
    r"(?i:(?P<middle>noon|midnight)|in the (?P<part>morning|afternoon|evening))))?"
    r"(?: ?(?:sharp|exactly))?(?: ?\(?(?P<zone>(?:[ECMP][SD]?|CES?|GM|BS|IS|JS)T|UTC)\)?)?"
)
_SAID: Final = re.compile(r":|noon|midnight|o['\u2019]clock", re.IGNORECASE)
_HALVES: Final = {"noon": "p", "midnight": "a", "morning": "a", "afternoon": "p", "evening": "p"}
_TEXT_MARKS: Final = re.compile(r"\\text ?|[{}~]")

_RATIO: Final = re.compile(r"([\d.]+) ?: ?([\d.]+)")
_MONEY_BEFORE: Final = re.compile(
    r"([+-]? ?)(?:\\text ?\{ ?)?(?:US)?(\\\$|[€£¥₹]|Rs\b|USD\b|EUR\b|GBP\b|INR\b)\.? ?\}? ?"
    r"(?=[+-]? ?(?:\d|\.\d|\\frac))"
)
_TOKEN: Final = re.compile(
    r"(?P<text>\\text ?\{(?P<words>(?:[^{}]|\{[^{}]*\})*)\})"
    r"|(?P<fraction>\\frac ?\{ ?\\text ?\{(?P<over>[^{}]*)\} ?(?P<raised>\^[^{}]|\^\{[^{}]*\})? ?\} ?"
    r"\{ ?\\text ?\{(?P<under>[^{}]*)\} ?(?P<lowered>\^[^{}]|\^\{[^{}]*\})? ?\})"
    r"|(?P<bare>(?<![\\A-Za-z])[A-Za-zµμΩΩÅ]+\.?|[€£¥₹¢°]|\\(?:mu|Omega|AA)(?![A-Za-z]) ?)"
    r"|(?P<power> ?\^ ?(?:\{ ?[+-]?[1-9] ?\}|[+-]?[1-9])|(?<=[A-Za-z])[+-]?[1-9](?![\d.]))"
    r"|(?P<join> ?(?:/|\\cdot(?![A-Za-z])|\*|[()]) ?| )"
    r"|(?P<other>\\[A-Za-z]+|\\?.)",
    re.DOTALL,
)
_MODULO: Final = re.compile(
    r"(\d{1,9}) ?\(? ?(?:\\p?mod|\\text ?\{ ?\(? ?mod(?:ulo)?|mod(?:ulo)?)(?![A-Za-z])[ {}]*(\d{1,9})[ )}]*"
)
_SIX_PLACES: Final = Fraction(5, 10**7)
_SIX_DIGITS: Final = Fraction(5, 10**6)  # relative
_WHOLE_TO: Final = 2**64
_DIGITS_OF_DOUBLE: Final = 10**17
_NO_STEP: Final = Fraction(0)
_MAX_UNIT_TOKENS: Final = 24
_WORD: Final = re.compile(r"[A-Za-zµμΩΩÅ€£¥₹¢]+(?:\.[A-Za-z]+)*")
_ANY_COMMAND: Final = re.compile(r"\\[A-Za-z]+")
_LATIN: Final = re.compile(r"[A-Za-z]+")
_OF_ANGLE: Final = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_MICRO: Final = re.compile(r"\\(mu|Omega|AA)(?![A-Za-z]) ?")
_MICRO_SIGNS: Final = {"mu": "µ", "Omega": "Ω", "AA": "Å"}
_NO_VALUE: Final = re.compile(
    r".*[-_^+=(\[{,<>&|!;:]|.*\\(?:times|cdot|pm|mp|leq|geq|neq|approx|in|to|cup|cap)|", re.DOTALL
)


class Number(NamedTuple):
    """A rational number, and what its spelling says: is it a percentage, is it a (perhaps rounded) decimal?"""

    value: Fraction
    percent: bool
    step: Fraction = _NO_STEP  # the size of the last digit of a decimal

    @property
    def decimal(self) -> bool:
        return self.step > 0

    @property
    def meanings(self) -> tuple[Fraction, ...]:
        """The factors that it may be meant with: a percent sign is a unit or a hundredth."""
        return (Fraction(1), Fraction(1, 100)) if self.percent else (Fraction(1),)


def read_number(text: str) -> Number | None:
    """Reads a whole number, fraction, mixed number, decimal or power of ten; None if the text is anything else."""
    bare, percent = split_percent(text)
    try:
        if match := _DECIMAL.fullmatch(bare):
            value, (_, point, places) = Fraction(match[2].removesuffix(".")), match[2].partition(".")
            step = Fraction(1, 10 ** len(places)) if point else _NO_STEP
            if exponent := match[3] or match[4]:
                value, step = (size * Fraction(10) ** int(exponent) for size in (value, step))
            return Number(_signed(match[1], value), percent, step)
        if match := _SLASH.fullmatch(bare):
            return Number(Fraction(int(match[1].replace(" ", "")), int(match[2])), percent)
        if match := _FRAC.fullmatch(bare):
            return Number(_signed(match[1], Fraction(int(match[2].replace(" ", "")), int(match[3]))), percent)
        if match := _MIXED.fullmatch(bare):
            part = Fraction(int(match[3] or match[5]), int(match[4] or match[6]))
            if part >= 1:
                return None  # 2\frac{7}{3} may be a product
            return Number(_signed(match[1], int(match[2]) + part), percent)
        if match := _REPEATING.fullmatch(bare):
            period = match[4] or match[5]
            once, whole = int(f"{match[2]}{match[3]}{period}"), int(f"0{match[2]}{match[3]}")
            value = Fraction(once - whole, 10 ** len(match[3]) * (10 ** len(period) - 1))
            return Number(_signed(match[1], value), percent)
        if match := _POWER_ALONE.fullmatch(bare):
            return Number(_signed(match[1], Fraction(10) ** int(match[2] or match[3])), percent)
    except (ValueError, ZeroDivisionError):
        return None
    return None


def read_value(text: str, budget: Budget) -> Fraction | None:
    r"""Returns the value of a number, be it a formula, exact or to many digits; None if the text is no real number.

    Args:
        text: Normalised, without a percent sign or a unit.
        budget: What it may cost.

    >>> read_value("12 1/2", Budget()), read_value(r"\sqrt{16}", Budget()), read_value("9^{9^{9^9}}", Budget())
    (Fraction(25, 2), Fraction(4, 1), None)
    """
    if number := read_number(text):
        return number.value / 100 if number.percent else number.value
    try:
        return real_value(read_formula(text), budget)
    except (ValueError, ArithmeticError, RecursionError):
        return None


def read_ratio(text: str) -> str:
    """Writes `5:2` as a quotient; "" for anything else, and for what may be a time.

    >>> read_ratio("5:2"), read_ratio("3.5 : 7"), read_ratio("10:30"), read_ratio("1:2:3")
    ('(5)/(2)', '(3.5)/(7)', '', '')
    """
    match = _RATIO.fullmatch(text)
    return f"({match[1]})/({match[2]})" if match and not TIME.fullmatch(text) else ""


def same_clock(mine: str, truth: str) -> bool | None:
    """Compares times of day of which one says so: a.m. or p.m., noon, o'clock; what the other leaves out is not asked for.

    None for anything else, and where other words are behind a time.

    >>> [same_clock(time, "3:00 PM") for time in ("3:00 p.m.", "3:00 AM", "3:00", "15:00", "3 PM", "4:00", "3 PM EST")]
    [True, False, True, True, True, False, True]
    >>> same_clock("3:00", "15:00") is None
    True
    """
    if not any(_SAID.search(text) for text in (mine, truth)):
        return None  # 3 pm may be a length, or a product
    first, second = _read_clock(mine), _read_clock(truth)
    if first is None or second is None or not (first.said or second.said):
        return None
    if first.zone and second.zone and not _same_zone(first.zone, second.zone):
        return False
    return not first.times(second.half).isdisjoint(second.times(first.half))


def _same_zone(first: str, second: str) -> bool:
    """Compares names of time zones; ET is EST or EDT.

    >>> [_same_zone(*pair) for pair in (("ET", "EDT"), ("EST", "EDT"), ("GMT", "UTC"), ("CT", "CET"))]
    [True, False, True, False]
    """
    shorter, longer = sorted((first.replace("GMT", "UTC"), second.replace("GMT", "UTC")), key=len)
    return shorter == longer or (len(shorter) == 2 and longer in {f"{shorter[0]}{half}T" for half in "SD"})


class _Clock(NamedTuple):
    """A time as it is written, and what is written with it."""

    hours: int
    minutes: int
    seconds: int
    half: str
    """"a", "p", or "" where none is said."""
    zone: str
    said: bool
    """Whether a word says that it is a time of day."""

    def times(self, other: str) -> set[tuple[int, int, int]]:
        """What it may be, beside a time that says `other` of its half of the day."""
        rest = self.minutes, self.seconds
        if self.half:
            exact = {(self.hours if self.hours > 12 else self.hours % 12 + 12 * (self.half == "p"), *rest)}
            return exact if other else exact | {(self.hours, *rest)}
        return {(self.hours, *rest)}


def _read_clock(text: str) -> _Clock | None:
    bare = re.sub(r" +", " ", _TEXT_MARKS.sub("", text)).strip()
    match = _CLOCK.fullmatch(bare)
    if match is None:
        return None
    time, middle, part = match["time"], (match["middle"] or "").lower(), (match["part"] or "").lower()
    half = (match["half"] or _HALVES.get(middle or part, "")).lower()
    hours, minutes, seconds = (int(digits) for digits in [*re.findall(r"\d+", time or "12"), 0, 0][:3])
    alone = ":" not in (time or "")
    if (
        not (time or middle)
        or (alone and not (half or match["hour"]))  # "5 MT" may be anything
        or hours > (12 if alone else 24)
        or (alone and hours == 0)
        or (hours > 12 and half == "a")
        or (hours == 12 and part)
        or (middle and (hours, minutes, seconds) != (12, 0, 0))
    ):
        return None
    return _Clock(hours, minutes, seconds, half, match["zone"] or "", said=not bare[-1].isdigit())


def split_percent(text: str) -> tuple[str, bool]:
    """Takes off a percent sign at the end, and says whether there was one."""
    bare = _PERCENT.sub("", text)
    return bare, bare != text


def same_number(mine: Number, truth: Number) -> bool:
    """Compares exactly, or a decimal with what it is rounded from."""
    if mine.value == truth.value:  # "10%" and "10" too: the question says whether the answer is in percent
        return True
    my_value, true_value = (n.value / 100 if n.percent else n.value for n in (mine, truth))
    return (
        my_value == true_value
        or (not truth.decimal and any(is_rounded(mine, truth.value * factor) for factor in truth.meanings))
        or (not mine.decimal and any(is_rounded(truth, mine.value * factor) for factor in mine.meanings))
    )


def is_rounded(number: Number, exact: Fraction) -> bool:
    r"""Is a number a decimal that a value is rounded to, at its own last digit and to six places or more?

    Nobody rounds a whole number. The digits that a program prints of a double, 0.6666666666666666, are right too.

    >>> [is_rounded(read_number(text), Fraction(2, 3)) for text in ("0.666667", "0.6666667", "0.66667", "0.6666671")]
    [True, True, False, False]
    """
    if not number.decimal or abs(exact - round(exact)) <= min(abs(exact), Fraction(1)) / _WHOLE_TO:
        return False
    return any(_is_nearest(number.value * factor, number.step * factor, exact) for factor in number.meanings)


def _is_nearest(decimal: Fraction, step: Fraction, exact: Fraction) -> bool:
    error = abs(decimal - exact)
    if error > _SIX_PLACES or error > _SIX_DIGITS * abs(exact):
        return False
    return error <= step / 2 or _is_printed(decimal, step, float(exact))


def _is_printed(decimal: Fraction, step: Fraction, double: float) -> bool:
    """Is this a double, rounded at its own last digit, of the 17 that say all of it?"""
    if abs(decimal) >= step * _DIGITS_OF_DOUBLE or float(decimal) != double:
        return False
    return abs(decimal - Fraction(double)) <= step / 2


def split_unit(text: str, *, letters: bool = False) -> tuple[str, str]:
    r"""Splits "5 cm" into value and unit; the unit is "" if there is none or it might change the value.

    Args:
        text: Normalised.
        letters: Symbols of one letter count without a text command, "5 m".

    >>> split_unit(r"81 \text{ km} / \text{hr}"), split_unit(r"\$5"), split_unit("5 xy"), split_unit("5 apples")
    (('81', 'hour^-1 kilometer'), ('5', 'dollar'), ('5 xy', ''), ('5', 'apple'))
    """
    if text.isdigit():
        return text, ""
    if (modulo := _MODULO.fullmatch(text)) and int(modulo[1]) < int(modulo[2]):
        return modulo[1], f"mod {modulo[2]}"
    before = _MONEY_BEFORE.match(text)
    if before is None:
        return _split_behind(text, letters)
    money = read_unit(before[2].removeprefix("\\"), letters=True)
    value, unit = _split_behind(before[1].strip() + text[before.end() :], letters)
    if unit and money not in unit.split():
        unit = f"{unit} {money}"  # "$5 per hour"
    return value, unit or money


def without_units(predicted: str, expected: str) -> tuple[str, str] | None:
    """Takes off the units of two values, percent signs where both have one; None where both have a unit and these differ."""
    mine, my_unit = split_unit(predicted)
    truth, true_unit = split_unit(expected)
    if bool(my_unit) != bool(true_unit):  # 5 m is 5 times m, but where the other side is in metres
        value, unit = split_unit(predicted if true_unit else expected, letters=True)
        if unit == (my_unit or true_unit):
            return (value, truth) if true_unit else (mine, value)
    if _is_percent_against(mine, truth, my_unit or true_unit):
        return None
    if my_unit and not true_unit and not _counts(predicted, mine):
        return None
    if _differ(my_unit, true_unit):
        return None
    (my_share, my_sign), (true_share, true_sign) = split_percent(mine), split_percent(truth)
    both = my_sign and true_sign and "%" not in my_share + true_share
    return (my_share, true_share) if both else (mine, truth)  # 25% is not 0.25%


def _is_percent_against(mine: str, truth: str, unit: str) -> bool:
    """Is one of two values a percentage, and is there a unit, 5% and 5 cm? A percent sign is another unit."""
    return bool(unit) and "percent" not in unit and split_percent(mine)[1] != split_percent(truth)[1]


def _counts(text: str, value: str) -> bool:
    r"""Is a word behind a value in the table, or a plural? "5 marbles left" counts something, `5\text{ Monday}` may not."""
    words = _LATIN.findall(_ANY_COMMAND.sub(" ", text[len(value) :])) if text.startswith(value) else []
    number = read_number(value)
    single = number is not None and (number.value.denominator > 1 or abs(number.value) == 1)
    return not words or single or bool(_MODULO.fullmatch(text)) or any(map(counts_things, words))


def _differ(mine: str, truth: str) -> bool:
    r"""Are both units there, and not the same? A price without its "per hour" is the same price."""
    if not mine or not truth or mine == truth:
        return False
    short, long = sorted((mine, truth), key=lambda unit: unit not in MONEY)
    rest = set(long.split()) - {short}
    return not (short in MONEY and all("^-" in factor for factor in rest))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign.startswith("-") else value


def _split_behind(text: str, letters: bool) -> tuple[str, str]:
    """Takes the longest unit off the end."""
    if text[-1:].isdigit() and not letters and "^" not in text:
        return text, ""
    if text.endswith("°") and _OF_ANGLE.search(text):
        return text, ""
    run: list[re.Match[str]] = []
    for token in reversed(list(_TOKEN.finditer(text))[-_MAX_UNIT_TOKENS:]):
        if token["other"]:
            break
        run.append(token)
    for index in range(len(run) - 1, -1, -1):
        first = run[index]
        head = text[: first.start()].rstrip()
        if first["power"] or (first["join"] and first["join"].strip() not in ("/", "(")) or _NO_VALUE.fullmatch(head):
            continue
        if first["bare"] and not (head[-1].isdigit() or head[-1] in "})" or head.endswith("\\pi")):
            continue
        glued = (
            first["bare"]
            and head == text[: first.start()]
            and (is_word(first[0]) or (len(first[0]) == 1 and first[0].isascii() and not letters))
        )
        words = "".join(map(_plain, reversed(run[: index + 1]))).strip().replace("µ\x01", "\x01µ")
        unit = "" if glued else read_unit(words, letters=letters)
        if unit:
            return head, unit
    return text, ""


def _plain(token: re.Match[str]) -> str:
    """Writes a token without commands; words of text commands have a mark before them."""
    if token["fraction"]:
        over, under = _marked(token["over"]), _marked(token["under"])
        return f" {over}{token['raised'] or ''} / ({under}{token['lowered'] or ''}) "
    text = token[0] if token["text"] is None else token["words"]
    text = _MICRO.sub(lambda match: _MICRO_SIGNS[match[1]], text).replace("\\cdot", "*")
    return text if token["text"] is None else _marked(text)


def _marked(words: str) -> str:
    return _WORD.sub("\x01\\g<0>", words)
