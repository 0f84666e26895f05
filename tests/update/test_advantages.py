"""Rewards of a step -> advantages, with the objectives that the scorers name."""

from statistics import fmean, stdev

import pytest

from masa_lightning.quantities import Quantities, default_quantities
from masa_lightning.rollouts.meta_scorer import MetaScorer
from masa_lightning.rollouts.solution_scorer import SolutionScorer
from masa_lightning.settings import Algorithm
from masa_lightning.types import Completion, Decision, Problem, Rollout, RolloutGroup
from masa_lightning.update.advantages import assign_advantages

APART = Algorithm(multi_objective_aggregation="normalize_then_sum")


class Fixed:
    """The verdicts and rewards that the texts spell: "right 0.5" and so on."""

    name = "spelt"

    def grade(self, problems, completions, on_progress=None):
        return [text.startswith("right") for text in completions]

    def close(self): ...

    def __call__(self, problem, completions):
        return [float(text.split()[1]) for text in completions]


class Ignored(Fixed):
    name = "ignored"


def rollout(kind, text, tokens=3):
    completion = Completion(token_ids=[1] * tokens, logprobs=[0.0] * tokens, finish_reason="stop")
    return Rollout(kind=kind, prompt_ids=[1], completion=completion, text=text)


def group(name, *texts, metas=(), tokens=()):
    lengths = tokens or [3] * len(texts)
    solutions = [rollout("solution", text, n) for text, n in zip(texts, lengths, strict=True)]
    metas = [rollout("meta", text) for text in metas]
    return RolloutGroup(problem=Problem(id=name, problem=name, answer="1"), solutions=solutions, metas=metas)


def spread(values):
    """Advantages of the rewards of one group, and 0 without a spread."""
    deviation = stdev(values)
    return [(value - fmean(values)) / (deviation + 1e-6) for value in values]


def summed(weights, *columns):
    size = sum(w * w for w in weights) ** 0.5
    return [sum(w * a for w, a in zip(weights, row, strict=True)) / size for row in zip(*columns, strict=True)]


def score(groups, *scorers):
    for scorer in scorers:
        scorer.score(groups, lambda phase, total: lambda done, of: None)


def scorers(weights=None, **settings):
    functions = SolutionScorer(Fixed(), [Fixed(), Ignored()], [0.1, 0.0], max_length=10, **settings)
    return functions, MetaScorer(Quantities(default_quantities(), budget=10), weights)


def objectives(solutions, metas):
    return {"solution": solutions.objectives, "meta": metas.objectives}


def test_each_reward_of_a_solution_counts_by_its_weight_alone():
    groups = [group("a", "right 0.3", "wrong 0.1", "wrong 0.2"), group("b", "wrong 0.5", "wrong 0.5", "wrong 0.5")]
    solution, meta = scorers()
    score(groups, solution, meta)
    assign_advantages(groups, APART, objectives(solution, meta))
    expected = summed([1, 0.1], spread([1, 0, 0]), spread([0.3, 0.1, 0.2]))  # a reward of weight 0 takes no part
    assert [r.advantage for r in groups[0].solutions] == pytest.approx(expected)
    assert [r.advantage for r in groups[1].solutions] == [0, 0, 0]
    assign_advantages(groups, Algorithm(), objectives(solution, meta))
    assert [r.advantage for r in groups[0].solutions] == pytest.approx(spread([1.03, 0.01, 0.02]))


def test_the_overlong_penalty_stays_one_on_correctness():
    """By itself a penalty of 0.1 on one rollout would weigh as much as being right."""
    groups = [group("a", "right 0", "wrong 0", "wrong 0", tokens=(3, 9, 3))]
    solution, meta = scorers(overlong_buffer=2)
    score(groups, solution, meta)
    assert groups[0].solutions[1].rewards["overlong"] == -0.5
    assign_advantages(groups, APART, objectives(solution, meta))
    expected = summed([1, 0.1], spread([1, -0.5, 0]), [0, 0, 0])
    assert [r.advantage for r in groups[0].solutions] == pytest.approx(expected)


METAS = (
    '<meta>x</meta>{"math_notion": ["parity"], "pass_rate": 4, "solution_length": 4}',
    '<meta>x</meta>{"math_notion": ["sums"], "pass_rate": 8, "solution_length": 4}',
    '<meta>x</meta>{"pass_rate": 0, "solution_length": 99}',
    "nothing to parse",
)


def meta_group():
    return group("a", "right 0 parity", "wrong 0 sums", "right 0 parity", "wrong 0", metas=METAS, tokens=(3, 3, 5, 3))


