"""The pages of docs/ keep their word: what the code cites is there, and what a page names is in the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in sorted(DOCS.rglob("*.md"))}
# What may cite a page: everything that is written by hand.
CITING = [
    path
    for pattern in (
        "*.md",
        ".ci/*",
        "configs/**/*.yaml",
        "examples/*",
        "masa_lightning/**/*.py",
        "scripts/*",
        "tests/**/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
]
_CITATION = re.compile(r"docs/([\w/]+\.md)(?:, section (\d+))?")


def cited(path: Path) -> set[tuple[str, str]]:
    """Pages with sections, as a file cites them."""
    return set(_CITATION.findall(path.read_text()))


@pytest.mark.parametrize("path", [p for p in CITING if cited(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_cited_is_there(path: Path) -> None:
    for page, section in cited(path):
        assert f"docs/{page}" in PAGES, f"{path} cites docs/{page}"
        if section:
            assert re.search(rf"^## {section}\. ", PAGES[f"docs/{page}"], re.MULTILINE), f"{path}: section {section}"


def test_the_method_is_cited_by_the_code_that_it_describes() -> None:
    citing = {path.stem for path in CITING if ("method.md", "5") in cited(path)}
    assert citing >= {"experts", "controls", "cutoff", "gating", "hinting", "expert_sft"}


def test_documents_outside_of_the_repository_are_not_cited() -> None:
    for path in CITING:
        found = re.findall(r"\b(?:METHOD|DESIGN|FACTS|PEERS)(?:\.md|'s|, section| has)", path.read_text())
        assert path == Path(__file__) or not found, f"{path}: {found}"


def test_every_page_has_its_place_on_the_site() -> None:
    """mkdocs would only say so when the site is made."""
    placed = re.findall(r"^ +- [^:]+: ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(f"docs/{page}" for page in placed) == sorted(PAGES)


def test_the_site_asks_the_network_for_nothing() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert not re.search(r"https?:|^ +- social|inventories", text, re.MULTILINE)


def test_no_page_has_a_place_of_this_machine() -> None:
    for name, text in PAGES.items():
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp)/", text), name


@pytest.mark.parametrize("picture", sorted(DOCS.rglob("*.png")), ids=lambda path: path.name)
def test_pictures_are_small_and_shown(picture: Path) -> None:
    assert picture.stat().st_size < 200_000
    assert any(picture.name in text for text in [*PAGES.values(), (ROOT / "README.md").read_text()])


def test_site_is_made(tmp_path: Path) -> None:
    """Strictly: a dead link, an unknown name of the API or a page without a place fails."""
    for package in ("mkdocstrings", "material", "latex2mathml"):
        pytest.importorskip(package)

    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "<math" in (tmp_path / "method/index.html").read_text()
    settings, api = ((tmp_path / page / "index.html").read_text() for page in ("settings", "api"))
    assert "Meta rollouts a problem in training" in settings  # from the docstring
    assert ".. math" not in api and ":math:" not in api
    for page in tmp_path.rglob("*.html"):
        sources = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=[\"']?(https?:[^\"'> ]+)", page.read_text())
        assert not sources, f"{page.name} loads {sources}"
