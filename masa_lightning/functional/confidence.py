r"""What a solution says of its own chance to be right: how it is read, and what it earns (RLCR, arXiv 2507.16806).

A solution ends with ``<confidence>0.8</confidence>``. What a program in it prints is none. Texts are hostile:
reading one costs linear time, and raises nothing.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from masa_lightning.types import Rollout

CONFIDENCE: Final = "confidence"
"""Name of the tag, of the value in `Rollout.prediction`, of the part of the reward, and of the metrics."""

CONFIDENCE_FAILURES: Final = ("missing", "misplaced", "unclosed", "several", "not_a_number", "out_of_range")
"""Why a solution states no confidence. "missing": it has no tag; "misplaced": something is behind its last tag, or its tags
are all in the reasoning before ``</think>``; "unclosed": a tag is opened and not closed, or the other way round; "several":
its tags do not say the same; "not_a_number": what is between them is no decimal number; "out_of_range": it is below 0, above
1, or above 100%."""

_OPEN, _CLOSE = f"<{CONFIDENCE}>", f"</{CONFIDENCE}>"
_MARK: Final = re.compile(f"{_OPEN}|{_CLOSE}")
_THINK, _THOUGHT = "<think>", "</think>"
_CODE: Final = re.compile(r"```.*?```", re.DOTALL)
_NUMBER: Final = re.compile(r"(-?)([0-9]{0,20}\.?[0-9]{0,20})(\s{0,2}%)?")


class Stated(NamedTuple):
    """What a solution states: a confidence, or why it states none."""

    value: float | None
    """In [0, 1]."""
    failure: str | None
    """One of `CONFIDENCE_FAILURES`."""


def parse_confidence(text: str) -> Stated:
    r"""Reads the confidence that a solution ends with. No text raises.

    It is a decimal number in [0, 1], or one in [0, 100] with a percent sign, in a tag behind which nothing follows but white
    space. What is before ``</think>`` is reasoning, and states nothing; nor does a tag in a block of code.

    Args:
        text: The decoded completion.

    >>> parse_confidence(r"so \boxed{4} <confidence>0.8</confidence>")
    Stated(value=0.8, failure=None)
    >>> [parse_confidence(f"<confidence>{x}</confidence>")[0] for x in ("80%", ".5", "1")]
    [0.8, 0.5, 1.0]
    >>> [parse_confidence(f"<confidence>{x}</confidence>")[1] for x in ("80", "8/10", "nan", "-0.1")]
    ['out_of_range', 'not_a_number', 'not_a_number', 'out_of_range']
    """
    reasoning, _, said = text.rpartition(_THOUGHT)
    if _THINK in said:  # it never ends
        reasoning, said = text, ""
    marks = _marks(said)
    if not marks:
        return Stated(None, "misplaced" if _MARK.search(reasoning) else "missing")
    opened, closed = marks[::2], marks[1::2]
    if len(marks) % 2 or any(m[0] != _OPEN for m in opened) or any(m[0] != _CLOSE for m in closed):
        return Stated(None, "unclosed")
    if said[marks[-1].end() :].strip():
        return Stated(None, "misplaced")
    found = [_read(said[a.end() : b.start()]) for a, b in zip(opened, closed, strict=True)]
    failure = next((each.failure for each in found if each.failure), None)
    if failure is not None:
        return Stated(None, failure)
    return found[0] if len({*found}) == 1 else Stated(None, "several")


def without_confidence(text: str) -> str:
    r"""Takes the tags out of a solution, with what is between them: it is no part of the answer. Blocks of code are whole.

    >>> without_confidence(r"so \boxed 4 <confidence>\boxed{0.8}</confidence>")
    'so \\boxed 4 \n'
    """
    spans: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for mark in _marks(text):
        if opened is not None:
            spans.append((opened.start(), mark.end()) if mark[0] == _CLOSE else opened.span())
        elif mark[0] == _CLOSE:
            spans.append(mark.span())
        opened = mark if mark[0] == _OPEN else None
    spans += [] if opened is None else [opened.span()]
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    return "\n".join(text[start:end] for start, end in zip(starts, ends, strict=True))  # a bare box ends with its line


def answer_text(rollout: Rollout) -> str:
    """The text of a solution that its answer is read from: without its confidence, where it was asked for one."""
    return rollout.text if rollout.prediction is None else without_confidence(rollout.text)


def stated_confidence(rollout: Rollout) -> float | None:
    """The confidence that a solution states, in [0, 1]; None where it states none, or was not asked for one."""
    value = None if rollout.prediction is None else rollout.prediction.values.get(CONFIDENCE)
    return float(value) if isinstance(value, (int, float)) else None


def confidence_reward(confidence: float | None, correct: bool) -> float:
    r"""What a stated confidence adds to correctness: the negative Brier score (RLCR, arXiv 2507.16806).

    .. math:: R = y + S, \qquad S = -(q - y)^2, \qquad y = [\text{correct}]

    The chance p of being right is the best q to state, and with it :math:`\mathbb{E}[R] = p^2` grows with p: as S lies in
    [-1, 0], a solution never gains by being wrong and sure of it. Without a confidence S is -1, what the worst one earns: it
    never pays to state none.

    Args:
        confidence: q in [0, 1]; None if none is stated.
        correct: y, whether the solution is right.

    Returns:
        S in [-1, 0].

    Raises:
        ValueError: If the confidence is out of range.

    >>> confidence_reward(0.75, correct=True), confidence_reward(0.75, correct=False), confidence_reward(None, correct=True)
    (-0.0625, -0.5625, -1.0)
    """
    if confidence is None:
        return -1.0
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence is {confidence}; expected a value in [0, 1], or None if none is stated")
    return -((confidence - bool(correct)) ** 2)


def _marks(text: str) -> list[re.Match[str]]:
    """The openings and ends of tags outside of closed blocks of code."""
    blocks = [block.span() for block in _CODE.finditer(text)]
    found, passed = [], 0
    for mark in _MARK.finditer(text):
        while passed < len(blocks) and blocks[passed][1] <= mark.start():
            passed += 1
        if passed == len(blocks) or mark.start() < blocks[passed][0]:
            found.append(mark)
    return found


def _read(text: str) -> Stated:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or not any(c.isdigit() for c in match[2]):
        return Stated(None, "not_a_number")
    value = float(match[2]) / (100 if match[3] else 1)
    return Stated(None, "out_of_range") if match[1] or value > 1 else Stated(value, None)
