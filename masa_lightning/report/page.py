"""Data -> one HTML page that needs nothing else: no network, and no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from string import Template
from typing import Any, Final

from masa_lightning.report.text import to_json

FOLDER: Final = Path(__file__).with_name("page")
MARK: Final = '<meta name="generator" content="masa report">'
"""What a page can be told by."""


def page(data: dict[str, Any]) -> str:
    """Writes the page of `contents`.

    Its content security policy lets the page's own style and script run, by their hashes, and nothing else: neither what
    a text might bring along nor any request. All texts travel as JSON, and are put into the page as text.

    Args:
        data: Of `contents.contents`.
    """
    template, style, script = (_read(name) for name in ("page.html", "page.css", "page.js"))
    own = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    policy = f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"
    title = html.escape(", ".join(data["runs"])[:120])
    return Template(template).substitute(
        generator=MARK, policy=policy, title=title, style=style, data=to_json(data), script=script
    )


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
