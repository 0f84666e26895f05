r"""One spelling for what people and models write in many: signs, commands, text, dress, blanks. Linear time, never raises.

`normalise` is the one way in. What it changes never changes the meaning of an answer; in doubt it leaves things alone.
Afterwards every text command is `\text{...}`, every fraction `\frac{..}{..}`, `\le`, `\leqslant` and ≤ are `\leq`, `1.5e3`
is `1.5\times10^{3}`, upright i and e are i and e, and no dollar is left but `\$` before a number.
"""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._vocabulary import (
    COMMANDS,
    FUNCTION_WORDS,
    NUMBER_WORDS,
    SIGNS,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    TEXT,
)

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
_MAX_DRESS: Final = 20  # layers
_COMMAND: Final = re.compile(r"\\(not ?=|operatorname\*|[A-Za-z]+)")
_COLOUR: Final = re.compile(
    r"\\(?:textcolor|colorbox|color|fcolorbox ?\{[^{}]*\}) ?(?:\[[^\[\]]*\] ?)?\{[^{}]*\}|"
    r"\\[hv]space\*? ?\{[^{}]*\}|\\(?:label|tag|phantom) ?\{[^{}]*\}|\\(?:left|right)\s*\."
)
_DOTS: Final = re.compile(r"\.{3,}")
_PRIMES: Final = re.compile(r" ?\^ ?(?:\{ ?((?:\\prime ?)+)\}|(\\prime)(?![A-Za-z]))")
_BASED: Final = re.compile(r"(?<![\w)}\]'])\(([0-9A-F]*\d[0-9A-F]*)\)(?= ?_ ?(?:\d|\{ ?\(? ?(?:\d|\\text)))")
_THIN: Final = re.compile(r"\\!\s*")
_SPACE: Final = re.compile(r"(?<!\\)\\[,;:> ]|~|\s+")
_ROOM: Final = re.compile(r"(?<!\\)\\\\(?=\s*$)")
_DEGREE: Final = re.compile(
    r" ?\^ ?(?:\\circ|\{ ?\\circ ?\})(?![a-zA-Z])(?: ?(?:\\text ?\{ ?([CFK]) ?\}|([CFK])(?![\w])))?"
)
_OF_TEXT: Final = [re.escape(w) for w, command in COMMANDS.items() if command in ("\\text", "\\style") and w != "rm"]
_NO_BRACES: Final = re.compile(rf"\\({'|'.join(_OF_TEXT)}) +([A-Za-z0-9])(?![A-Za-z])")
_SWITCHED: Final = re.compile(
    r"(?<!\\)\{ ?\\text(?![a-zA-Z]|\s*\{)\s*([^{}\\]*)\}|\\text(?![a-zA-Z]|\s*\{)\s*([^{}\\]*)$"
)
_STYLE: Final = re.compile(r"\\style ?\{((?:[^{}]|\{[^{}]*\})*)\}|\\style ?")
_WHOLE_TEXT: Final = re.compile(r"\\text ?\{([^{}]*)\}")
_PAIR: Final = re.compile(r" ?(?!pi)[A-Za-z]{2} ?")  # in a text command a word, else a product
_NO_LETTERS: Final = re.compile(r"(?:[^A-Za-z\\]|\\[$%,])*")
_FRACTION: Final = re.compile(r"\\frac ?(?:\{ ?([^{} ]+) ?\}|([0-9a-zA-Z])) ?(?:\{ ?([^{} ]+) ?\}|([0-9a-zA-Z]))")
_ROOT: Final = re.compile(r"\\sqrt ?(\[\d+\])? ?(?:\(([^()]*)\)(?=[^\w^(]|$)|([0-9]+(?![.\d])|[a-zA-Z](?![a-zA-Z])))")
_PLAIN_ROOT: Final = re.compile(r"(?<![\\A-Za-z])sqrt ?(?:\(([^()]*)\)|(?=\{))")
_PLAIN_NAME: Final = re.compile(r"(?<![\\A-Za-z])(?:(pi)|infinity|infty)(?![A-Za-z])")
_PLAIN_FUNCTION: Final = re.compile(r"(?<![\\A-Za-z{])(sin|cos|tan|ln|log|exp)(?= ?\()")
_NUMBER_WORD: Final = re.compile(
    rf"(?<![\w.,}}\\])(\d+(?:\.\d+)?) ?(?:\\text ?\{{ ?({'|'.join(NUMBER_WORDS)})(?![A-Za-z]) ?([^{{}}]*)\}}|"
    rf"({'|'.join(NUMBER_WORDS)})(?![A-Za-z]))"
)
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
_COMMA_GROUPS: Final = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:,\d{3})+(?![\w,])")
_DOTTED: Final = re.compile(
    r"(?<![\w.])(\d*\.\d*)"
    r"(?:\\dot ?(?:\{ ?(\d+) ?\}|(\d))(?:(\d*)\\dot ?(?:\{ ?(\d) ?\}|(\d)))?|\\bar ?(?:\{ ?(\d+) ?\}|(\d)))"
)
_EQUALS_BEFORE: Final = re.compile(r"^= ?(?=[^=<>])")
_BRACED_SIGN: Final = re.compile(r"(?<![_^])\{([:=<>])\}")  # without the space that LaTeX has around it
_DECIMAL_COMMA: Final = re.compile(r"([+-]? ?)(0|[1-9]\d{0,2}(?:\.\d{3})+|[1-9]\d*),(\d+)(?!\d)")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_LOOSE_SPACE: Final = re.compile(r"(?<!\d) | (?!\d)")


