"""scripts/before_after.py: what changed between a run's validations."""

import importlib.util
import json
from pathlib import Path

import pytest

from masa_lightning.report.records import Evaluated, ProblemRecord

SCRIPT = Path(__file__).parents[1] / "scripts" / "before_after.py"
spec = importlib.util.spec_from_file_location("before_after", SCRIPT)
before_after = importlib.util.module_from_spec(spec)
spec.loader.exec_module(before_after)


def problem(name, verdicts, rates, lengths=(), right=()):
    return ProblemRecord(
        source="", id=name, problem=name, answer="1", verdicts=verdicts, rates=rates,
        predicted_lengths=list(lengths), lengths=list(right), right_lengths=list(right),
    )  # fmt: skip


def test_metrics_by_hand():
    yes, no = [True, True], [False, False]
    first = [problem("a", yes, [0.5, 0.5]), problem("b", no, [0.5]), problem("gone", yes, [0.0])]
    last = [
        problem("b", [False, True], [0.25], [12], [10]),
        problem("a", yes, [1.0, 0.5], [30], [20]),
        problem("new", no, []),
    ]
    found = before_after.compare(
        [
            Evaluated(stage="validate", step=0, problems=first),
            Evaluated(stage="validate", step=9, problems=last),
        ],
        draws=50,
    )
    values = {name: [None if e is None else e.value for e in row] for name, row in found.items()}
    assert values["pass@1"] == pytest.approx([0.5, 0.75, 0.25])  # of the two problems that both have
    assert values["r, pass rate"] == [None, pytest.approx(1.0), None]  # all predictions are alike at first
    assert values["error, pass rate"] == pytest.approx([0.5, 0.25, -0.25])
    # (.25 + .25) / 2; then a: (1 - .75)^2 = .0625, b: half of .5625 and half of .0625
    assert values["Brier score"] == pytest.approx([0.25, (0.0625 + 0.3125) / 2, (0.0625 + 0.3125) / 2 - 0.25])
    assert values["Brier score of the base rate"] == pytest.approx([0.25, 0.75 * 0.25, 0.75 * 0.25 - 0.25])
    assert values["error, length, relative"] == [None, pytest.approx(0.35), None]
    low, high = found["pass@1"][0].low, found["pass@1"][0].high
    assert 0 <= low <= 0.5 <= high <= 1


def test_a_column_for_each_validation_and_each_change(tmp_path, capsys):
    (tmp_path / "rollouts").mkdir()
    for step, verdicts in ((0, "00"), (5, "01"), (10, "11")):
        row = {
            "version": 1, "step": step, "source": "s", "problem_id": "s/1", "kind": "solution", "problem": "1 + 1",
            "answer": "2", "text": "", "prediction": None, "rewards": {}, "reward": 0.0, "group_pass_rate": None,
            "tokens": 3,
        }  # fmt: skip
        rows = [row | {"correct": verdict == "1"} for verdict in verdicts]
        file = tmp_path / "rollouts" / f"validate_step{step:06d}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows) + ('{"version": 1, "st' if step else ""))
    assert before_after.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    header, _, first, *_ = out.splitlines()
    assert err.count("warning: ") == 2  # of lines that are cut
    assert header == "| on 1 validation problems | step 0 | step 5 | step 10 | 0 to 5 | 5 to 10 |"
    cells = "0.000 [0.000, 0.000] | 0.500 [0.500, 0.500] | 1.000 [1.000, 1.000]"
    assert first == f"| pass@1 | {cells} | +0.500 [+0.500, +0.500] | +0.500 [+0.500, +0.500] |"


def test_validations_of_other_problems_are_no_comparison(tmp_path, capsys, monkeypatch):
    each = [Evaluated(stage="validate", step=i, problems=[problem(name, [True], [])]) for i, name in enumerate("ab")]
    monkeypatch.setattr(before_after, "read_records", lambda folder, all_steps: (each, []))
    assert before_after.main([str(tmp_path)]) == 1
    assert "no solved problem in common" in capsys.readouterr().err


def test_one_validation_is_too_few(tmp_path, capsys):
    assert before_after.main([str(tmp_path)]) == 1
    assert "0 validations with rollouts; expected two or more" in capsys.readouterr().err
