"""Texts that a model, a data set or a stranger's file holds: made short, visible and safe to carry in a page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

NONE: Final = "\u2013"
"""What stands where nothing is known."""

# Control characters but for line breaks and tabs, halves of surrogate pairs, what turns the direction of text, and signs
# that would hide in it.
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def shown(text: object, longest: int) -> str:
    """Makes a text fit to show: what cannot be seen becomes U+FFFD, and of a long one both ends are kept, with a mark.

    A text that is longer by no more than the mark is whole.

    Args:
        text: Anything; what is no text is written as one.
        longest: Most characters that are kept of one that is too long, >= 2.

    >>> shown("a" * 80, 8), shown("a" * 9, 8)
    ('aaaa [... 72 characters left out ...] aaaa', 'aaaaaaaaa')
    """
    whole = text if isinstance(text, str) else str(text)
    left, tail = len(whole) - longest, longest // 2
    if left > len(mark := f" [... {left:,} characters left out ...] "):
        whole = f"{whole[: longest - tail]}{mark}{whole[len(whole) - tail :]}"
    return _UNSEEN.sub("\ufffd", whole.replace("\r\n", "\n").replace("\r", "\n"))


def to_json(value: Any) -> str:
    r"""Writes JSON that may stand in a ``<script>`` of an HTML page: ASCII, and without a character that HTML reads.

    >>> to_json({"text": "</script>"})
    '{"text":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def span(values: Sequence[int]) -> str:
    """The least and the greatest of several numbers.

    >>> span([3, 1200, 7]), span([4, 4]), span([])
    ('3 to 1,200', '4', '–')
    """
    if not values:
        return NONE
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
