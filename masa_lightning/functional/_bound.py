r"""Letters of whole numbers: `2\pi k, k \in \mathbb{Z}`, `\{2k : k \in \mathbb{N}\}`, `x \equiv 2, 3 \pmod 5`."""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._levels import closes_at_end

_INTEGERS: Final = re.compile(
    r"(?: ?, ?| |(?<=\}))(?:\\text ?\{[^{}]*\} ?|for |where |with )?\(? ?"
    r"(?:([a-z]) ?(?:\\in ?(?:\\mathbb ?\{? ?Z ?\}?|Z)|(?:\\text ?\{ ?)?(?:is )?an integer ?\}?)|"
    r"\\text ?\{[^{}]*(?<![a-z-])integers? ?\} ?([a-z])) ?\)?$"
)
_MEMBER: Final = re.compile(
    r"(?P<head>.*\S) ?(?:,|:|\||\\mid(?![A-Za-z])|\\text ?\{ ?(?:where|for|with) ?\}) ?(?P<letter>[a-z]) ?\\in ?"
    r"(?P<set>\\mathbb ?\{? ?[NZQRC] ?\}?(?: ?[_^] ?(?:\{[^{}]*\}|[\w+*-]))*) ?",
    re.DOTALL,
)
_BRACES: Final = re.compile("[{} ]")
_UNEQUAL: Final = re.compile(r"[<>]|\\(?:leq|geq|neq|in|notin|mid)(?![A-Za-z])")
_RESIDUE: Final = r"(?:[+-]|\\pm ?)? ?\d{1,9}"
_RESIDUES: Final = re.compile(
    r"(?P<name>(?:[A-Za-z](?:_ ?(?:\{[^{}]*\}|\w))? ?\\equiv ?)?)"
    rf"(?P<list>{_RESIDUE}(?: ?(?:,|\\text ?\{{ ?(?:or|and) ?\}}|or|and) ?{_RESIDUE})*) ?"
    r"(?P<modulus>[({]? ?(?:\\p?mod|\\text ?\{ ?\(? ?mod(?:ulo)?|mod(?:ulo)?)(?![A-Za-z])[ {}]*[1-9]\d{0,8}[ )}]*)"
)


def without_integers(predicted: str, expected: str) -> tuple[str, str]:
    r"""Takes off `k \in \mathbb{Z}`, which may be missing on one side; the letter may be another where both have it."""
    mine, truth = _INTEGERS.search(predicted), _INTEGERS.search(expected)
    if mine is None and truth is None:
        return predicted, expected
    heads = [predicted[: mine.start()] if mine else predicted, expected[: truth.start()] if truth else expected]
    letters = [match[1] or match[2] for match in (mine or truth, truth or mine) if match]
    return _with_one_letter(heads, letters) or (predicted, expected)


def bound_values(predicted: str, expected: str) -> tuple[str, str] | None:
    r"""Returns the heads of `\{2k : k \in \mathbb{N}\}` and `\{2n : n \in \mathbb{N}\}` with one letter; else None."""
    if "\\in" not in predicted or "\\in" not in expected:
        return None
    braces = [text.startswith("\\{") and text.endswith("\\}") and closes_at_end(text) for text in (predicted, expected)]
    if braces[0] != braces[1]:
        return None
    mine, truth = (_MEMBER.fullmatch(text[2:-2].strip() if braces[0] else text) for text in (predicted, expected))
    if not mine or not truth or _BRACES.sub("", mine["set"]) != _BRACES.sub("", truth["set"]):
        return None
    if mine["head"] == mine["letter"] or truth["head"] == truth["letter"]:
        return None
    return _with_one_letter([mine["head"], truth["head"]], [mine["letter"], truth["letter"]])


def _with_one_letter(heads: list[str], letters: list[str]) -> tuple[str, str] | None:
    """Writes the letter of the second of two texts in the first; None for conditions, and where a letter is missing."""
    patterns = [re.compile(rf"(?<![\\A-Za-z]){letter}(?![A-Za-z])") for letter in letters]
    if any(map(_UNEQUAL.search, heads)) or not all(p.search(head) for p, head in zip(patterns, heads, strict=True)):
        return None
    if not patterns[1].search(heads[0]):
        heads[0] = patterns[0].sub(letters[1], heads[0])
    return heads[0], heads[1]


def part_residues(text: str) -> str:
    r"""Writes `x \equiv 2, 3 \pmod 5` as a list of congruences, and `\pm 1` as two; any other text as it is."""
    match = _RESIDUES.fullmatch(text) if "mod" in text else None
    if match is None:
        return text
    residues = []
    for residue in re.findall(_RESIDUE, match["list"]):
        bare = residue.replace("\\pm", "").strip()
        residues += [bare, f"-{bare}"] if bare != residue.strip() else [bare]
    return ", ".join(f"{match['name']}{residue} {match['modulus']}" for residue in residues) if residues[1:] else text
