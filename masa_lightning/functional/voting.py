"""Which answer do several solutions of a problem agree on? Pure functions over their boxes, or what these name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from masa_lightning.functional.boxes import last_box
from masa_lightning.functional.choices import chosen_letter
from masa_lightning.functional.confidence import answer_text
from masa_lightning.functional.grading import quick_box_verdict
from masa_lightning.types import ChoiceAnswer, Problem, RolloutGroup

_MAX_COMPARED: Final = 100  # characters; two long lists take long to compare, and there are many pairs


def ballot(problem: Problem, completion: str) -> str | None:
    r"""What a solution votes for: its last box and, of a choice, the letter of the option that the box names.

    >>> problem = Problem(id="1", problem="?", answer=ChoiceAnswer("A", options=["red", "green"]))
    >>> [ballot(problem, rf"\boxed{{{box}}}") for box in ("B", "Option B", "green", "both")]
    ['B', 'B', 'B', 'both']
    """
    letter = None
    if isinstance(problem.answer, ChoiceAnswer):
        letter = chosen_letter(completion, problem.answer.options)
    return letter or last_box(completion)


def count_votes(group: RolloutGroup) -> list[int | None] | None:
    """Numbers the answers of a group, which is all that `majority_vote` and `predicted_vote` need of its texts.

    Args:
        group: With graded solutions.

    Returns:
        A number a solution, 0 for the right answer, None for no vote. None in place of the list for a group without
        solutions, and for programs and numbers within a tolerance, which cannot agree: who is near whom?
    """
    if not group.solutions or group.problem.answer_type not in ("math", "choice"):
        return None
    return numbered([ballot(group.problem, answer_text(r)) for r in group.solutions], group.correct)


def numbered(boxes: Sequence[str | None], correct: Sequence[bool]) -> list[int | None]:
    """Numbers the answers of a problem: what `majority_vote` and `predicted_vote` need of their texts.

    Args:
        boxes: As in `majority_vote`, [N].
        correct: [N].

    Returns:
        A number an answer, 0 for all right ones, and None for no vote, [N].

    >>> numbered(["8", "1/2", "0.5", None, "8", "0.50"], [True, False, False, False, False, False])
    [0, 1, 1, None, 2, 1]
    """
    numbers: dict[str, int] = {}
    names = iter(_names([None if right else box for box, right in zip(boxes, correct, strict=True)]))
    return [
        0 if right else None if name is None else numbers.setdefault(name, len(numbers) + 1)
        for name, right in zip(names, correct, strict=True)
    ]


def majority_vote(boxes: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Is the answer that most solutions give right (maj@n)?

    Args:
        boxes: What the last box of each solution holds; None for no vote. [N].
        correct: Verdict on each solution, [N].

    Returns:
        1 or 0; of equally frequent answers the share that is right, as when one of them is drawn. 0 without a vote.

    >>> majority_vote(["7", "1/2", "0.5"], [False, True, True]), majority_vote(["7", "8", None], [True, False, False])
    (1.0, 0.5)
    """
    return _winner([(votes, right) for votes, right in _count(boxes, correct)])


def predicted_vote(
    boxes: Sequence[str | None], correct: Sequence[bool], rates: Sequence[float], base: float = 0.01
) -> float:
    """Is the answer right that is given about as often as the model predicted that it would be right?

    The votes k of N for an answer are weighted by the difficulty reward (docs/method.md, section 3) that the
    predictions would earn, were this answer the right one: ``k * mean_j(base ** |rate_j - k / N|)``. On a problem that
    the model predicts to solve in one of four attempts, an answer of a quarter of them may so win over one that most of
    them give. This reading of "a vote weighted by predicted difficulty" is ours; the paper has no vote.

    Args:
        boxes: As in `majority_vote`, [N].
        correct: [N].
        rates: Predicted pass rates of the problem, each in [0, 1]; without any it is `majority_vote`.
        base: In (0, 1).

    >>> boxes, correct = ["7", "7", "7", "9"], [False, False, False, True]
    >>> majority_vote(boxes, correct), predicted_vote(boxes, correct, [0.25, 0.25])
    (0.0, 1.0)
    """
    scored = []
    for votes, right in _count(boxes, correct):
        weight = fmean(base ** abs(rate - votes / len(boxes)) for rate in rates) if rates else 1.0
        scored.append((votes * weight, right))
    return _winner(scored)


def most_common_answer(boxes: Sequence[str | None]) -> tuple[str | None, int]:
    """Returns the answer that most solutions give, as first written, and its votes; (None, 0) without a vote.

    >>> most_common_answer(["8", "1/2", None, "0.5"])
    ('1/2', 2)
    """
    votes = _cluster(boxes)
    return max(votes.items(), key=lambda item: item[1], default=(None, 0))


def _count(boxes: Sequence[str | None], correct: Sequence[bool]) -> list[tuple[int, bool]]:
    """Votes of each answer, and whether it is right; all right answers are one."""
    right = sum(correct)
    wrong = _cluster([None if c else box for box, c in zip(boxes, correct, strict=True)])
    return [(right, True)] * bool(right) + [(votes, False) for votes in wrong.values()]


def _cluster(boxes: Sequence[str | None]) -> dict[str, int]:
    """Votes of each answer, as first written."""
    return dict(Counter(filter(None, _names(boxes))))


def _names(boxes: Sequence[str | None]) -> list[str | None]:
    """What the answer of each box was first written as; answers are one where no formula has to be read to see it."""
    known: dict[str, None] = {}
    names: list[str | None] = []
    for box in boxes:
        same = box or None
        if box and box not in known and len(box) <= _MAX_COMPARED:
            same = next((b for b in known if len(b) <= _MAX_COMPARED and quick_box_verdict(box, b)), box)
        if same is not None:
            known[same] = None
        names.append(same)
    return names


def _winner(scored: Sequence[tuple[float, bool]]) -> float:
    if not scored:
        return 0.0
    best = max(score for score, _ in scored)
    return fmean(float(right) for score, right in scored if score == best)
