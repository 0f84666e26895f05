"""Who counts for the warning that nearly all solutions are cut; tests/modules/test_stops.py has it in a run."""

import warnings

import pytest

from masa_lightning.rollouts.unfinished import UnfinishedWarning
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup


def group(reasons, token_limit=None):
    rollouts = [
        Rollout(
            kind="solution",
            prompt_ids=[1],
            completion=Completion(token_ids=[1], logprobs=[], finish_reason=reason),
            text="",
        )
        for reason in reasons
    ]
    problem = Problem(id="a", problem="?", answer="1")
    return RolloutGroup(problem=problem, solutions=rollouts, token_limit=token_limit)


def look(*groups, steps=3):
    warning = UnfinishedWarning()
    for _ in range(steps):
        warning.look(groups, budget=9, stops="'<eos>' (1)")


CUT = ["length"] * 32


@pytest.mark.parametrize(
    "groups",
    [
        [group(CUT, token_limit=5)],  # a control did it
        [group(CUT[:21])],  # few
        [group([*CUT, "stop", "stop"])],  # more than 5% end
    ],
)
def test_no_warning(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(*groups)
        look(group(CUT), steps=2)


def test_a_warning():
    with pytest.warns(UserWarning, match=r"93 of the 96 solutions of the first 3 training steps \(97%\)") as warned:
        look(group([*CUT[1:], "stop"]), group(CUT, token_limit=5), steps=9)
    assert len(warned) == 1
