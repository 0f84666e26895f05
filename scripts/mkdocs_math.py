"""What mkdocs needs to read this repository: formulas become MathML, which browsers draw without a script or a font.

A fence named `math` holds LaTeX, in pages as in docstrings. In docstrings `.. math::` is turned into one, tables of
reStructuredText into those of Markdown, and doctests into fences: `[1]` in one line and `[2]` in the next would be a link.
Pages that docstrings name are linked. mkdocs loads this file as a hook, griffe as an extension (mkdocs.yml names it twice).
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

_MATH = re.compile(r"^( *)\.\. math::(.*(?:\n(?: *$|\1 +\S.*))*)\n?", re.MULTILINE)
_TABLE = re.compile(r"^( *)=+(?: +=+)+\n(?:.*\n)*?(?:\1=+(?: +=+)+\n(?:\1\S.*\n)+)?\1=+(?: +=+)+ *$", re.MULTILINE)
_PAGE = re.compile(r"docs/([\w/]+)\.md")
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*$", re.MULTILINE)


def formula(latex: str) -> str:
    """LaTeX as a block of MathML."""
    latex = " ".join(latex.split())
    if re.search(r"\\\\|&", latex) and not latex.startswith(r"\begin"):
        inner = re.sub(r"\\begin\{cases\}.*?\\end\{cases\}", "", latex)
        if re.search(r"\\\\|&", inner):
            latex = rf"\begin{{aligned}} {latex} \end{{aligned}}"
    return convert(latex, display="block").replace("\\_", "_")


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """The fence `math`, as pymdownx.superfences calls it."""
    return (
        f'<div class="{css_class}" style="overflow-x: auto">{formula(source)}</div>'  # a phone scrolls it, not the page
    )


def on_config(config: Any) -> Any:
    """Adds the fence to the settings of mkdocs."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": fence})
    return config


def markdown(docstring: str) -> str:
    """A docstring with its formulas and doctests in fences, its tables in Markdown, and links to pages of the site."""

    def fenced(name: str, match: re.Match[str], text: str) -> str:
        block = f"```{name}\n{textwrap.dedent(text).strip()}\n```\n"
        return textwrap.indent(block, match[1])

    docstring = re.sub(r":math:`([^`]+)`", r"`\1`", docstring)
    docstring = _PAGE.sub(r"[docs/\1.md](\1.md)", docstring)  # docstrings are on pages of the site's first level
    docstring = _MATH.sub(lambda m: fenced("math", m, m[2]), docstring)
    docstring = _DOCTEST.sub(lambda m: fenced("pycon", m, m[0]), docstring)
    return _TABLE.sub(lambda m: textwrap.indent(table(textwrap.dedent(m[0])), m[1]), docstring)


def table(text: str) -> str:
    r"""A simple table of reStructuredText, in Markdown; one without a head gets an empty one.

    >>> print(table("====  ===\nname  is\n====  ===\na     b|c\n====  ==="))
    | name | is |
    |---|---|
    | a | b\|c |
    """
    lines = text.strip().splitlines()
    places = [run.start() for run in re.finditer("=+", lines[0])]
    rules = [number for number, line in enumerate(lines) if line.startswith("==")]
    rows = [
        [line[start:end].strip().replace("|", "\\|") for start, end in zip(places, [*places[1:], None], strict=True)]
        for number, line in enumerate(lines)
        if number not in rules
    ]
    head = rows.pop(0) if len(rules) > 2 else [""] * len(places)
    return "\n".join("| " + " | ".join(row) + " |" if row else "|---" * len(places) + "|" for row in [head, [], *rows])


class Fences(griffe.Extension):
    """Reads docstrings as `markdown` writes them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of an object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
