"""pass@k and votes as metrics: against counting by hand, batch by batch, over processes, from groups and from tensors."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import Metric

from masa_lightning.functional.calibration import rate_interval
from masa_lightning.metrics import MajorityVote, PassAtK, PredictedVote
from masa_lightning.types import (
    ChoiceAnswer,
    CodeAnswer,
    Completion,
    MetaPrediction,
    NumberAnswer,
    Problem,
    Rollout,
    RolloutGroup,
)

NAN = math.nan
NONE = torch.empty(0, dtype=torch.int64)


def group(answers: str, rates: tuple[int | None, ...] = (), right: str = "2", **problem: Any) -> RolloutGroup:
    """A problem whose solutions answer these digits; of a dash the box is missing."""

    def rollout(kind: Any, **what: Any) -> Rollout:
        completion = Completion(token_ids=[1], logprobs=[], finish_reason="stop")
        return Rollout(kind=kind, prompt_ids=[], completion=completion, **what)

    return RolloutGroup(
        problem=Problem(id="1", problem="?", answer=right, **problem),
        solutions=[
            rollout("solution", text="" if a == "-" else f"\\boxed{{{a}}}", correct=a == right) for a in answers
        ],
        metas=[rollout("meta", text="", prediction=MetaPrediction(pass_rate=rate)) for rate in rates],
    )


def gather_with(other: Metric, own: Metric) -> None:
    """Makes `own` believe that `other` runs on a second process."""
    own.distributed_available_fn = lambda: True
    own.dist_sync_fn = lambda state, group=None: [state, other.rows().flatten()]


class TestPassAtK:
    @given(st.lists(st.lists(st.booleans(), min_size=3, max_size=7), min_size=1, max_size=5))
    @settings(deadline=None, max_examples=50)
    def test_every_choice_of_k_solutions_is_counted(self, problems: list[list[bool]]) -> None:
        metric = PassAtK(k=(2, 3))
        for verdicts in problems:  # a batch each
            metric.update(torch.tensor([sum(verdicts)]), torch.tensor([len(verdicts)]))
        metrics = metric.compute()
        for k in (1, 2, 3):
            shares = [Fraction(sum(map(any, c)), len(c)) for v in problems for c in [list(combinations(v, k))]]
            assert metrics[f"pass@{k}"].item() == pytest.approx(float(sum(shares) / len(shares)), abs=1e-6)
        rates = torch.tensor([sum(v) / len(v) for v in problems])
        assert (metrics["pass@1_low"].item(), metrics["pass@1_high"].item()) == rate_interval(rates)

    def test_groups_are_tensors(self) -> None:
        groups = [group("2222"), group(""), group("2345"), group("22--")]
        metric, whole = PassAtK(k=(4,)), PassAtK(k=(4,))
        for each in groups:
            metric.add_groups([each])
        whole.update(torch.tensor([4, 1, 2]), torch.tensor([4, 4, 4]))
        assert metric.compute() == whole.compute()
        assert metric.compute()["pass@1"] == pytest.approx(7 / 12)
        assert metric.rows().shape == (3, 2)  # all that is kept of a problem

    def test_two_processes_equal_one(self) -> None:
        whole, first, second = PassAtK(k=(2,)), PassAtK(k=(2,)), PassAtK(k=(2,))
        correct, count = torch.tensor([0, 1, 3, 4, 8]), torch.tensor([4, 8, 4, 4, 8])
        whole.update(correct, count)
        first.update(correct[:2], count[:2])
        second.update(correct[2:], count[2:])
        gather_with(second, first)
        assert first.compute() == whole.compute()
        assert first.plot()[1].get_title(loc="left") == whole.plot()[1].get_title(loc="left")

    def test_a_process_without_problems(self) -> None:
        full, empty = PassAtK(), PassAtK()
        full.update(torch.tensor([3]), torch.tensor([4]))
        gather_with(full, empty)
        assert empty.compute()["pass@1"] == 0.75

    def test_not_in_the_precision_of_a_run(self) -> None:
        torch.set_default_dtype(torch.bfloat16)  # as Lightning's precision="bf16-true" does around the steps
        try:
            metric = PassAtK(k=(2,))
            metric.reset()
            metric.add_groups([group("23334")])
            metrics = metric.compute()
        finally:
            torch.set_default_dtype(torch.float32)
        assert metrics["pass@1"].item() == pytest.approx(0.2)
        assert metrics["pass@2"].item() == 0.4
        metric.reset()
        assert math.isnan(metric.compute()["pass@1"])

    def test_refuses(self) -> None:
        metric, two = PassAtK(k=(4,)), torch.tensor([2, 2])
        for correct, count, message in (
            (two, torch.tensor([4]), r"correct has shape \(2,\) and count \(1,\); expected one dimension"),
            (two[None], two[None], "expected one dimension"),
            (two, torch.tensor([4, 1]), r"outside of \[0, count\]"),
            (-two, two, r"outside of \[0, count\]"),
            (two, torch.tensor([4, 3]), "a problem has 3 solutions; expected at least k = 4"),
        ):
            with pytest.raises(ValueError, match=message):
                metric.update(correct, count)
        for k in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match="a value of k is"):
                PassAtK(k=(k,))  # type: ignore[arg-type]
        assert math.isnan(metric.compute()["pass@4"])  # nothing of it was added


class TestVotes:
    @given(st.lists(st.text("2345-", min_size=4, max_size=4), min_size=1, max_size=6))
    @settings(deadline=None, max_examples=50)
    def test_the_majority_is_counted(self, problems: list[str]) -> None:
        expected = []
        for answers in problems:
            counts = Counter(answers.replace("-", ""))
            best = [a for a, n in counts.items() if n == max(counts.values())]
            expected.append(best.count("2") / len(best) if best else 0.0)
        metric, tensors = MajorityVote(), MajorityVote()
        for answers in problems:
            metric.add_groups([group(answers)])
        answer = torch.tensor([[-1 if a == "-" else int(a) for a in answers] for answers in problems])
        tensors.update(answer, answer == 2)
        assert metric.compute().item() == tensors.compute().item() == pytest.approx(sum(expected) / len(expected))
        assert metric.rows().shape == (len(problems), 1)

    @given(
        st.lists(
            st.tuples(st.text("2345-", min_size=5, max_size=5), st.lists(st.integers(0, 8) | st.none(), max_size=3)),
            min_size=1,
            max_size=5,
        )
    )
    @settings(deadline=None, max_examples=50)
    def test_predictions_weigh_votes(self, problems: list[tuple[str, list[int | None]]]) -> None:
        expected = []
        for answers, rates in problems:
            known = [rate / 8 for rate in rates if rate is not None] or [None]
            scores = {
                a: n * math.fsum(1 if p is None else 0.01 ** abs(p - n / len(answers)) for p in known)
                for a, n in Counter(answers.replace("-", "")).items()
            }
            best = [a for a, s in scores.items() if s == pytest.approx(max(scores.values()), rel=1e-12)]
            expected.append(best.count("2") / len(best) if best else 0.0)
        metric, tensors = PredictedVote(), PredictedVote()
        for answers, rates in problems:
            metric.add_groups([group(answers, tuple(rates))])
            answer = torch.tensor([[-1 if a == "-" else int(a) for a in answers]])
            rate = torch.tensor([[NAN if r is None else r / 8 for r in rates]]).view(1, -1)
            tensors.update(answer, answer == 2, rate)
        assert metric.compute().item() == tensors.compute().item() == pytest.approx(sum(expected) / len(expected))

    @pytest.mark.parametrize("kind", [MajorityVote, PredictedVote])
    def test_only_answers_that_agree_have_a_vote(self, kind: type[MajorityVote]) -> None:
        metric = kind()
        number, code = NumberAnswer("2", tolerance=0.1), CodeAnswer("2")
        metric.add_groups([group("2222", right=number), group("2222", right=code), group("")])
        assert math.isnan(metric.compute())
        metric.add_groups([group("BBB", right=ChoiceAnswer("B", options=["1", "2"]))])
        assert metric.compute() == 1

    def test_right_answers_are_one_however_they_are_written(self) -> None:
        metric = MajorityVote()
        metric.update(torch.tensor([[1, 2, 3, 3, -1]]), torch.tensor([[True, True, False, False, True]]))
        assert metric.compute() == 1

    @pytest.mark.parametrize("kind", [MajorityVote, PredictedVote])
    def test_two_processes_equal_one(self, kind: type[MajorityVote]) -> None:
        groups = [group("2233", (4,)), group("3334", (2, 8)), group("2", (8,))]
        whole, first, second = kind(), kind(), kind()
        whole.add_groups(groups)
        first.add_groups(groups[:1])
        second.add_groups(groups[1:])
        gather_with(second, first)
        assert first.compute() == whole.compute()

    def test_refuses(self) -> None:
        answer, right = torch.tensor([[1, 2]]), torch.tensor([[True, False]])
        for metric, arguments, message in (
            (
                MajorityVote(),
                (answer, right[0]),
                r"answer has shape \(1, 2\) and correct \(2,\); expected two dimensions",
            ),
            (MajorityVote(), (answer.float(), right), "answer is torch.float32 .* expected whole numbers"),
            (MajorityVote(), (answer, right.long()), "correct torch.int64; expected whole numbers and bool"),
            (PredictedVote(), (answer, right, torch.tensor([0.5])), r"rate has shape \(1,\); expected .* \[1, M\]"),
            (PredictedVote(), (answer, right, torch.tensor([[4.0]])), r"rate has values outside of \[0, 1\]"),
        ):
            with pytest.raises(ValueError, match=message):
                metric.update(*arguments)
            assert math.isnan(metric.compute())


@pytest.mark.parametrize("metric", [PassAtK(k=(2,)), MajorityVote(), PredictedVote()])
def test_nothing_is_nan_without_warnings(metric: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = metric.compute()
        metric.add_groups([])
        if isinstance(metric, PassAtK):
            metric.update(NONE, NONE)
        second = metric.compute()
    for found in (first, second):
        assert all(map(math.isnan, found.values() if isinstance(found, dict) else [found]))