@pytest.mark.parametrize("weights", [None, {"length": 1, "difficulty": 1, "notion": 2}, {"notion": 1, "length": 0}])
def test_each_part_of_a_meta_reward_has_an_advantage_of_its_own(weights):
    groups = [meta_group()]
    solution, meta = scorers(weights)
    score(groups, solution, meta)
    assign_advantages(groups, APART, objectives(solution, meta))
    columns = {"length": [1, 1, 0, 0], "difficulty": [1, 0.1, 0.1, 0], "notion": [1, 0, 0, 0]}
    kept = {name: w for name, w in (weights or dict.fromkeys(columns, 1)).items() if w}
    expected = summed(kept.values(), *[spread(columns[name]) for name in kept])
    assert [r.advantage for r in groups[0].metas] == pytest.approx(expected, rel=1e-5)
    if len(kept) == 1:  # one part alone is what it is today, to the last bit
        found = [r.advantage for r in groups[0].metas]
        assign_advantages(groups, Algorithm(), objectives(solution, meta))
        assert [r.advantage for r in groups[0].metas] == found


def test_predictions_of_audited_problems_weigh_more_and_those_of_cut_ones_do_not_train():
    groups = [meta_group(), meta_group(), meta_group()]
    solution, meta = scorers()
    score(groups[:1], solution, meta)
    assign_advantages(groups[:1], APART, objectives(solution, meta))
    alone = [r.advantage for r in groups[0].metas]
    groups = [meta_group(), meta_group(), meta_group()]
    groups[1].decisions["gating"] = Decision(wanted=True, weight=20.0, share=0.05, skips=True)
    groups[2].gated, groups[2].solutions = True, []
    score(groups, solution, meta)
    assign_advantages(groups, APART, objectives(solution, meta))
    assert [r.advantage for r in groups[0].metas] == pytest.approx([2 / 3 * a for a in alone])
    assert [r.advantage for r in groups[1].metas] == pytest.approx([20 * 2 / 3 * a for a in alone])
    assert [r.reward for r in groups[2].metas] == [None] * 4
    assert [r.advantage for r in groups[2].metas] == [0.0] * 4


def test_refuses_a_reward_that_is_more_than_its_parts():
    groups = [meta_group()]
    solution, meta = scorers()
    score(groups, solution, meta)
    groups[0].solutions[1].reward += 0.5
    assign_advantages(groups, Algorithm(), objectives(solution, meta))  # takes the reward as it is
    with pytest.raises(
        ValueError, match=r"problem 'a' has the reward 0.5, and its parts .* make 0.0; expected them equal"
    ):
        assign_advantages(groups, APART, objectives(solution, meta))
    del groups[0].solutions[1].rewards["spelt"]
    with pytest.raises(ValueError, match="make nan"):
        assign_advantages(groups, APART, objectives(solution, meta))


def test_no_rollouts_have_no_advantages():
    assign_advantages([], APART, {})


def test_terms_make_up_the_advantage_of_a_prediction():
    texts = [
        f'{{"math_notion": ["a"], "pass_rate": {rate}, "solution_length": {n}}}' for rate, n in ((0, 3), (8, 3), (3, 9))
    ]
    groups = [group("a", "right 0.3", "wrong 0.1", metas=texts), group("b", "wrong 0.5", "wrong 0.5", metas=texts[:2])]
    groups[1].decisions["gating"] = Decision(wanted=True, weight=4.0, share=0.25)
    solution, meta = scorers({"length": 1.0, "difficulty": 3.0, "notion": 0.0})
    score(groups, solution, meta)
    per_value = Algorithm(multi_objective_aggregation="normalize_per_value")
    assign_advantages(groups, APART, objectives(solution, meta))
    summed_up = [r.advantage for g in groups for r in g.rollouts]
    assert not any(r.terms for g in groups for r in g.rollouts)
    assign_advantages(groups, per_value, objectives(solution, meta))
    assert [r.advantage for g in groups for r in g.rollouts] == summed_up
    for rollout in (r for g in groups for r in g.metas):
        assert list(rollout.terms) == ["length", "difficulty"]
        assert sum(rollout.terms.values()) == pytest.approx(rollout.advantage)
    rates = [r.rewards["difficulty"] for r in groups[0].metas]
    assert [r.terms["difficulty"] for r in groups[0].metas] == pytest.approx([3 / 10**0.5 * a for a in spread(rates)])
    rates = [r.rewards["difficulty"] for r in groups[1].metas]  # which count four times
    assert [r.terms["difficulty"] for r in groups[1].metas] == pytest.approx([12 / 10**0.5 * a for a in spread(rates)])
    assert not any(r.terms for g in groups for r in g.solutions)


def test_terms_that_cancel_still_teach():
    rollout_ = rollout("meta", "")
    assert not rollout_.teaches
    rollout_.terms = {"length": 1.0, "difficulty": -1.0}
    assert rollout_.teaches
