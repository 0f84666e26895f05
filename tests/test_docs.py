"""The pages of docs/ keep their word: what the code cites is there, and what a page names is in the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import masa_lightning
from masa_lightning import (
    EarlyCutoff,
    ExpertSFT,
    MASALightningModule,
    MetaSettings,
    NotionHinting,
    Optimization,
    PredictiveGating,
    StatedConfidence,
    functional,
    metrics,
)
from masa_lightning.checks import parameters
from masa_lightning.settings import Algorithm, Evaluation
from masa_lightning.types import Problem

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


def test_every_public_class_and_function_is_described() -> None:
    pages = PAGES["docs/settings.md"] + PAGES["docs/api.md"]
    described = set(re.findall(r"^::: masa_lightning\.(?:functional\.)?(\w+)$", pages, re.MULTILINE))
    assert {*masa_lightning.__all__, *functional.__all__} - described == {"__version__"}


YAML = [
    (page, block)
    for page, text in PAGES.items()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    if block.startswith("model:\n  init_args:")
]


@pytest.mark.parametrize(("page", "block"), YAML, ids=[f"{page}-{i}" for i, (page, _) in enumerate(YAML)])
def test_settings_on_a_page_are_some_that_a_module_takes(page: str, block: str) -> None:
    """Weights without their functions were on one."""
    settings = yaml.safe_load(block)["model"]["init_args"]
    assert settings.keys() <= parameters(MASALightningModule).keys()
    assert len(settings.get("reward_functions", ())) == len(settings.get("reward_weights", ()))


def test_the_site_asks_the_network_for_nothing() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert not re.search(r"https?:|^ +- social|inventories", text, re.MULTILINE)


def test_no_page_has_a_place_of_this_machine() -> None:
    for name, text in PAGES.items():
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp)/", text), name


@pytest.mark.parametrize("page", PAGES)
def test_a_file_of_the_repository_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:tests|scripts|examples|configs|masa_lightning)/[\w/.-]+\.\w+)`", PAGES[page]))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_a_test_that_a_page_names_is_there() -> None:
    named = {name for text in PAGES.values() for name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)}
    gone = [f"{path}::{test}" for path, test in sorted(named) if f"def {test}(" not in (ROOT / path).read_text()]
    assert len(named) > 40 and gone == []


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
        "--strict",  # not with --quiet: warnings are then not counted
        "--site-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    method = (tmp_path / "method/index.html").read_text()
    assert method.count("<math") == method.count('style="overflow-x: auto"><math') > 0
    settings, api = ((tmp_path / page / "index.html").read_text() for page in ("settings", "api"))
    assert "Meta rollouts a problem in training" in settings  # from the docstring
    assert not any(mark in settings + api for mark in (".. math", ":math:", "```"))  # formulas of several lines too
    assert "<th>clip_low</th>" in settings and "====" not in settings + api  # a table of reStructuredText
    assert 'href="../method/"' in settings and "docs/method.md</a>" in settings  # a page that a docstring names
    for page in tmp_path.rglob("*.html"):
        sources = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=[\"']?(https?:[^\"'> ]+)", page.read_text())
        assert not sources, f"{page.name} loads {sources}"


# -- metrics -------------------------------------------------------------------------------------------------------------

# What one process on two cores does not log.
_ELSEWHERE = {"balance/generated_tokens", "balance/trained_tokens"}


def names_on_the_page() -> set[str]:
    return set(
        re.findall(r"^\| `([^` ]+)` \| [^|]+ \| [^|]", PAGES["docs/metrics.md"].replace(r"\|", ""), re.MULTILINE)
    )


def page_name(logged: str) -> str:
    """The name under which the page has what was logged."""
    name = re.sub(r"^(val|test)/", "", logged)
    name = re.sub(r"^(maj|maj_predicted)@\d+$", r"\1@<n>", re.sub(r"^pass@(?!1$|1_)\d+$", "pass@<k>", name))
    name = re.sub(r"^timing_s/rewards/[^/]+$", "timing_s/rewards/<name>", name)
    return re.sub(
        r"^rewards/(?!correct/|overlong/|confidence/)[^/]+/(mean|letters)$", r"rewards/<name>/\1", name
    ).replace("/letters", "/<metric>")


def brief(problem: Problem, completions: Sequence[str], log_metric: Callable[[str, float], None]) -> list[float]:
    log_metric("letters", sum(map(len, completions)) / len(completions))
    return [1.0 / (1 + len(text)) for text in completions]


@pytest.fixture(scope="module")
def logged(tiny_checkpoint: Path) -> set[str]:
    """All names that a fit with every control and a validation logs."""
    from training_loop import Loop

    loop = Loop(tiny_checkpoint)

    class Own(MASALightningModule):
        def extra_loss(self, logp: Any, batch: Any) -> Any:
            return 0.1 * logp

    module = loop.module(
        Own,
        sampler=loop.Spy(),
        reward_functions=[brief],
        confidence=StatedConfidence(instruction="?"),
        evaluation=Evaluation(num_generations=2, num_meta_generations=2, pass_at=(2,)),
        algorithm=Algorithm(
            kl_coef=0.1, overlong_buffer=4, dynamic_sampling=True, max_refills=1, off_policy_mask_threshold=1.0
        ),
    )
    controls = [PredictiveGating(rule="risk"), EarlyCutoff(rule="risk"), NotionHinting(start_step=0)]
    recorder = loop.fit(module, loop.Problems(4, 2), *controls, ExpertSFT(batch_size=2), max_epochs=1)
    return {name for _, metrics in recorder.logged for name in metrics}


def test_all_that_is_logged_is_on_the_page(logged: set[str]) -> None:
    assert {page_name(name) for name in logged} - names_on_the_page() == set()


def test_all_that_is_on_the_page_is_logged(logged: set[str]) -> None:
    assert names_on_the_page() - {page_name(name) for name in logged} - _ELSEWHERE == set()


# -- other trainers ------------------------------------------------------------------------------------------------------


def compared() -> list[list[str]]:
    """Rows of the tables of docs/comparison.md: what, four other trainers, here, shown by."""
    rows = [line.strip("|").split("|") for line in PAGES["docs/comparison.md"].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if len(row) == 7 and row[1].strip() != "TRL"]


def test_what_is_here_is_shown_and_no_cell_is_empty() -> None:
    """A row without a test or a page behind it says that we have it not."""
    rows = compared()
    assert len(rows) > 60 and all(all(row[:6]) for row in rows)
    shown = {row[0]: row[6].startswith(("`tests/", "[", "the same")) for row in rows}
    assert [row[0] for row in rows if not shown[row[0]] and not re.match(r"no\b", row[5])] == []


def test_what_is_here_is_named_as_the_settings_are() -> None:
    parts = {"algorithm": Algorithm, "evaluation": Evaluation, "meta": MetaSettings, "optimization": Optimization}
    named = {name for row in compared() for name in re.findall(r"`(\w+)\.(\w+)[`:]", row[5]) if name[0] in parts}
    assert len(named) > 15
    assert [name for name in sorted(named) if name[1] not in {field.name for field in fields(parts[name[0]])}] == []
    classes = {name for row in compared() for name in re.findall(r"`([A-Z][a-z]\w+[A-Z]?\w*)`", row[5])}
    assert sorted(classes - {*masa_lightning.__all__, *metrics.__all__}) == []


# -- errors --------------------------------------------------------------------------------------------------------------


def quoted() -> list[str]:
    """The messages that the page quotes, each a line that begins with `>`."""
    return re.findall(r"^> (.+)$", PAGES["docs/troubleshooting.md"], re.MULTILINE)


def shown(node: ast.AST) -> str:
    """A text of the code as a message would show it, with `...` for what is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(shown(value) if isinstance(value, ast.Constant) else "..." for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (shown(node.left) or "...") + (shown(node.right) or "...")
    return ""


@pytest.fixture(scope="module")
def messages() -> list[str]:
    """All texts of the package and of its scripts of the shell."""
    sources = [ast.parse(path.read_text()) for path in sorted((ROOT / "masa_lightning").rglob("*.py"))]
    texts = [shown(node) for tree in sources for node in ast.walk(tree)]
    return [text for text in texts if text] + [path.read_text() for path in (ROOT / "scripts").glob("*.sh")]


def says(text: str, quote: str) -> bool:
    """Are the parts of a quote in the text, in their order, with nothing but what is filled in between them?"""
    pattern = r".{0,60}?".join(re.escape(part) for part in quote.split("..."))
    return re.search(pattern, " ".join(text.split())) is not None


def test_quotes_are_compared_word_by_word() -> None:
    assert says("the step is ..., so it ends", "the step is ..., so it ends")
    assert not says("the step is ..., so it ends", "the step was ..., so it ends")
    assert len(quoted()) > 25


@pytest.mark.parametrize("quote", quoted(), ids=lambda quote: quote[:40])
def test_a_quoted_error_is_in_the_code(quote: str, messages: list[str]) -> None:
    assert any(says(text, quote) for text in messages), quote


# -- answers -------------------------------------------------------------------------------------------------------------


def graded_examples() -> list[tuple[str, str, bool]]:
    """(right answer, another answer, whether it is right) of the tables of what counts as right."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|(.*)\|$", PAGES["docs/grading.md"], re.MULTILINE)
    return [
        (answer, other, verdict)
        for answer, right, wrong in rows
        for verdict, cell in ((True, right), (False, wrong))
        for other in re.findall(r"`([^`]+)`", cell)
    ]


def test_answers_are_graded_as_the_page_says() -> None:
    examples = graded_examples()
    assert len(examples) > 80
    assert [e for e in examples if functional.grade(rf"\boxed{{{e[1]}}}", e[0]) is not e[2]] == []
