"""What is done with predictions by `predict`: the controls of training, and the walk of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from masa_lightning import EarlyCutoff, Evaluation, NotionHinting, PredictiveGating, SampleAllocation
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup


def group(*predictions: tuple[int | None, int | None, tuple[str, ...] | None]) -> RolloutGroup:
    metas = [
        Rollout(
            kind="meta",
            prompt_ids=[],
            completion=Completion(token_ids=[1], logprobs=[0.0], finish_reason="stop"),
            text="",
            prediction=MetaPrediction(pass_rate=rate, solution_length=length, notions=notions),
        )
        for rate, length, notions in predictions
    ]
    return RolloutGroup(problem=Problem(id="q", problem="Find the parity.", answer="1"), metas=metas)


def controls(gating: dict[str, Any] | None = None) -> list[Any]:
    """Those of configs/predict.yaml, with other settings of the gate."""
    return [
        PredictiveGating(**{"mode": "shadow", "start_step": 0} | (gating or {})),
        EarlyCutoff(start_step=0, factor=2.0),
        NotionHinting(start_step=0),
        SampleAllocation(),
    ]


SKIP = {"mode": "act", "skip": "hopeless"}


def controlled(g: RolloutGroup, **gating: Any) -> RolloutGroup:
    for control in controls(gating):
        control.decide([g], step=0, key="0/predict", budget=100, count=9, audit=False)
    return g


def test_every_control() -> None:
    g = controlled(group((2, 20, ("parity", "lemma")), (2, 30, ("Lemma",)), (2, 40, None)))
    assert g.token_limit == 60  # twice the median
    assert g.num_solutions == 10  # 1 + 8 * 6 * 1/4 * 3/4
    assert g.hint == ("lemma",)  # parity is in the problem
    assert not g.gated
    assert g.decisions["gating"].detail is None


@pytest.mark.parametrize(("settings", "gated"), [(SKIP, True), ({}, False)])
def test_hopeless(settings: dict[str, Any], gated: bool) -> None:
    g = controlled(group((0, 20, None), (0, 20, None)), **settings)
    assert (g.gated, g.decisions["gating"].detail) == (gated, "hopeless")
    assert g.num_solutions == 1


@pytest.mark.parametrize(("settings", "looks"), [(SKIP, None), ({}, "trivial")])
def test_trivial_problems_are_solved_once(settings: dict[str, Any], looks: str | None) -> None:
    g = controlled(group((8, 20, None), (8, 20, None)), **settings)
    assert (g.gated, g.decisions["gating"].detail, g.num_solutions) == (False, looks, 1)


def test_in_training_trivial_problems_are_skipped() -> None:
    assert controlled(group((8, 20, None), (8, 20, None)), mode="act").gated


def test_nobody_is_audited() -> None:
    """In training a twentieth of the problems would be left alone."""
    for place in range(100):
        g = group((0, 20, ("lemma",)), (0, 20, ("lemma",)))
        for control in controls(SKIP):
            control.decide([g], step=0, key=f"0/{place}", budget=100, count=9, audit=False)
        assert g.gated
        assert g.hint
        assert {decision.weight for decision in g.decisions.values()} == {1.0}


def test_nothing_is_done_without_predictions() -> None:
    g = controlled(group((None, None, None)))
    assert g.token_limit is None
    assert not g.gated
    assert not g.hint
    assert g.num_solutions == 9


def test_a_budget_is_never_exceeded() -> None:
    assert controlled(group((4, 10**18, None))).token_limit is None


def test_more_solutions_of_some_problems_are_for_predict_alone(loop: Any) -> None:
    with pytest.raises(ValueError, match="SampleAllocation is a callback of `predict`"):
        loop.trainer(SampleAllocation()).fit(loop.module(), loop.Problems(2))


# -- the walk of a batch -----------------------------------------------------------------------------------------------

PREDICTED = {"easy": (8, 8), "open": (4, 5), "lost": (0, 0)}
NAMES = [*PREDICTED]


def script(kind: str, text: str, index: int, call: int) -> str:
    name = text.split("/")[0]
    if kind == "meta":
        rate = PREDICTED[name][index]
        return f'</meta>{{"math_notion": ["lemma"], "pass_rate": {rate}, "solution_length": 6}}'
    return "\\boxed{2}" if name == "easy" else f"\\boxed{{{index}}} and so on and so on and so on"


def predict(loop: Any, *callbacks: Any, answer: str = "2", **evaluation: Any) -> tuple[Any, dict[str, Any]]:
    module = loop.scripted(
        script,
        prompts=PromptTemplates(solution="S:{problem}", meta="M:{problem}", hint="{problem}/{notions}"),
        evaluation=Evaluation(num_generations=4, num_meta_generations=2, **evaluation),
    )
    problems = [Problem(id=n, problem=n, answer=answer) for n in NAMES]
    data = loop.Problems(0, validation=problems)
    data.val_batch_size = 8
    (outputs,) = loop.trainer(*callbacks).predict(module, data)
    return module, outputs


def test_predictions_alone(loop: Any) -> None:
    module, outputs = predict(loop)
    assert module.sampler.calls == 1
    assert [[r.prediction.pass_rate for r in g.metas] for g in outputs["groups"]] == [[8, 8], [4, 5], [0, 0]]
    assert not any(g.solutions for g in outputs["groups"])


def test_solved_under_controls_and_without(loop: Any) -> None:
    module, outputs = predict(loop, *controls(SKIP), solve=True)
    assert module.sampler.calls == 3
    easy, open_, lost = outputs["groups"]
    assert [len(g.solutions) for g in (easy, open_, lost)] == [1, 5, 0]  # 1 + 3 * 6 * .5625 * .4375
    assert {r.completion.finish_reason for r in open_.solutions} == {"length"}
    assert {r.length for r in open_.solutions} == {12}
    prompts = {module.tokenizer.decode(r.prompt_ids, skip_special_tokens=True) for r in open_.solutions}
    assert prompts == {"S:open/lemma"}
    assert [r.correct for r in easy.solutions] == [True]
    plain = outputs["plain"]
    assert [g.problem.id for g in plain] == NAMES
    assert [len(g.solutions) for g in plain] == [4, 4, 4]
    assert {r.completion.finish_reason for g in plain for r in g.solutions} == {"stop"}
    assert [g.pass_rate for g in plain] == [1, 0.25, 0.25]
    assert not any(g.hint for g in plain)


def test_same_samples_where_no_control_changes_them(loop: Any) -> None:
    """With a real sampler: the seeds of both runs are the same."""
    module = loop.module(evaluation=Evaluation(num_generations=3, num_meta_generations=1, solve=True))
    data = loop.Problems(0, validation=3)
    for outputs in loop.trainer().predict(module, data):
        for group, plain in zip(outputs["groups"], outputs["plain"], strict=True):
            texts = [[r.completion.token_ids for r in g.solutions] for g in (group, plain)]
            assert texts[0] == texts[1]
            assert len({tuple(ids) for ids in texts[0]}) == 3


def test_answers_nobody_knows(loop: Any) -> None:
    _, outputs = predict(loop, *controls(), answer="", solve=True)
    rollouts = [r for g in outputs["groups"] for r in g.solutions]
    assert rollouts
    assert all(r.ungraded and not r.correct for r in rollouts)


def test_nothing_to_predict_with(loop: Any) -> None:
    module = loop.module(evaluation=Evaluation(num_generations=2, num_meta_generations=0))
    with pytest.raises(ValueError, match=r"evaluation\.num_meta_generations is 0"):
        loop.trainer().predict(module, loop.Problems(0, validation=2))


def test_solved_without_controls(loop: Any) -> None:
    module, outputs = predict(loop, solve=True, compare=False)
    assert module.sampler.calls == 1  # both kinds at once
    assert [len(g.solutions) for g in outputs["groups"]] == [4, 4, 4]
    assert outputs["plain"] == []
