"""Generated problems, their splits, and their own scorers."""

import sys

import pytest

from masa_lightning.data._questions import same_text_key
from masa_lightning.data.reasoning_gym import ReasoningGymDataModule, ReasoningGymGrader, _shares
from masa_lightning.protocols import Grader
from masa_lightning.types import Problem


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ModuleNotFoundError, match=r"masa_lightning\[gym\]"):
        ReasoningGymDataModule(["chain_sum"]).setup("fit")


def test_shares_add_up() -> None:
    assert _shares({"a": 1, "b": 1, "c": 1}, 10) == {"a": 3, "b": 4, "c": 3}
    assert _shares({"a": 0.1, "b": 0.9}, 30) == {"a": 3, "b": 27}
    assert sum(_shares({str(i): 0.1 * (i + 1) for i in range(7)}, 101).values()) == 101


@pytest.mark.parametrize("tasks", [[], {"chain_sum": 0.0}])
def test_bad_tasks(tasks: list[str] | dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected at least one task"):
        ReasoningGymDataModule(tasks)


def make(tasks: list[str] | dict[str, float], **kwargs: int) -> ReasoningGymDataModule:
    pytest.importorskip("reasoning_gym")
    return ReasoningGymDataModule(tasks, **({"train_size": 40, "validation_size": 10, "test_size": 8} | kwargs))


def test_splits_share_no_text_and_repeat() -> None:
    data, again = make({"chain_sum": 3, "leg_counting": 1}), make({"chain_sum": 3, "leg_counting": 1})
    data.setup("fit")
    data.setup("test")
    again.setup("test")
    again.setup("fit")
    assert data.splits == again.splits
    assert {split: len(problems) for split, problems in data.splits.items()} == {
        "train": 40,
        "validation": 10,
        "test": 8,
    }
    assert sum(p.metadata["task"] == "chain_sum" for p in data.splits["train"]) == 30
    everything = [p for problems in data.splits.values() for p in problems]
    assert len({same_text_key(p.problem) for p in everything}) == len({p.id for p in everything}) == 58
    other = make({"chain_sum": 3, "leg_counting": 1}, seed=1)
    other.setup("fit")
    assert not {p.problem for p in other.splits["train"]} & {p.problem for p in data.splits["train"]}


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"'no_such_task'; expected some of .*chain_sum"):
        make(["no_such_task"]).setup("test")
    with pytest.raises(ValueError, match="'graph_color' gives no answer"):
        make(["graph_color"]).setup("test")
    with pytest.raises(ValueError, match=r"only .* new problems in .*: lower train_size"):
        make(["coin_flip"], train_size=3000).setup("fit")


def test_grader_asks_the_task() -> None:
    data = make({"countdown": 1, "chain_sum": 1})
    data.setup("test")
    grader = ReasoningGymGrader()
    assert isinstance(grader, Grader)
    problems, progress = data.splits["test"], []
    right = [rf"so \boxed{{1}} no \boxed{{{p.answer}}}" for p in problems]
    assert grader.grade(problems, right, lambda *a: progress.append(a)) == [True] * 8
    assert progress[-1] == (8, 8)
    assert grader.grade(problems, [p.answer for p in problems]) == [False] * 8
    assert not any(grader.grade(problems, [r"\boxed{no}"] * 8))
    grader._scorers["chain_sum"] = grader._scorers["countdown"] = lambda **_: 1 / 0
    assert grader.grade(problems, right) == [None] * 8
    with pytest.raises(ValueError, match="not of ReasoningGymDataModule"):
        grader.grade([Problem(id="x", problem="?", answer="1")], [r"\boxed{1}"])
