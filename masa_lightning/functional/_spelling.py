# ruff: noqa: RUF001 (signs that look like others are what this file is about)
r"""One spelling for what people and models write in many: signs, commands, text, dress, blanks. Linear time, never raises.

`normalise` is the one way in. What it changes never changes the meaning of an answer; in doubt it leaves things alone.
Afterwards every text command is `\text{...}`, every fraction `\frac{..}{..}`, `\le`, `\leqslant` and ≤ are `\leq`, `1.5e3`
is `1.5\times10^{3}`, upright i and e are i and e, and no dollar is left but `\$` before a number.
"""

from __future__ import annotations

import re
from typing import Final

_TEXT_COMMANDS: Final = (
    "text textrm textnormal textup textmd textbf textit textsl textsc textsf texttt emph mathrm mbox hbox rm "
    "operatorname operatorname*"
)
# Styles of letters and digits that are still maths. Old switches (\bf) work to the end of their group.
_STYLES: Final = "mathbf boldsymbol bm pmb mathit mathsf mathtt mathnormal ensuremath underline textcircled circled"
_SWITCHES: Final = "bf it sf tt sc em bfseries itshape normalfont"
_DROPPED: Final = (
    "left right middle big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm biggl biggr biggm Biggl Biggr Biggm displaystyle "
    "textstyle scriptstyle tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge limits nolimits "
    "strut mathstrut null phantom hfill checkmark blacksquare qed"
)
_BLANKS: Final = "quad qquad enspace enskip thinspace medspace thickspace nobreakspace space"
# \text{sin} is \sin; \text{sec} and \text{min} are units.
_FUNCTION_NAMES: Final = "sin cos tan cot csc arcsin arccos arctan sinh cosh tanh coth log ln exp max gcd lcm det"
_FUNCTIONS: Final = frozenset(_FUNCTION_NAMES.split())
_COMMANDS: Final = {
    **dict.fromkeys(_TEXT_COMMANDS.split(), "\\text"),
    **dict.fromkeys(_STYLES.split(), "\\style"),
    **dict.fromkeys(_DROPPED.split(), ""),
    **dict.fromkeys(_SWITCHES.split(), " "),
    **dict.fromkeys(_BLANKS.split(), " "),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "nicefrac", "sfrac", "flatfrac"), "\\frac"),
    **dict.fromkeys(("ne", "not="), "\\neq"),
    **dict.fromkeys(("le", "leqslant", "leqq", "eqslantless"), "\\leq"),
    **dict.fromkeys(("ge", "geqslant", "geqq", "eqslantgtr"), "\\geq"),
    **dict.fromkeys(("vert", "lvert", "rvert"), "|"),
    **dict.fromkeys(("varnothing", "empty", "O"), "\\emptyset"),
    **dict.fromkeys(("dots", "ldots", "cdots", "dotsc", "dotsb"), "\\ldots"),
    **dict.fromkeys(("thickapprox", "approxeq"), "\\approx"),
    **dict.fromkeys(("degree", "textdegree"), "^\\circ"),
    **dict.fromkeys(("textdollar", "mathdollar"), "\\$"),
    **dict.fromkeys(("euro", "texteuro", "EUR"), "€"),
    **dict.fromkeys(("pounds", "textsterling"), "£"),
    **dict.fromkeys(("yen", "textyen"), "¥"),
    "lt": "<",
    "gt": ">",
    "colon": ":",
    "lbrace": "\\{",
    "rbrace": "\\}",
    "lbrack": "[",
    "rbrack": "]",
    "lparen": "(",
    "rparen": ")",
    "Reals": "\\mathbb{R}",
    "smallsetminus": "\\setminus",
    "backslash": "\\setminus",
    "textpm": "\\pm",
    "infin": "\\infty",
    "rightarrow": "\\to",
}
_GREEK: Final = (
    "αalpha βbeta γgamma δdelta εepsilon ζzeta ηeta θtheta κkappa λlambda μmu νnu ξxi πpi ρrho σsigma τtau φphi χchi "
    "ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΦPhi ΨPsi"
)
_SIGNS: Final = str.maketrans(
    {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)}  # full width
    | dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe63", "-")
    | dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u2061\u2062", "")
    | dict.fromkeys("✓✔☑□■∎", "")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | dict.fromkeys("\u2018\u2019", "'")
    | {word[0]: f"\\{word[1:]} " for word in _GREEK.split()}
    | {
        "\u3001": ",",
        "\u3002": ".",
        "\u3010": "[",
        "\u3011": "]",
        "×": "\\times ",
        "✕": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "∙": "\\cdot ",
        "÷": "\\div ",
        "∕": "/",
        "⁄": "/",
        "≤": "\\leq ",
        "⩽": "\\leq ",
        "≥": "\\geq ",
        "⩾": "\\geq ",
        "≠": "\\neq ",
        "≈": "\\approx ",
        "±": "\\pm ",
        "∓": "\\mp ",
        "∞": "\\infty ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∈": "\\in ",
        "∉": "\\notin ",
        "∅": "\\emptyset ",
        "⌀": "\\emptyset ",
        "∖": "\\setminus ",
        "ℝ": "\\mathbb{R}",
        "ℤ": "\\mathbb{Z}",
        "ℕ": "\\mathbb{N}",
        "ℚ": "\\mathbb{Q}",
        "ℂ": "\\mathbb{C}",
        "→": "\\to ",
        "…": "\\ldots ",
        "∣": "|",
        "∠": "\\angle ",
        "△": "\\triangle ",
        "°": "^\\circ ",
        "º": "^\\circ ",
        "∛": "\\sqrt[3]",
        "√": "\\sqrt",
        "½": "\\frac{1}{2}",
        "⅓": "\\frac{1}{3}",
        "⅔": "\\frac{2}{3}",
        "¼": "\\frac{1}{4}",
        "¾": "\\frac{3}{4}",
        "⅕": "\\frac{1}{5}",
        "⅙": "\\frac{1}{6}",
        "⅛": "\\frac{1}{8}",
        "⅜": "\\frac{3}{8}",
        "⅝": "\\frac{5}{8}",
        "⅞": "\\frac{7}{8}",
    }
)
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS: Final = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED: Final = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_POWER: Final = re.compile(r"\^\{([0-9n])\}(?![0-9])")
_LOWERED: Final = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_PLAIN: Final = re.compile(r"-?\d+(?:\.\d+)?")
_MATHS: Final = (("\\(", "\\)"), ("\\[", "\\]"))
_DRESS: Final = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("``", "''"),
    ("'", "'"),
    ("{", "}"),
)
_COMMAND: Final = re.compile(r"\\(not ?=|operatorname\*|[A-Za-z]+)")
_COLOUR: Final = re.compile(
    r"\\(?:textcolor|colorbox|color|fcolorbox ?\{[^{}]*\}) ?(?:\[[^\[\]]*\] ?)?\{[^{}]*\}|"
    r"\\[hv]space\*? ?\{[^{}]*\}|\\(?:label|tag|phantom) ?\{[^{}]*\}|\\(?:left|right)\s*\."
)
_THIN: Final = re.compile(r"\\!\s*")
_SPACE: Final = re.compile(r"(?<!\\)\\[,;:> ]|~|\s+")
_ROOM: Final = re.compile(r"(?<!\\)\\\\(?=\s*$)")
_DEGREE: Final = re.compile(
    r" ?\^ ?(?:\\circ|\{ ?\\circ ?\})(?![a-zA-Z])(?: ?(?:\\text ?\{ ?([CFK]) ?\}|([CFK])(?![\w])))?"
)
_NO_BRACES: Final = re.compile(
    r"\\(math(?:rm|bf|it|sf|tt)|text[a-z]*|operatorname|boldsymbol|bm) +([A-Za-z0-9])(?![A-Za-z])"
)
_SWITCHED: Final = re.compile(
    r"(?<!\\)\{ ?\\text(?![a-zA-Z]|\s*\{)\s*([^{}\\]*)\}|\\text(?![a-zA-Z]|\s*\{)\s*([^{}\\]*)$"
)
_TEXT: Final = re.compile(r"\\text ?\{((?:[^{}]|\{[^{}]*\})*)\}(?= ?(_)?)")
_STYLE: Final = re.compile(r"\\style ?\{((?:[^{}]|\{[^{}]*\})*)\}|\\style ?")
_WHOLE_TEXT: Final = re.compile(r"\\text ?\{([^{}]*)\}")
_NO_LETTERS: Final = re.compile(r"(?:[^A-Za-z\\]|\\[$%,])*")
_FRACTION: Final = re.compile(r"\\frac ?(?:\{ ?([^{} ]+) ?\}|([0-9a-zA-Z])) ?(?:\{ ?([^{} ]+) ?\}|([0-9a-zA-Z]))")
_ROOT: Final = re.compile(r"\\sqrt ?(\[\d+\])? ?(?:\(([^()]*)\)(?=[^\w^(]|$)|([0-9]+(?![.\d])|[a-zA-Z](?![a-zA-Z])))")
_PLAIN_ROOT: Final = re.compile(r"(?<![\\A-Za-z])sqrt ?(?:\(([^()]*)\)|(?=\{))")
_PLAIN_NAME: Final = re.compile(r"(?<![\\A-Za-z])(?:(pi)|infinity|infty)(?![A-Za-z])")
_SCIENTIFIC: Final = re.compile(r"(?<![\w.}\\])(\d+(?:\.\d*)?|\.\d+)[eE]\+?(-?)0*(\d+)(?![\w.{])")
_SUCH_THAT: Final = re.compile(
    r"(\\\{ ?[A-Za-z](?: ?\\in ?\\mathbb ?\{? ?[A-Z] ?\}?(?:\^ ?[+*-])?)?) ?(?:\\mid(?![a-zA-Z])|\||:)(?!=) ?"
)
_NOTHING: Final = re.compile(r"\\\{ ?\\\}")
_BLANK_GROUPS: Final = re.compile(
    r"(?<![\w.,/^_}\\])(?<![\w}] )[1-9]\d{0,2}(?: \d{3})+(?!\w|\{(?!,\})|,\d{3}(?!\d)| ?[/^_!]| ?\\frac| \d)"
)
_LATEX_COMMAS: Final = re.compile(r"(?<![\w.,])(?<!\{,\})\d+(?:\{,\}\d+)+(?![\w,]|\{,\})")
_DOT_GROUPS: Final = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\w.])")
_COMMA_GROUPS: Final = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])")
_DECIMAL_COMMA: Final = re.compile(r"([+-]? ?)(0|[1-9]\d{0,2}(?:\.\d{3})+|[1-9]\d*),(\d+)(?!\d)")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_LOOSE_SPACE: Final = re.compile(r"(?<!\d) | (?!\d)")


