import json
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from masa_lightning.functional.experts import choose_expert, expert_target
from masa_lightning.functional.parsing import parse_meta_prediction
from masa_lightning.functional.rewards import difficulty_reward, length_reward
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup

TEXT = '<meta>think</meta> {"math_notion": ["parity"], "pass_rate": 1, "solution_length": 5}'


def meta(text=TEXT, notion=0.5, reward=0.5):
    completion = Completion(token_ids=[1], logprobs=[0.0], finish_reason="stop")
    rollout = Rollout(kind="meta", prompt_ids=[1], completion=completion, text=text, reward=reward)
    rollout.prediction = parse_meta_prediction(text)
    rollout.rewards = {"notion": notion}
    return rollout


def group(*metas, correct=(True, False)):
    solutions = []
    for ok in correct:
        completion = Completion(token_ids=[1, 2], logprobs=[0.0, 0.0], finish_reason="stop")
        solutions.append(Rollout(kind="solution", prompt_ids=[1], completion=completion, text="", correct=ok))
    return RolloutGroup(problem=Problem(id="1", problem="?", answer="1"), solutions=solutions, metas=list(metas))


def test_the_best_by_notion_reward_is_chosen():
    metas = [meta(notion=0.4, reward=0.9), meta(notion=0.5, reward=0.3), meta(notion=0.5, reward=0.4), meta(notion=0.1)]
    assert choose_expert(group(*metas)) is metas[2]
    assert choose_expert(group(*metas[3:])) is None
    assert choose_expert(group(*metas[3:]), min_notion_reward=0.1) is metas[3]
    assert choose_expert(group(*metas, correct=(False, False))) is None
    assert choose_expert(group()) is None


def test_without_a_notion_part_the_best_by_reward_is_chosen():
    """Notions are not rewarded, or not even predicted."""
    plain = '<meta>think</meta> {"pass_rate": 1, "solution_length": 5}'
    metas = [meta(reward=0.2), meta(plain, reward=0.9), meta("no reasoning", reward=1.0)]
    for rollout in metas:
        rollout.rewards = {"difficulty": 0.5}
    assert choose_expert(group(*metas)) is metas[1]
    assert expert_target(metas[1], [True], [7]) == '<meta>think</meta> {"pass_rate": 8, "solution_length": 7}'
    assert choose_expert(group(*metas[::2])) is metas[0]
    assert "parity" in expert_target(metas[0], [True], [7])


@pytest.mark.parametrize(
    "text",
    [
        "<meta>never closed " + TEXT.partition("</meta>")[2],
        "never opened" + TEXT.removeprefix("<meta>think"),
        '<meta>think</meta> {"pass_rate": 1}',
        "<meta>think</meta> nothing",
    ],
)
def test_what_is_no_expert(text):
    assert choose_expert(group(meta(text))) is None
    with pytest.raises(ValueError, match="no closed <meta> reasoning or no notions"):
        expert_target(meta(text), [True], [1])


def test_target_by_hand():
    written = '{"math_notion": ["parity"], "pass_rate": 6, "solution_length": 25}'
    correct, lengths = [True, True, False, True], [10, 20, 900, 45]
    assert expert_target(meta(), correct, lengths) == f"<meta>think</meta> {written}"
    assert expert_target(meta(TEXT.replace("> {", ">{")), correct, lengths) == f"<meta>think</meta>{written}"
    assert '"pass_rate": 12,' in expert_target(meta(), correct, lengths, pass_rate_scale=16)
    with pytest.raises(ValueError, match="no solution is correct"):
        expert_target(meta(), [False], [3])


notion = st.text("abc\"\\{}'<>/\n é日", max_size=8)
parts = st.lists(st.tuples(st.booleans(), st.integers(1, 10**4)), min_size=1, max_size=16)


@given(st.text(max_size=60), st.lists(notion, min_size=1, max_size=4), parts, st.integers(1, 32))
def test_every_target_parses_back_and_earns_the_best(reasoning, notions, solutions, scale):
    correct, lengths = map(list, zip(*solutions, strict=True))
    assume(any(correct) and "</meta>" not in reasoning)
    rollout = meta(f"<meta>{reasoning}</meta>{json.dumps({'math_notion': notions})}")
    assume(rollout.prediction.notions is not None)
    target = expert_target(rollout, correct, lengths, pass_rate_scale=scale)
    assert target.startswith(f"<meta>{reasoning}</meta>")
    prediction = parse_meta_prediction(target, pass_rate_scale=scale)
    assert prediction.failures == {}
    assert prediction.notions == rollout.prediction.notions
    assert length_reward(prediction.solution_length, lengths, correct) == 1.0
    best = max(difficulty_reward(n / scale, correct) for n in range(scale + 1))
    assert difficulty_reward(prediction.rate, correct) == pytest.approx(best)
    assert abs(prediction.rate - fmean(correct)) <= 0.5 / scale + 1e-12
