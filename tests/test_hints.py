"""scripts/hints.py: its table by hand, and a few problems of the real model."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


class Unpickled:
    """What a checkpoint has no need of."""


@pytest.fixture
def hints(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("hints")


def test_rows_are_split_where_half_agree(hints):
    found = [
        hints.Hinted(agreement=0.5, is_right=True, followed=1.0, plain=0.25, hinted=0.75),
        hints.Hinted(agreement=0.25, is_right=False, followed=0.5, plain=0.75, hinted=0.0),
        hints.Hinted(agreement=0.625, is_right=True, followed=1.0, plain=0.5, hinted=1.0),
    ]
    few, many = hints.rows(found)
    means = [text.partition(" ")[0] for text in few[2:]]
    assert few[:2] == ["half or fewer", "2"]
    assert means == ["0.500", "0.750", "0.500", "0.375", "-0.125", "0.188", "0.094"]  # 3/16 and 3/16; 3/16 and 0
    assert many == ["more than half", "1", "1.000", "1.000", "0.500", "1.000", "+0.500", "0.250", "0.000"]
    assert hints.rows([])[0][:3] == ["half or fewer", "0", "\N{EN DASH}"]


def test_what_is_measured_of_a_problem(hints, monkeypatch):
    problem = next(p for p in hints.arithmetic_problems("validation", 40, 0) if p.metadata["tier"] == "open")
    right = problem.metadata["strategy"]
    drawn = [
        [f'{{"math_notion": ["{right}"]}}'] * 5 + ['{"math_notion": ["guess"]}'] * 2 + ["nothing"],
        [f"use {right}. so \\boxed{{{problem.answer}}}"] * 2 + ["use guess. so \\boxed{-77}"] * 6,
        [f"use {right}. so \\boxed{{{problem.answer}}}"] * 6 + ["use guess. so \\boxed{-77}"] * 2,
    ]
    asked = []

    def sample(model, tokenizer, chats, limit):
        asked.append((chats[0][0]["content"], limit))
        return [drawn[len(asked) - 1]] * len(chats)

    monkeypatch.setattr(hints, "sample", sample)
    monkeypatch.setattr(hints, "arithmetic_problems", lambda *args: [problem])
    expected = hints.Hinted(agreement=5 / 8, is_right=True, followed=6 / 8, plain=2 / 8, hinted=6 / 8)
    assert hints.hinted_problems(None, 1, 0) == [expected]
    text = problem.problem
    assert asked == [(f"{text} Predict.", 48), (f"{text} Solve.", 128), (f"{text} ({right}) Solve.", 128)]
    asked.clear()
    drawn[0] = ['{"math_notion": ["guess"]}'] * 3 + [f'{{"math_notion": ["{right}"]}}'] * 2 + ["nothing"] * 3
    assert [(h.agreement, h.is_right) for h in hints.hinted_problems(None, 1, 0)] == [(3 / 8, False)]
    asked.clear()
    drawn[0] = ["nothing"] * 8
    assert hints.hinted_problems(None, 1, 0) == []


def test_the_weights_of_a_run_are_loaded(hints, tmp_path):
    shipped = hints.load(None).state_dict()
    state = {f"policy.model.{name}": value + 1 for name, value in shipped.items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    trained = hints.load(tmp_path / "last.ckpt").state_dict()
    torch.save({"state_dict": state, "run": Unpickled()}, tmp_path / "hostile.ckpt")
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
        hints.load(tmp_path / "hostile.ckpt")
    assert all(torch.equal(trained[name], value + 1) for name, value in shipped.items())


def test_the_shipped_model_follows_its_hints(hints):
    found = hints.hinted_problems(hints.load(None), 12, 0)
    assert len(found) >= 3
    assert all(1 / 8 <= f.agreement <= 1 for f in found)
    assert sum(f.followed for f in found) / len(found) > 0.8
