r"""Words and symbols of units: which there are, which are the same, and how a product of them is read.

A word is a unit if it is in the table, or looks like an English noun: four letters or more with a vowel and no pair of
letters that English lacks (`abcd` and `wxyz` are products of letters), or one of the usual nouns of three letters. Words
that change what a number says are none.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Final

from masa_lightning.functional._singular import singular

MONEY: Final = frozenset({"dollar", "euro", "pound", "yen", "rupee", "cent", "peso", "franc"})
"""Names of units of money, as `read_unit` writes them."""

_PREFIXES: Final = {
    **{"k": "kilo", "M": "mega", "G": "giga", "T": "tera", "h": "hecto", "d": "deci", "c": "centi", "m": "milli"},
    **{"u": "micro", "µ": "micro", "n": "nano", "p": "pico", "f": "femto"},
}
_PREFIXED: Final = {
    **{"m": "meter", "g": "gram", "s": "second", "A": "ampere", "K": "kelvin", "mol": "mole", "Hz": "hertz"},
    **{"N": "newton", "Pa": "pascal", "J": "joule", "W": "watt", "C": "coulomb", "V": "volt", "F": "farad"},
    **{"Ω": "ohm", "L": "liter", "l": "liter", "eV": "electronvolt", "cal": "calorie", "B": "byte", "Wh": "watthour"},
    **{"Wb": "weber", "T": "tesla", "Bq": "becquerel", "Gy": "gray", "Sv": "sievert", "lm": "lumen", "lx": "lux"},
    **{"bar": "bar", "bit": "bit", "cd": "candela", "M": "molar"},
}
# Other symbols and short names; those of the same value share a name.
_SYMBOLS: Final = {
    **{
        "in": "inch",
        "ft": "foot",
        "yd": "yard",
        "mi": "mile",
        "lb": "pound",
        "lbs": "pound",
        "oz": "ounce",
        "ct": "cent",
    },
    **{"sec": "second", "min": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "yr": "year", "wk": "week"},
    **{"gal": "gallon", "qt": "quart", "pt": "pint", "ha": "hectare", "hp": "horsepower", "atm": "atmosphere"},
    **{"USD": "dollar", "EUR": "euro", "GBP": "pound", "INR": "rupee", "Rs": "rupee", "JPY": "yen", "CAD": "dollar"},
    **{
        "rad": "radian",
        "deg": "degree",
        "degC": "degree_c",
        "degF": "degree_f",
        "degK": "kelvin",
        "am": "am",
        "AM": "am",
        "PM": "pm",
        "pm": "pm",
    },
    **{
        "rpm": "rpm",
        "ppm": "ppm",
        "ppb": "ppb",
        "psi": "psi",
        "amu": "amu",
        "dB": "decibel",
        "Da": "dalton",
        "mpg": "mpg",
    },
    **{
        "Å": "angstrom",
        "°": "degree",
        "cc": "milliliter",
        "sr": "steradian",
        "erg": "erg",
        "dyn": "dyne",
        "mmHg": "mmhg",
    },
    **{"€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "¢": "cent", "$": "dollar", "u": "unit", "kgs": "kilogram"},
    **{"pts": "point", "pcs": "piece", "tbsp": "tablespoon", "tsp": "teaspoon", "torr": "torr", "Torr": "torr"},
}
_NAMES: Final = {
    **{"metre": "meter", "litre": "liter", "feet": "foot", "foot": "foot", "inche": "inch", "penny": "cent"},
    **{"pence": "pence", "hour": "hour", "dollar": "dollar", "centimetre": "centimeter", "millimetre": "millimeter"},
    **{"kilometre": "kilometer", "millilitre": "milliliter", "kilo": "kilogram", "sqft": "foot^2", "people": "person"},
    **{"men": "man", "women": "woman", "buck": "dollar"},
}
_COMPOUNDS: Final = {
    "mph": {"mile": 1, "hour": -1},
    "kph": {"kilometer": 1, "hour": -1},
    "kmh": {"kilometer": 1, "hour": -1},
    "kmph": {"kilometer": 1, "hour": -1},
    "sqft": {"foot": 2},
    "sqm": {"meter": 2},
}
_POWERS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_RAISED: Final = {"squared": 2, "cubed": 3}
_UPRIGHT_LETTERS: Final = frozenset("mgshlLAKNJWVCFΩµÅu€£¥₹¢°$")
_LETTERS: Final = _UPRIGHT_LETTERS | frozenset("dtDGHMPST")
_BARE_PAIRS_TEXT: Final = (
    "cm mm km nm kg mg ng ml mL cl cL dl dL kL Hz kN Pa kW MW mW kV mV mA kJ MJ eV ft yd mi lb oz hr yr kB MB GB TB pt qt "
    "Wb Gy Sv dB ms ns µm µs µg µF µL µA Rs AM PM"
)
_BARE_PAIRS: Final = frozenset(_BARE_PAIRS_TEXT.split())
_SHORT_NOUNS_TEXT: Final = (
    "age ant arm bag bar bat bee bet bit box boy bug bun bus can cap car cat cow cub cup cut day dog dot ear egg "
    "eye fan fly fox gem guy hat hen hit ice jar job key kid leg lot man map men mug net nut owl pan peg pen pet "
    "pie pig pin pot ram rat ray row rug set ski tap tea tie tin tip ton top toy tub van vat way web win yen"
)
_SHORT_NOUNS: Final = frozenset(_SHORT_NOUNS_TEXT.split())
_NO_UNIT_TEXT: Final = (
    # they compare, join or deny
    "or and more less fewer not no than least most at if when for except but with without where then else so only "
    "about approximately around roughly nearly almost over under above below between either neither both each every "
    "to the a an is are was be by from into onto on as that this these those which what since until there here "
    # they count
    "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand "
    "million billion trillion dozen pair half halve third fourth fifth sixth seventh eighth ninth tenth hundredth "
    "thousandth millionth quarter percent double triple twice thrice "
    # they calculate
    "times minus plus mod modulo base squared cubed remainder factorial choose root power divided multiplied equal "
    "equals out pi sin cos tan cot sec csc log ln exp sqrt sine cosine tangent arcsin arccos arctan sinh cosh tanh "
    "infinity infinitely none undefined prime even odd true false imaginary negative positive real option answer "
    "inverse reciprocal conjugate transpose binary octal decimal hexadecimal "
    "unknown error wrong incorrect impossible maybe unless does exist exists never always exclude excluded excluding "
    "score gross grand lakh crore googol"
)
_COUNTS: Final = re.compile(
    r"[a-z]+illion(?:th)?|(?:thir|four|fif|six|seven|eigh|nine)teen(?:th)?|[a-z]+tieth|eleventh|twelfth"
)
_NO_UNIT: Final = frozenset(_NO_UNIT_TEXT.split())
# Letters that follow a, b, c, ... in English words.
_FOLLOWERS_TEXT: Final = (
    "abcdefghijklmnopqrstuvwxyz abeijlorstuy acehiklorstuy adegijlmnorsuvwy abcdefghiklmnopqrstuvwxyz aefilorstuy "
    "aeghilmnorsuy aeilmnorstuwy abcdefghijklmnopqrstuvxz aeiou aefhiklmnostuwy abcdefgiklmnoprstuvwyz abefilmnopsuy "
    "acdefghijklmnoqstuvxyz abcdefghijklmnoprstuvwxyz aehilmnoprstuy u abcdefghijklmnopqrstuvwxy abcefghiklmnopqstuwy "
    "acefhilmnorstuwyz abcdefgiklmnopqrstuvxyz aeioy abdefhiklnorsty acehimopstuwy abcdefgilmnoprstuwz aeiloyz"
)
_FOLLOWERS: Final = dict(zip("abcdefghijklmnopqrstuvwxyz", _FOLLOWERS_TEXT.split(), strict=True))
_PIECE: Final = re.compile(
    r"(?P<upright>\x01?)(?P<word>[A-Za-zµμΩΩÅ]+(?:\.[A-Za-z]+)*\.?|[€£¥₹¢°$])|\^ ?(?:\{ ?(?P<power>[+-]?[1-9]) ?\}|"
    r"(?P<bare_power>[+-]?[1-9]))|(?P<digit>(?<=[A-Za-z])[+-]?[1-9](?!\d))|(?P<sign>[/*()])|(?P<space> +|-)"
)


def is_word(word: str) -> bool:
    """Does this look like an English noun, in lower case or with a capital?

    >>> [is_word(word) for word in ("apples", "ways", "cup", "daps", "xy", "abc", "abcd", "wxyz", "million")]
    [True, True, True, True, False, False, False, False, False]
    """
    low = word.lower()
    if word[1:] != low[1:] or not (low.isascii() and low.isalpha()):
        return False
    if low in _NO_UNIT or singular(low) in _NO_UNIT or _COUNTS.fullmatch(singular(low)):
        return False
    if len(low) < 4:
        return low in _SHORT_NOUNS
    vowels = any(letter in "aeiou" for letter in low) or "y" in low[1:]
    return len(low) <= 20 and vowels and all(b in _FOLLOWERS[a] for a, b in pairwise(low))


def _symbol(word: str, *, upright: bool, letters: bool) -> dict[str, int] | None:
    """Reads a symbol or a name of the table: the units in it with their powers; None if it is not there.

    Args:
        word: Without its full stop.
        upright: In a text command.
        letters: Bare symbols of one letter count too.
    """
    if word in _COMPOUNDS or word.lower() in _COMPOUNDS:
        return _COMPOUNDS[word.lower()]
    word = word.replace("μ", "µ").replace("Ω", "Ω")
    if len(word) == 1 and word not in (_LETTERS if letters else _UPRIGHT_LETTERS if upright else "€£¥₹¢°$Ω"):
        return None
    if len(word) == 2 and not upright and not letters and word not in _BARE_PAIRS:
        return None
    name = _SYMBOLS.get(word) or _TABLE.get(word)
    if name is None and len(word) > 2:
        low = singular(word.lower())
        name = _NAMES.get(low) or _NAMES.get(word.lower()) or (low if low in _FULL_NAMES else None)
        name = name or (_SYMBOLS.get(word.lower()) if word.isupper() else None)
    return {name: 1} if name else None


def read_unit(text: str, *, letters: bool = False) -> str:
    r"""Reads a whole text as a unit, and writes it so that equal ones are equal texts; "" if it is none.

    Args:
        text: Words in a text command have \x01 before them.
        letters: Bare symbols of one letter count.

    >>> read_unit("\x01km / \x01hr"), read_unit("miles per hour"), read_unit("square feet"), read_unit("xy")
    ('hour^-1 kilometer', 'hour^-1 mile', 'foot^2', '')
    """
    powers: Counter[str] = Counter()
    last: dict[str, int] = {}
    sign, in_group, raise_next, position, words, named = 1, False, 1, 0, 0, False
    letters = letters or ("/" in text and text.lstrip(" (")[:1] != "/")  # 5 m/s, not 5/s
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            return ""
        position = match.end()
        if match["sign"]:
            if match["sign"] == "/":
                sign = -1
            elif match["sign"] == "(":
                in_group = True
            elif match["sign"] == ")":
                sign, in_group = 1, False
            continue
        if match["space"]:
            continue
        if power := match["power"] or match["bare_power"] or match["digit"]:
            if not last or (match["digit"] and not letters):
                return ""
            _raise(powers, last, int(power))
            last = {}
            continue
        word, upright = match["word"].replace(".", ""), bool(match["upright"])
        low = word.lower()
        words += 1
        if word == "US":
            continue
        if low == "per":
            sign = -1
        elif low == "of" and powers:
            named = True
        elif low in _RAISED and last:
            _raise(powers, last, _RAISED[low])
            last = {}
        elif low in _POWERS:
            raise_next = _POWERS[low]
        else:
            found = _symbol(word, upright=upright, letters=letters)
            if found is None and is_word(word):
                found = {singular(low): 1}
            if found is None or words > 8:
                return ""
            last = {} if named else {name: power * sign * raise_next for name, power in found.items()}
            powers.update(last)
            raise_next = 1
            sign = sign if in_group else 1
    names = (name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if power)
    return " ".join(names)


def _raise(powers: Counter[str], last: dict[str, int], power: int) -> None:
    for name, once in last.items():
        powers[name] += once * (power - 1)


_TABLE: Final = _PREFIXED | {
    prefix + unit: _PREFIXES[prefix] + name
    for prefix in _PREFIXES
    for unit, name in _PREFIXED.items()
    if prefix + unit not in ("cd", "min", "Pa", "ft", "pt", "mol", "hm", "dd")
}
_FULL_NAMES: Final = frozenset(_TABLE.values()) | frozenset(_SYMBOLS.values()) - {"am", "pm"}