def normalise(text: str) -> str:
    """Writes an answer in the one spelling that the comparisons read."""
    if _PLAIN.fullmatch(text):
        return text
    if not text.isascii():
        text = _LOWERED.sub(lambda run: f"_{{{run[0].translate(SUBSCRIPTS)}}}", text.translate(SIGNS))
        text = _RAISED.sub(lambda run: f"^{{{run[0].translate(SUPERSCRIPTS)}}}", text)
        text = _POWER.sub(r"^\1", text)
    if "\\" in text:
        text = _commands(text)
    if "..." in text:
        text = _DOTS.sub(r"\\ldots ", text)
    text = _dollars(text)
    text = " ".join(_SPACE.sub(" ", text).split())
    text = _EQUALS_BEFORE.sub("", text)
    text = _undress(text)
    text = _words_and_roots(text)
    text = _SCIENTIFIC.sub(r"\1\\times10^{\2\3}", _ungroup(text))
    text = _NUMBER_WORD.sub(_number_word, text)
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
    text = _COMMAND.sub(lambda match: COMMANDS.get(match[1].replace(" ", ""), match[0]), text)
    text = re.sub(r"\\not\\in(?![a-zA-Z])", r"\\notin", text)
    text = _SWITCHED.sub(lambda match: rf"\text{{{match[1] or match[2] or ''}}}", text)
    for _ in range(4):  # styles within styles
        text = _STYLE.sub(_style, text)
    text = _DEGREE.sub(lambda match: rf"\text{{ deg{match[1] or match[2]}}}" if match[1] or match[2] else "°", text)
    text = TEXT.sub(_text, text)
    text = _FRACTION.sub(lambda match: rf"\frac{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}", text)
    if "\\dot" in text or "\\bar" in text:
        text = _DOTTED.sub(lambda match: rf"{match[1]}\overline{{{''.join(filter(None, match.groups()[1:]))}}}", text)
    if "\\prime" in text:
        text = _PRIMES.sub(lambda match: "'" * (match[1] or match[2]).count("prime"), text)
    return _SUCH_THAT.sub(r"\1 \\mid ", _NOTHING.sub(r"\\emptyset", text))


def _number_word(match: re.Match[str]) -> str:
    power = NUMBER_WORDS[match[2] or match[4]]
    return rf"{match[1]}\times10^{{{power}}}" + (rf"\text{{ {match[3]}}}" if match[3] else "")


def _style(match: re.Match[str]) -> str:
    content = match[1] or ""
    return f"{{{content}}}" if match.string[match.start() - 1 : match.start()] in ("^", "_") else content


def _text(match: re.Match[str]) -> str:
    """Keeps text as text, unless it is maths: signs, numbers, upright i and e, names of functions."""
    content = _WHOLE_TEXT.sub(r"\1", match[1]).strip()
    indexed = match.string[match.end() :].lstrip(" ")[:1] == "_"
    if content in ("i", "e") or (indexed and re.fullmatch("[0-9A-Z]+", content)):
        return content
    if content in FUNCTION_WORDS:
        return f"\\{content} "
    whole = _WHOLE_TEXT.sub(r"\1", match[1])
    return whole if _NO_LETTERS.fullmatch(content) else rf"\text{{{whole}}}"


def _undress(text: str) -> str:
    """Takes off what stands around all of a text: emphasis, quotes, braces, a full stop."""
    for _ in range(_MAX_DRESS):
        before = text
        text = re.sub(r"(?<![.\\,;])[.,;]$|(?<!\\)\\$", "", _ROOM.sub("", text)).strip()
        for opening, closing in _DRESS:
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                if _is_whole(inner, opening, closing):
                    text = inner.strip()
        if (whole := _WHOLE_TEXT.fullmatch(text)) and not _PAIR.fullmatch(whole[1]):
            text = whole[1].strip()
        if text == before:
            break
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
    if "(" in text:
        text = _PLAIN_FUNCTION.sub(r"\\\1", text)
        text = _BASED.sub(r"\1", text)
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
    return _BRACED_SIGN.sub(r"\1", text).replace("{}", "")


def _latex_commas(text: str, alone: bool) -> str:
    first, *groups = text.split("{,}")
    if len(first) <= 3 and first[0] != "0" and all(len(group) == 3 for group in groups):
        return first + "".join(groups)
    return f"{first}.{groups[0]}" if len(groups) == 1 and alone else text
