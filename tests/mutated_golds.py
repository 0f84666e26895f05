"""Right answers with one thing changed: a digit, a sign, a bracket, an exponent or a letter."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from masa_lightning.functional.grading import grade

_COMMANDS = re.compile(
    r"\\(?:text|textbf|textrm|mathrm|mbox|operatorname|begin|end)\s*\{[^{}]*\}(?:\{[lrc| ]*\})?|\\[A-Za-z]+|\\."
)
_LETTERS = "abcdkmnpqrstuvwxyz"


def mutations(gold: str) -> Iterator[tuple[str, str]]:
    """Yields (kind of change, changed text), one of a kind at most, chosen by the text itself.

    Left out is what keeps the value by its form: letters of words and commands, the names before `=` and the bound
    variables of sets and sums, brackets that only group, digits of text.
    """
    draw = random.Random(gold)
    hidden = [match.span() for match in _COMMANDS.finditer(gold)]
    free = [i for i in range(len(gold)) if not any(start <= i < end for start, end in hidden)]

    def put(index: int, text: str, length: int = 1) -> str:
        return gold[:index] + text + gold[index + length :]

    if digits := [i for i in free if gold[i].isdigit()]:
        index = draw.choice(digits)
        yield "digit", put(index, str((int(gold[index]) + draw.randint(1, 9)) % 10))
    if signs := [i for i in free if gold[i] in "+-" and i > 0]:
        index = draw.choice(signs)
        yield "sign", put(index, "-" if gold[index] == "+" else "+")
    if re.match(r"[\d.\\(]|[a-z](?![a-z])", gold) and not re.match(
        r"0(?![.\d])|\d+:|\\(?:text|begin|pm)|\(.*,|\\mathbb|.*=", gold
    ):
        yield "leading sign", f"-{gold}"
    if re.fullmatch(r"\s*(?:\\left\s*)?[(\[][^()\[\]]*,[^()\[\]]*[)\]]\s*", gold):
        index = draw.choice([i for i in free if gold[i] in "()[]"])
        yield "bracket", put(index, {"(": "[", "[": "(", ")": "]", "]": ")"}[gold[index]])
    exponents = [(m.start(1), m[1]) for m in re.finditer(r"\^\s*\{?\s*(\d)", gold)]
    if exponents:
        index, digit = draw.choice(exponents)
        yield "exponent", put(index, str(int(digit) + 1) if digit != "9" else "7")
    lone = [i for i in free if re.fullmatch(r"[a-z]", gold[i]) and not gold[max(0, i - 1) : i].isalpha()]
    lone = [i for i in lone if not gold[i + 1 : i + 2].isalpha() and not re.search("[=:]|mid|\\\\in|text", gold)]
    if lone:
        index = draw.choice(lone)
        yield "letter", put(index, draw.choice(sorted(set(_LETTERS) - {gold[index]} - set(re.findall("[a-z]", gold)))))


def rewarded(golds: Iterable[str]) -> tuple[int, list[tuple[str, str, str]]]:
    """Returns the number of changes tried, and (kind, changed text, gold) of those that are graded as right."""
    tried, found = 0, []
    for gold in golds:
        for kind, changed in mutations(gold):
            tried += 1
            if grade(rf"\boxed{{{changed}}}", gold) or grade(rf"\boxed{{{gold}}}", changed):
                found.append((kind, changed, gold))
    return tried, found


if __name__ == "__main__":  # python tests/mutated_golds.py FILE, one gold a line
    count, wrong = rewarded(sorted(set(Path(sys.argv[1]).read_text().splitlines()) - {""}))
    print(f"{count} changed golds, {len(wrong)} of them graded as right", *wrong, sep="\n")
