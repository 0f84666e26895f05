# ruff: noqa: RUF001 (signs that look like others are what this file is about)
r"""The words, commands and signs that answers are written with: a new spelling is a word in one of these tables.

`_spelling` writes the commands and signs of a text as the first of those that mean the same, `_formula` reads what is left,
`_units` and `_quantity` the words behind a number.
"""

from __future__ import annotations

import re
from typing import Final


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands

GREEK: Final = _words(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "varepsilon vartheta varrho varphi Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar"
)
"""Commands that are letters; `\\pi` is a number."""

_PLAIN: Final = "sin cos tan cot sec csc sinh cosh tanh coth exp log ln"
_INVERSE: Final = "arcsin arccos arctan arccot arcsec arccsc arcsinh arccosh arctanh"
FUNCTIONS: Final = {
    **{name: name for name in _PLAIN.split()},
    "lg": "log",
    **{name: f"a{name[3:]}" for name in _INVERSE.split()},
    **{f"ar{name}": f"a{name}" for name in ("sinh", "cosh", "tanh")},
}
"""Commands of functions of one number, and how `_evaluation` calls them."""

FUNCTIONS_OF_MANY: Final = frozenset({"max", "min", "gcd", "lcm"})

# \text{sin} is \sin; \text{sec} and \text{min} are units.
FUNCTION_WORDS: Final = (frozenset(FUNCTIONS) | FUNCTIONS_OF_MANY | {"det"}) - {"sec", "min"}

_SAME: Final = {  # command: those that mean the same
    "\\text": "text textrm textnormal textup textmd textbf textit textsl textsc textsf texttt emph mathrm mbox hbox rm "
    "operatorname operatorname*",
    # Styles of letters and digits that are still maths. Old switches (\bf) work to the end of their group.
    "\\style": "mathbf boldsymbol bm pmb mathit mathsf mathtt mathnormal ensuremath underline textcircled circled",
    "": "left right middle big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm biggl biggr biggm Biggl Biggr Biggm "
    "displaystyle textstyle scriptstyle tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge "
    "limits nolimits strut mathstrut null phantom hfill checkmark blacksquare qed therefore",
    " ": "bf it sf tt sc em bfseries itshape normalfont quad qquad enspace enskip thinspace medspace thickspace "
    "nobreakspace space",
    "\\frac": "dfrac tfrac cfrac nicefrac sfrac flatfrac",
    "\\binom": "dbinom tbinom",
    "\\neq": "ne not=",
    "\\leq": "le leqslant leqq eqslantless",
    "\\geq": "ge geqslant geqq eqslantgtr",
    "\\approx": "thickapprox approxeq simeq",
    "|": "vert lvert rvert",
    "\\emptyset": "varnothing empty O",
    "\\ldots": "dots ldots cdots dotsc dotsb",
    "^\\circ": "degree textdegree",
    "\\setminus": "smallsetminus backslash",
    "\\cdot": "ast",
    "\\mod": "bmod",
    "\\mathbb{R}": "Reals",
    "\\pm": "textpm",
    "\\infty": "infin",
    "\\to": "rightarrow",
    "\\$": "textdollar mathdollar",
    "€": "euro texteuro EUR",
    "£": "pounds textsterling",
    "¥": "yen textyen",
    "<": "lt",
    ">": "gt",
    ":": "colon",
    "\\{": "lbrace",
    "\\}": "rbrace",
    "[": "lbrack",
    "]": "rbrack",
    "(": "lparen",
    ")": "rparen",
}
COMMANDS: Final = {word: command for command, words in _SAME.items() for word in words.split()}
"""What each command is written as."""

TEXT: Final = re.compile(r"\\text ?\{((?:[^{}]|\{[^{}]*\})*)\}")
"""Text in a normalised answer."""

OR: Final = r",?\s*(?:\\text ?\{[\s,]*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z]))"
AND: Final = r",?\s*(?:\\text ?\{[\s,]*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z])|\\(?:land|wedge)(?![A-Za-z]))"
"""Patterns of the words between the elements of a list, or conditions."""

# Signs

_LETTERS: Final = (
    "αalpha βbeta γgamma δdelta εepsilon ζzeta ηeta θtheta κkappa λlambda μmu νnu ξxi πpi ρrho σsigma τtau φphi χchi "
    "ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΦPhi ΨPsi"
)
_COMMANDS_OF_SIGNS: Final = (
    "×times ✕times ·cdot ⋅cdot ∙cdot ÷div ≤leq ⩽leq ≥geq ⩾geq ≠neq ≈approx ±pm ∓mp ∞infty ∪cup ∩cap ∈in ∉notin "
    "∅emptyset ≡equiv ⌀emptyset ∖setminus →to …ldots ∠angle △triangle √sqrt"
)
_PARTS: Final = ["12", "13", "23", "14", "34", "15", "16", "18", "38", "58", "78"]
SIGNS: Final = str.maketrans(
    {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)}  # full width
    | dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe63", "-")
    | dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u2061\u2062", "")
    | dict.fromkeys("✓✔☑□■∎∴", "")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("∕⁄", "/")
    | dict.fromkeys("°º", "^\\circ ")
    | {word[0]: f"\\{word[1:]} " for word in f"{_LETTERS} {_COMMANDS_OF_SIGNS}".split()}
    | {letter: f"\\mathbb{{{plain}}}" for letter, plain in zip("ℝℤℕℚℂ", "RZNQC", strict=True)}
    | {sign: f"\\frac{{{part[0]}}}{{{part[1]}}}" for sign, part in zip("½⅓⅔¼¾⅕⅙⅛⅜⅝⅞", _PARTS, strict=True)}
    | {"\u3001": ",", "\u3002": ".", "\u3010": "[", "\u3011": "]", "∣": "|", "∛": "\\sqrt[3]"}
)
"""What each sign is written as."""

SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
SUBSCRIPTS: Final = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

# Units

MONEY: Final = frozenset({"dollar", "euro", "pound", "yen", "rupee", "cent", "peso", "franc"})
"""Names of units of money, as `read_unit` writes them."""

_PREFIXES: Final = _pairs(
    "k:kilo M:mega G:giga T:tera h:hecto d:deci c:centi m:milli u:micro µ:micro n:nano p:pico f:femto"
)
_PREFIXED: Final = _pairs(
    "m:meter g:gram s:second A:ampere K:kelvin mol:mole Hz:hertz N:newton Pa:pascal J:joule W:watt C:coulomb V:volt F:farad "
    "Ω:ohm L:liter l:liter eV:electronvolt cal:calorie B:byte Wh:watthour Wb:weber T:tesla Bq:becquerel Gy:gray Sv:sievert "
    "lm:lumen lx:lux bar:bar bit:bit cd:candela M:molar"
)
_OTHERS: Final = _pairs(  # those of the same value share a name
    "in:inch ft:foot yd:yard mi:mile lb:pound lbs:pound oz:ounce ct:cent sec:second min:minute h:hour hr:hour hrs:hour "
    "yr:year wk:week gal:gallon qt:quart pt:pint ha:hectare hp:horsepower atm:atmosphere USD:dollar EUR:euro GBP:pound "
    "INR:rupee Rs:rupee JPY:yen CAD:dollar rad:radian deg:degree degC:degree_c degF:degree_f degK:kelvin am:am AM:am PM:pm "
    "pm:pm rpm:rpm ppm:ppm ppb:ppb psi:psi amu:amu dB:decibel Da:dalton mpg:mpg Å:angstrom °:degree cc:milliliter "
    "sr:steradian erg:erg dyn:dyne mmHg:mmhg €:euro £:pound ¥:yen ₹:rupee ¢:cent $:dollar u:unit kgs:kilogram pts:point "
    "pcs:piece tbsp:tablespoon tsp:teaspoon torr:torr Torr:torr"
)
SYMBOLS: Final = (
    {
        prefix + unit: _PREFIXES[prefix] + name
        for prefix in _PREFIXES
        for unit, name in _PREFIXED.items()
        if prefix + unit not in ("cd", "min", "Pa", "ft", "pt", "mol", "hm", "dd")
    }
    | _PREFIXED
    | _OTHERS
)
"""Symbols and short names of units."""

UNITS: Final = frozenset(SYMBOLS.values()) - {"am", "pm"}
"""Full names of units."""

UNIT_NAMES: Final = _pairs(
    "metre:meter litre:liter feet:foot foot:foot inche:inch penny:cent pence:pence centimetre:centimeter "
    "millimetre:millimeter kilometre:kilometer millilitre:milliliter kilo:kilogram people:person men:man women:woman "
    "buck:dollar"
)
"""Other names of units, in the singular as `_singular` has it."""

COMPOUNDS: Final = {
    "mph": {"mile": 1, "hour": -1},
    **{name: {"kilometer": 1, "hour": -1} for name in ("kph", "kmh", "kmph")},
    "sqft": {"foot": 2},
    "sqm": {"meter": 2},
}
POWER_WORDS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
RAISED_WORDS: Final = {"squared": 2, "cubed": 3}
UPRIGHT_LETTERS: Final = frozenset("mgshlLAKNJWVCFΩµÅu€£¥₹¢°$")
UNIT_LETTERS: Final = UPRIGHT_LETTERS | frozenset("dtDGHMPST")
BARE_PAIRS: Final = _words(
    "cm mm km nm kg mg ng ml mL cl cL dl dL kL Hz kN Pa kW MW mW kV mV mA kJ MJ eV ft yd mi lb oz hr yr kB MB GB TB "
    "pt qt Wb Gy Sv dB ms ns µm µs µg µF µL µA Rs AM PM"
)
"""Symbols of two letters that are no product of letters, without a text command."""

NUMBER_WORDS: Final = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Words behind a number, and the power of ten that they stand for."""

SAME_IN_PLURAL: Final = _words(
    "fish sheep deer cattle shrimp salmon trout money cash change fruit homework luggage furniture water rice bread milk "
    "staff series species total altogether left remaining apiece old tall long"
)
"""Words behind any number that have no form of their own in the plural."""

SHORT_NAMES: Final = _words(
    "sum diff prod avg max min var cov std gcd lcm det dim deg tr rank mean prob arg span size cost"
)
"""Words before `=` that are no units; other lower-case words of up to four letters may be products, as `xyz`."""

PAIRS_THAT_ARE_WORDS: Final = _words("no on up so of if is or in by do go to us we my ok hi")
"""Words of two letters; other pairs of letters are products, unless in a text command."""

SHORT_NOUNS: Final = _words(
    "age ant arm bag bar bat bee bet bit box boy bug bun bus can cap car cat cow cub cup cut day dog dot ear egg eye "
    "fan fly fox gem guy hat hen hit ice jar job key kid leg lot man map men mug net nut old owl pan peg pen pet pie pig "
    "pin pot ram rat ray row rug set ski tap tea tie tin tip ton top toy tub van vat way web win yen"
)
NO_UNITS: Final = _words(
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
"""Words behind a number that change what it says."""
