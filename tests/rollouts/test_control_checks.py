"""A control of a user may do anything to the groups of a step; what cannot be right is refused with its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from lightning.pytorch import Callback
from training_loop import Loop

from masa_lightning.types import RolloutGroup


class Control(Callback):
    """Does something to the groups of a step, and says something of it."""

    def __init__(self, does: Callable[[Any], Any] | None = None, says: Any = None, acts: bool = True) -> None:
        self.does, self.says, self.is_acting = does, {} if says is None else says, acts

    def acts(self, step: int) -> bool:
        return self.is_acting

    def decide(self, groups: Any, *, step: int, key: str, budget: int, count: int, audit: bool) -> None:
        if self.does is not None:
            self.does(groups)

    def settle(self, groups: Sequence[RolloutGroup]) -> None: ...

    def metrics(self, groups: Sequence[RolloutGroup]) -> Any:
        return self.says


def sets(name: str, value: Any) -> Callable[[Any], None]:
    return lambda groups: setattr(groups[1], name, value)


def run(loop: Loop, control: Control) -> Any:
    script = lambda kind, text, index, call: f"\\boxed{{{index}}}"  # noqa: E731
    return loop.fit(loop.scripted(script, sampler=loop.Scripted(script)), loop.Problems(2, batch_size=2), control)


@pytest.mark.parametrize(
    ("does", "error", "message"),
    [
        (sets("token_limit", 0), ValueError, "token_limit 0 of problem .*; expected >= 1: to skip it, set its `gated`"),
        (sets("token_limit", "7"), TypeError, "token_limit '7' of problem .*; expected a whole number of tokens"),
        (sets("token_limit", 7.5), TypeError, r"token_limit 7\.5"),
        (sets("num_solutions", -1), ValueError, "num_solutions -1"),
        (sets("num_solutions", True), TypeError, "expected a whole number of solutions, or None"),
        (sets("gated", "no"), TypeError, "gated 'no' of problem .*; expected True or False"),
        (sets("hint", "parity"), TypeError, "hint 'parity' of problem .*; expected a tuple of texts"),
        (sets("hint", (1, 2)), TypeError, "expected a tuple of texts"),
        (list.pop, ValueError, "got 2 groups and left 1 or others; expected the same ones"),
        (list.reverse, ValueError, "got 2 groups and left 2 or others"),
    ],
)
def test_what_it_writes(loop: Loop, does: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Control.decide .*{message}"):
        run(loop, Control(does))


def test_a_control_that_does_not_act_changes_nothing(loop: Loop) -> None:
    """The solutions are drawn already: to gate their problem now would take them for drawn under the control."""
    with pytest.raises(ValueError, match=r"set gated True of problem .* in a step for which its `acts` is False"):
        run(loop, Control(sets("gated", True), acts=False))


@pytest.mark.parametrize("says", [{"controls/mine/share": 1}, {"controls/mine/share": float("nan")}])
@pytest.mark.parametrize("acts", [True, False])
def test_what_is_right(loop: Loop, says: Any, acts: bool) -> None:
    recorder = run(loop, Control(sets("token_limit", 5) if acts else None, says, acts))
    assert "controls/mine/share" in recorder.metrics[0]
    assert all(r.length <= 5 for r in recorder.groups[0][1].solutions) or not acts


@pytest.mark.parametrize(
    ("says", "error", "message"),
    [
        ([1], TypeError, r"gave \[1\]; expected a dictionary of numbers by name"),
        ({"controls/mine/share": "half"}, TypeError, "gave .*half"),
        ({"reward": 1.0}, ValueError, "gave 'reward', which is another metric of the step; expected names of its own"),
    ],
)
def test_what_it_says(loop: Loop, says: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Control.metrics {message}"):
        run(loop, Control(says=says))
