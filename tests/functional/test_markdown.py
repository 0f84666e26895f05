"""Text in a cell of a table stays text."""

from __future__ import annotations

import html

from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.functional.markdown import plain


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.one_of(st.characters(), st.sampled_from("|\n\r<>&`\\*_[]()!\x0b\x0c\x1c\x85\u2028\u2029\t ")))
)
def test_escaping_keeps_every_cell_in_place(text: str) -> None:
    escaped = plain(text)
    assert len(escaped.splitlines()) <= 1
    assert not set("|<>`\\*_[]()!\"'~$@") & set(escaped)
    assert not set("\x00\x02\x03\u202e\ud800") & set(escaped)
    escaped.encode("utf-8")  # protobuf needs it
    letters = [c for c in text if c.isascii() and (c.isprintable() and c != " ")]
    assert [c for c in html.unescape(escaped) if c.isascii() and c != " "] == letters
