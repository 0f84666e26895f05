"""What mkdocs needs to read this repository: formulas become MathML, which browsers draw without a script or a font.

A fence named `math` holds LaTeX, in pages as in docstrings; `.. math::` and tables of reStructuredText in docstrings are
turned into fences, and so are doctests: `[1]` in one line and `[2]` in the next would be a link. mkdocs loads this file as a
hook, griffe as an extension (mkdocs.yml names it twice).
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

_MATH = re.compile(r"^( *)\.\. math::(.*(?:\n(?: *|\1 +\S.*))*)\n?", re.MULTILINE)
_TABLE = re.compile(r"^( *)=+(?: +=+)+\n(?:.*\n)*?(?:\1=+(?: +=+)+\n(?:\1\S.*\n)+)?\1=+(?: +=+)+ *$", re.MULTILINE)
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
    """A docstring with its formulas, tables and doctests in fences."""

    def fenced(name: str, match: re.Match[str], text: str) -> str:
        block = f"```{name}\n{textwrap.dedent(text).strip()}\n```\n"
        return textwrap.indent(block, match[1])

    docstring = re.sub(r":math:`([^`]+)`", r"`\1`", docstring)
    docstring = _MATH.sub(lambda m: fenced("math", m, m[2]), docstring)
    docstring = _DOCTEST.sub(lambda m: fenced("pycon", m, m[0]), docstring)
    return _TABLE.sub(lambda m: fenced("text", m, m[0]), docstring)


class Fences(griffe.Extension):
    """Reads docstrings as `markdown` writes them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of an object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