def normalise(text: str) -> str:
    """Writes an answer in the one spelling that the comparisons read."""
    if _PLAIN.fullmatch(text):
        return text
    if not text.isascii():
        text = _LOWERED.sub(lambda run: f"_{{{run[0].translate(_SUBSCRIPTS)}}}", text.translate(_SIGNS))
        text = _RAISED.sub(lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", text)
        text = _POWER.sub(r"^\1", text)
    if "\\" in text:
        text = _commands(text)
    text = _dollars(text)
    text = " ".join(_SPACE.sub(" ", text).split())
    text = _undress(text)
    text = _words_and_roots(text)
    text = _SCIENTIFIC.sub(r"\1\\times10^{\2\3}", _ungroup(text))
    return text.strip()


def squeeze(text: str) -> str:
    """Removes spaces, but for those between digits."""
    return _LOOSE_SPACE.sub("", text)


def join_thousands(text: str) -> str:
    """Joins digits that commas group in threes; where commas may also part elements, that is one of two readings."""
    return _COMMA_GROUPS.sub(lambda match: match[0].replace(",", ""), text) if "," in text else text


def decimal_comma(text: str) -> str | None:
    """Reads a whole text as a number with a decimal comma, "3,14" or "1.234,56"; None if it is none.

    A comma before three digits parts thousands. "3,14" may also be a list, so this is for what a model wrote where the
    right answer is one number.
    """
    match = _DECIMAL_COMMA.match(text)
    if match is None or (len(match[3]) == 3 and "." not in match[2] and match[2] != "0") or "," in text[match.end() :]:
        return None
    return f"{match[1]}{match[2].replace('.', '')}.{match[3]}{text[match.end() :]}"


def _dollars(text: str) -> str:
    """Takes off dollars that mark maths; a dollar of money stays before a number."""
    if "$" in text:
        text = text.replace("\\$", "\x00").replace("$", "")
        text = re.sub(r"\x00(?=\s*-?\s*[\d.])", r"\\$", text).replace("\x00", "")
    text = text.strip()
    for opening, closing in _MATHS:
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    return text


def _commands(text: str) -> str:
    text = _NO_BRACES.sub(r"\\\1{\2}", _COLOUR.sub("", _THIN.sub("", text)))
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match[1].replace(" ", ""), match[0]), text)
    text = re.sub(r"\\not\\in(?![a-zA-Z])", r"\\notin", text)
    text = _SWITCHED.sub(lambda match: rf"\text{{{match[1] or match[2] or ''}}}", text)
    for _ in range(4):  # styles within styles
        text = _STYLE.sub(_style, text)
    text = _DEGREE.sub(lambda match: rf"\text{{ deg{match[1] or match[2]}}}" if match[1] or match[2] else "", text)
    text = _TEXT.sub(_text, text)
    text = _FRACTION.sub(lambda match: rf"\frac{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}", text)
    return _SUCH_THAT.sub(r"\1 \\mid ", _NOTHING.sub(r"\\emptyset", text))


