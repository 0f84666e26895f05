"""PredictionWriter: its lines and its sums against metrics worked out by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from rich.console import Console

from masa_lightning import EarlyCutoff, Evaluation, PassRate, PredictionWriter, PredictiveGating, PromptTemplates
from masa_lightning.callbacks.prediction_writer import as_table
from masa_lightning.types import Problem

# Of each problem: predicted pass rates of 8 and lengths, and what its solutions answer.
PREDICTED: dict[str, list[str]] = {
    "a": ['{"math_notion": ["x", "y"], "pass_rate": 4, "solution_length": 50}'] * 2
    + ['{"math_notion": ["X"], "pass_rate": 8, "solution_length": 80}', "nonsense"],
    "b": ['{"math_notion": ["z"], "pass_rate": 0, "solution_length": 90}'] * 4,
}
ANSWERS = {"a": "2232", "b": "7777"}


def script(kind: str, text: str, index: int, call: int) -> str:
    return f"</meta>{PREDICTED[text][index]}" if kind == "meta" else f"\\boxed{{{ANSWERS[text][index]}}}"


SKIP = PredictiveGating(start_step=0, skip="hopeless")


def run(loop: Any, folder: Path, *controls: Any, answer: str = "2", **evaluation: Any) -> list[dict[str, Any]]:
    module = loop.scripted(script, evaluation=Evaluation(num_generations=4, num_meta_generations=4, **evaluation))
    given = [Problem(id=n, problem=n, answer=answer, source="s") for n in PREDICTED]
    callbacks = [PredictionWriter(str(folder)), *controls, EarlyCutoff(start_step=0)]
    loop.trainer(*callbacks).predict(module, loop.Problems(0, validation=given))
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_predictions(loop: Any, tmp_path: Path) -> None:
    a, b = run(loop, tmp_path)
    assert (a["id"], a["source"], a["problem"], a["predictions"]) == ("a", "s", "a", 4)
    assert a["pass_rate"]["values"] == [0.5, 0.5, 1.0]
    assert a["pass_rate"]["mean"] == pytest.approx(2 / 3)
    assert a["pass_rate"]["std"] == pytest.approx((1 / 18) ** 0.5)
    assert a["solution_length"] == {"median": 50.0, "std": pytest.approx(200**0.5), "values": [50, 50, 80]}
    assert a["notions"] == {"x": 3, "y": 2}
    assert a["failures"] == ["math_notion: no_json", "pass_rate: no_json", "solution_length: no_json"]
    assert b["pass_rate"] == {"mean": 0.0, "std": 0.0, "values": [0.0] * 4}
    assert "solved" not in a
    assert not (tmp_path / "summary.json").exists()


def test_solved(loop: Any, tmp_path: Path, capsys: Any) -> None:
    a, b = run(loop, tmp_path, SKIP, solve=True)
    length = a["plain"]["tokens"] // 4
    assert a["plain"] == {
        "answer": "2", "votes": 3, "samples": 4, "tokens": 4 * length, "cut_off": 0, "pass_rate": 0.75, "correct": True,
        "texts": [f"\\boxed{{{x}}}" for x in "2232"],
    }  # fmt: skip
    assert a["solved"] == {"looks": None, "skipped": False, "token_limit": 100, "hint": [], **a["plain"]}
    assert b["solved"]["skipped"]
    assert (b["solved"]["looks"], b["solved"]["answer"], b["solved"]["correct"]) == ("hopeless", None, False)
    assert (b["plain"]["answer"], b["plain"]["correct"]) == ("7", False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    predictions = a["predictions_tokens"] + b["predictions_tokens"]
    assert summary == {
        "problems": 2, "skipped": 1, "look_hopeless": 1, "look_trivial": 0, "limited": 1, "hinted": 0,
        "predictions_tokens": predictions,
        "solved": {"samples": 4, "tokens": 4 * length, "right_votes": 1},
        "plain": {"samples": 8, "tokens": 8 * length, "right_votes": 1},
        "tokens_against_plain": 0.5,
        "tokens_with_predictions_against_plain": (4 * length + predictions) / (8 * length),
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "tokens_against_plain" not in printed  # in the file; here a table to read
    rows = [line.split() for line in printed.splitlines()]
    assert ["solved", "samples", "tokens", "of", "plain", "right", "answers"] in rows
    assert ["with", "controls", "4", str(4 * length), "50%", "1"] in rows
    assert ["plain,", "the", "same", "seeds", "8", str(8 * length), "1"] in rows
    assert ["and", "predictions"] in [row[:2] for row in rows]
    assert f"all metrics: {tmp_path / 'summary.json'}" in printed.replace("\n", "")
    assert "1 with a limit" in printed and "1 look hopeless" in printed


def test_answers_nobody_knows(loop: Any, tmp_path: Path) -> None:
    a, _ = run(loop, tmp_path, answer="", solve=True, compare=False)
    assert (a["solved"]["answer"], a["solved"]["votes"]) == ("2", 3)
    assert (a["solved"]["correct"], a["solved"]["pass_rate"]) == (None, None)
    assert "plain" not in a
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["solved"]["right_votes"] is None
    assert "plain" not in summary


@pytest.mark.filterwarnings("ignore:problem .* is left out")
def test_problems_with_overlong_prompts_are_named(loop: Any, tmp_path: Path) -> None:
    module = loop.scripted(script, evaluation=Evaluation(num_meta_generations=4), max_prompt_length=10)
    given = [Problem(id=n, problem=n, answer="2") for n in ("a", "b" * 40)]
    loop.trainer(PredictionWriter(str(tmp_path))).predict(module, loop.Problems(0, validation=given))
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line.get("left_out") for line in lines] == [None, "its prompt is longer than max_prompt_length"]


def test_a_hostile_completion_is_one_line(loop: Any, tmp_path: Path) -> None:
    texts = ['\\boxed{2}\u2028\n"}\x00', "\\boxed{\U0001f600}", "<b>[red]", "\\boxed{"]
    module = loop.scripted(
        lambda kind, text, index, call: texts[index],
        evaluation=Evaluation(num_generations=4, num_meta_generations=4, solve=True),
    )
    given = [Problem(id="[bold]\ud800", problem="q", answer="2")]
    loop.trainer(PredictionWriter(str(tmp_path))).predict(module, loop.Problems(0, validation=given))
    (line,) = (tmp_path / "predictions.jsonl").read_bytes().splitlines()
    assert json.loads(line)["id"] == "[bold]\ud800"


def test_other_modules_are_refused(loop: Any) -> None:
    with pytest.raises(TypeError, match="PredictionWriter writes predictions, and LightningModule makes none"):
        PredictionWriter().setup(loop.trainer(), LightningModule(), "predict")


def test_an_earlier_runs_files_are_kept(loop: Any, tmp_path: Path) -> None:
    run(loop, tmp_path, solve=True, compare=False)
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    run(loop, tmp_path)
    after = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert {*after} == {"predictions.jsonl", "predictions-1.jsonl", "summary-1.json"}
    assert after["predictions-1.jsonl"] == before["predictions.jsonl"]
    assert after["summary-1.json"] == before["summary.json"]


def test_the_table_is_read_at_80_columns(loop: Any, tmp_path: Path, capsys: Any) -> None:
    run(loop, tmp_path, SKIP, solve=True, compare=False)
    printed = capsys.readouterr().out
    head, a, b = (
        next(line for line in printed.splitlines() if line.lstrip().startswith(word))
        for word in ("problem", "a ", "b ")
    )
    assert head.split() == ["problem", "pass", "rate", "tokens", "notions", "answer"]
    assert a.split() == ["a", "0.67", "±", "0.24", "50", "±", "14", "x,", "y", "2", "(3", "of", "4,", "right)"]
    assert "0.00 ± 0.00" in b
    assert "skipped" in b
    assert max(map(len, printed.partition("{")[0].splitlines())) <= 80


@pytest.mark.parametrize(
    ("looks", "said"),
    [("trivial", "skipped: looks trivial"), ("hopeless", "skipped: looks hopeless"), (None, "skipped")],
)
def test_what_was_skipped_is_said_with_its_reason(looks: str | None, said: str) -> None:
    """Controls of a user skip problems too, and say of none how it looks."""
    line = {"problem": "x", "pass_rate": {"mean": 1.0, "std": 0.0}, "solution_length": {"median": 3.0, "std": 0.0}}
    solved = {"looks": looks, "skipped": True, "answer": None, "correct": False}
    table = as_table([line | {"notions": {}, "quantities": {}, "solved": solved}])
    assert str(next(iter(table.columns[-1].cells))) == said


def test_what_is_not_predicted_has_no_column(loop: Any, tmp_path: Path, capsys: Any) -> None:
    module = loop.scripted(
        lambda kind, text, index, call: '</meta>{"pass_rate": 4}',
        quantities=[PassRate()],
        prompts=PromptTemplates(solution="S:{problem}", meta="M:{problem} pass_rate"),
        evaluation=Evaluation(num_meta_generations=4),
    )
    given = [Problem(id="a", problem="a", answer="2"), Problem(id="b", problem="b" * 40, answer="2")]
    with pytest.warns(UserWarning, match="is left out"):
        loop.trainer(PredictionWriter(str(tmp_path))).predict(module, loop.Problems(0, validation=given))
    line, left_out = (json.loads(each) for each in (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert (line["pass_rate"]["mean"], "solution_length" in line, "notions" in line) == (0.5, False, False)
    head, *rows = [row.split() for row in capsys.readouterr().out.splitlines() if row.strip()][:4]
    assert head == ["problem", "pass", "rate"]
    assert ["a", "0.50", "±", "0.00"] in rows
    assert left_out["left_out"]


def test_texts_are_no_markup() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    line = {"problem": "[red]x[/red] " * 40, "pass_rate": {"mean": None, "std": None}, "notions": {"[bold]": 1}}
    console.print(
        as_table([line | {"solution_length": {"median": 3.0, "std": 0.0}}, {"problem": "y", "left_out": "too long"}])
    )
    printed = console.export_text()
    assert "[red]x[/red]" in printed
    assert "[bold]" in printed
    assert "too long" in printed
    assert "-" in printed
