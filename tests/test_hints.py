"""scripts/hints.py: its table by hand, and a few problems of the real model."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


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


def test_the_shipped_model_follows_its_hints(hints):
    found = hints.hinted_problems(hints.load(None), 12, 0)
    assert len(found) >= 3
    assert all(1 / 8 <= f.agreement <= 1 for f in found)
    assert sum(f.followed for f in found) / len(found) > 0.8