def _style(match: re.Match[str]) -> str:
    content = match[1] or ""
    return f"{{{content}}}" if match.string[match.start() - 1 : match.start()] in ("^", "_") else content


def _text(match: re.Match[str]) -> str:
    """Keeps text as text, unless it is maths: signs, numbers, upright i and e, names of functions."""
    content = _WHOLE_TEXT.sub(r"\1", match[1]).strip()
    if content in ("i", "e") or (match[2] and re.fullmatch("[0-9A-Z]+", content)):
        return content
    if content in _FUNCTIONS:
        return f"\\{content} "
    whole = _WHOLE_TEXT.sub(r"\1", match[1])
    return whole if _NO_LETTERS.fullmatch(content) else rf"\text{{{whole}}}"


def _undress(text: str) -> str:
    """Takes off what stands around all of a text: emphasis, quotes, braces, a full stop."""
    while True:
        before = text
        text = re.sub(r"(?<![.\\,;])[.,;]$|(?<!\\)\\$", "", _ROOM.sub("", text)).strip()
        for opening, closing in _DRESS:
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                if _is_whole(inner, opening, closing):
                    text = inner.strip()
        if whole := _WHOLE_TEXT.fullmatch(text):
            text = whole[1].strip()
        if text == before:
            return text


def _is_whole(inner: str, opening: str, closing: str) -> bool:
    """Does the sign that opens belong to the one that closes?"""
    if opening == closing or "{" not in inner:
        return opening not in inner and closing not in inner and not inner.endswith("\\")
    depth = 0
    for match in _BRACES.finditer(inner):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth < 0:
            return False
    return depth == 0 and not inner.endswith("\\")


