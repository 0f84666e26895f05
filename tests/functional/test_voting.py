"""Votes, by hand and by properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional import voting
from masa_lightning.functional.choices import grade_choice
from masa_lightning.functional.voting import ballot, majority_vote, most_common_answer, predicted_vote
from masa_lightning.types import Problem


@pytest.mark.parametrize(
    ("boxes", "correct", "expected"),
    [
        (["3", "3", "4"], [True, True, False], 1.0),
        (["3", "4", "4"], [True, False, False], 0.0),
        (["3", "4"], [True, False], 0.5),
        (["3", "4", "5"], [True, False, False], 1 / 3),
        (["1/2", "0.5", "7"], [True, True, False], 1.0),  # written differently, both right
        (["3", "1/2", "0.50"], [True, False, False], 0.0),  # the same wrong answer, written differently
        (["3", None, None, None], [True, False, False, False], 1.0),  # silence does not vote
        (["3", "", ""], [True, False, False], 1.0),
        ([None, None], [False, False], 0.0),
        ([], [], 0.0),
    ],
)
def test_majority(boxes: list[str | None], correct: list[bool], expected: float) -> None:
    assert majority_vote(boxes, correct) == pytest.approx(expected)
    assert predicted_vote(boxes, correct, []) == pytest.approx(expected)


def test_the_predicted_share_wins() -> None:
    """3 votes for a wrong answer, 1 for the right one, of 4; scores are k * 0.01 ** |rate - k/4|."""
    boxes, correct = ["7", "7", "7", "9"], [False, False, False, True]
    # rate 0.5: 3 * .01**.25 = .949 and 1 * .01**.25 = .316
    assert predicted_vote(boxes, correct, [0.5]) == 0
    # rate 0.25: 3 * .01**.5 = .3 and 1
    assert predicted_vote(boxes, correct, [0.25]) == 1
    # rates 0.25 and 1: 3 * (.1 + .316) / 2 = .624 and 1 * (1 + .0316) / 2 = .516
    assert predicted_vote(boxes, correct, [0.25, 1.0]) == 0


answers = st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.booleans()), max_size=8)


@given(answers, st.lists(st.floats(0, 1), max_size=3))
def test_votes_are_shares_and_do_not_depend_on_order(rows: list[tuple[str | None, bool]], rates: list[float]) -> None:
    rows = [(box, box == "1") for box, _ in rows]
    for vote in (majority_vote, lambda b, c: predicted_vote(b, c, rates)):
        value = vote([b for b, _ in rows], [c for _, c in rows])
        assert 0 <= value <= 1
        assert value == pytest.approx(vote([b for b, _ in rows[::-1]], [c for _, c in rows[::-1]]))
        if all(c for _, c in rows) and rows:
            assert value == 1
        if not any(c for _, c in rows):
            assert value == 0


def test_an_option_named_in_different_ways_is_one_answer() -> None:
    options = {"options": ["red", "green", "blue"]}
    problem = Problem(id="1", problem="?", answer="B", answer_type="choice", metadata=options)
    texts = [rf"\boxed{{{box}}}" for box in ("B", "(B) green", "C", r"\text{Option C}", "blue")]
    correct = [grade_choice(text, "B", options["options"]) for text in texts]
    assert correct == [True, True, False, False, False]
    assert majority_vote([ballot(problem, text) for text in texts], correct) == 0


def test_hostile_boxes_take_linear_time() -> None:
    boxes = [f"{'(' * 400}{i}" for i in range(64)]
    assert majority_vote(boxes, [False] * 64) == 0


def test_long_lists_are_compared_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lists of 64 expressions take up to 64 * 64 comparisons of elements, and 32 boxes are 496 pairs."""
    compared = []
    monkeypatch.setattr(voting, "quick_box_verdict", lambda *pair: compared.append(pair))
    boxes = [", ".join(f"x^{{{i + j}}}+1" for j in range(64)) for i in range(16)]
    assert most_common_answer([*boxes, boxes[3], "1", "2"]) == (boxes[3], 2)
    assert compared == [("2", "1")]
