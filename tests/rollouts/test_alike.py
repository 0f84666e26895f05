"""When it is said that nothing is learned from predictions any more."""

import warnings

import pytest

from masa_lightning.rollouts.alike import AlikeWarning
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup


def group(*rewards, failures=None):
    metas = [
        Rollout(
            kind="meta",
            prompt_ids=[1],
            completion=Completion(token_ids=[1], logprobs=[], finish_reason="stop"),
            text="",
            prediction=MetaPrediction(pass_rate=1, failures=failures),
            reward=reward,
        )
        for reward in rewards
    ]
    return RolloutGroup(problem=Problem(id="a", problem="?", answer="1"), metas=metas)


def look(*steps):
    warning = AlikeWarning()
    for groups in steps:
        warning.look(groups)


ALIKE = [group(0.5, 0.5)] * 4


@pytest.mark.parametrize(
    "steps",
    [
        [ALIKE] * 9,  # not yet
        [*[ALIKE] * 9, [group(0.5, 0.5), group(0.5, 0.4)], *[ALIKE] * 9],  # not in a row
        [[group(0.5, 0.5)]] * 31,  # few problems
        [[group(0.5)] * 9] * 10,  # one prediction of each
        [[group(None, None)] * 9] * 10,  # kept out of the update
        [[group(1.0, 1.0)] * 9] * 20,  # right
        [[group()] * 9] * 20,  # GRPO
    ],
)
def test_no_warning(steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(*steps)


def test_a_warning():
    expected = r"in 10 training steps in a row .* for each of 40 problems \(0.5 on average; 100% could be read\)"
    with pytest.warns(UserWarning, match=expected) as warned:
        look([group(0.5, 0.4)], *[ALIKE] * 40)
    assert len(warned) == 1


def test_small_batches_take_more_steps():
    with pytest.warns(UserWarning, match="in 32 training steps in a row .* for each of 32 problems"):
        look(*[[group(0.5, 0.5)]] * 40)


def test_steps_without_predictions_change_nothing():
    with pytest.warns(UserWarning, match="in 10 training steps in a row"):
        look(*[ALIKE] * 5, [group()], *[ALIKE] * 5)


def test_predictions_that_cannot_be_read():
    with pytest.warns(UserWarning, match=r"\(0 on average; 0% could be read\).*meta/failures"):
        look(*[[group(0.0, 0.0, failures={"pass_rate": "no_json"})] * 4] * 10)