def _words_and_roots(text: str) -> str:
    if "sqrt" in text:
        text = _PLAIN_ROOT.sub(lambda match: "\\sqrt" if match[1] is None else rf"\sqrt{{{match[1]}}}", text)
        text = _ROOT.sub(lambda match: rf"\sqrt{match[1] or ''}{{{match[2] or match[3] or ''}}}", text)
    if "{" in text:
        text = re.sub(r"\{([0-9A-Z]+)\}(?=_)", r"\1", text)
        text = re.sub(r"(?<=[\w)\]])(?<!\\text)\{(or|and)\}", r"\\text{ \1 }", text)
        text = re.sub(r"(?<![\w}\]^_\\ ])\{(\w+)\}", r"\1", text)  # ({H})
    text = _PLAIN_NAME.sub(lambda match: "\\pi" if match[1] else "\\infty", text)
    for sign, command in (("<=", "\\leq "), (">=", "\\geq "), (" != ", " \\neq ")):  # 5!=120 is a factorial
        text = text.replace(sign, command)
    return text


def _ungroup(text: str) -> str:
    """Joins digits that a blank, a dot or a comma in braces groups, where that is their only meaning."""
    text = _BLANK_GROUPS.sub(lambda match: match[0].replace(" ", ""), text)
    text = _DOT_GROUPS.sub(lambda match: match[0].replace(".", ""), text)
    if "{,}" in text:
        alone = "," not in text.replace("{,}", "")
        text = _LATEX_COMMAS.sub(lambda match: _latex_commas(match[0], alone), text).replace("{,}", ",")
    return text.replace("{}", "")


def _latex_commas(text: str, alone: bool) -> str:
    first, *groups = text.split("{,}")
    if len(first) <= 3 and all(len(group) == 3 for group in groups):
        return first + "".join(groups)
    return f"{first}.{groups[0]}" if len(groups) == 1 and alone else text
