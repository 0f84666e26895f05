"""Expert meta-trajectories: a problem's best prediction, rewritten with what then really happened.

The method is in docs/method.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from masa_lightning.functional.parsing import render_members
from masa_lightning.types import Rollout, RolloutGroup

_OPEN, _CLOSE = "<meta>", "</meta>"


def choose_expert(group: RolloutGroup, *, min_notion_reward: float = 0.2) -> Rollout | None:
    """Picks the meta rollout of a problem whose reasoning is worth cloning: the best by notion reward.

    Args:
        group: With rewards; of its statistics at least one solution has to be correct.
        min_notion_reward: A rollout below it is no expert, in [0, 1]. Where notions are not rewarded, the best is the one
            with the highest reward.

    Returns:
        A rollout with closed `<meta>` reasoning, and notions where they are rewarded; of equal ones that with the higher
        reward, then the first. None if there is none.
    """
    rewarded = any("notion" in rollout.rewards for rollout in group.metas)
    return best_rollout(group, {"notion": min_notion_reward}, _qualifies if rewarded else _has_read)


def best_rollout(
    group: RolloutGroup, least: Mapping[str, float], qualifies: Callable[[Rollout], bool]
) -> Rollout | None:
    """Picks the meta rollout of a problem whose reasoning is worth cloning.

    Args:
        group: With rewards; of its statistics at least one solution has to be correct.
        least: By names of rewards, what an expert has at least; the best is the one with most of the first of them, then of
            the next, then of the whole reward. A name that no rollout of the group was rewarded for asks for nothing.
        qualifies: Whether a rollout can be one.

    Returns:
        None if there is none; of equal ones the first.
    """
    if not any(group.correct):
        return None
    least = {name: x for name, x in least.items() if any(name in r.rewards for r in group.metas)}
    experts = [r for r in group.metas if qualifies(r) and all(r.rewards.get(n, 0.0) >= x for n, x in least.items())]
    return max(experts, key=lambda r: (*(r.rewards.get(n, 0.0) for n in least), r.reward or 0.0), default=None)


def expert_target(
    rollout: Rollout, correct: Sequence[bool], lengths: Sequence[int], *, pass_rate_scale: int = 8
) -> str:
    r"""Rewrites a meta completion with the true statistics of its problem.

    .. math:: \text{pass\_rate} = \operatorname{round}(p \cdot \text{scale}), \quad
        \text{solution\_length} = \operatorname{round}(\operatorname{mean}_{i: c_i = 1} l_i)

    Args:
        rollout: Chosen by `choose_expert`; its reasoning and its notions stay. Without notions none are written.
        correct: [G] verified correctness of the solution rollouts, at least one of them true.
        lengths: [G] generated tokens.
        pass_rate_scale: As in the prompt.

    Returns:
        The text to clone. It parses back to what was written, and earns the full length reward and the best difficulty
        reward that rounding allows.

    Raises:
        ValueError: If the rollout is no expert or no solution is correct.
    """
    if not _has_read(rollout) or ("notion" in rollout.rewards and not _qualifies(rollout)):
        raise ValueError("the rollout has no closed <meta> reasoning or no notions; expected one of choose_expert")
    if not any(correct):
        raise ValueError("no solution is correct, so there is no length to predict; expected at least one")
    assert rollout.prediction is not None
    notions = rollout.prediction.notions
    truths = {"pass_rate": true_pass_rate(correct, pass_rate_scale), "solution_length": true_length(correct, lengths)}
    return rewritten(rollout.text, render_members(({"math_notion": notions} if notions else {}) | truths))


def true_pass_rate(correct: Sequence[bool], scale: int = 8) -> int:
    """Returns the pass rate as it is predicted, in 0..scale.

    >>> true_pass_rate([True, True, False, True])
    6
    """
    return round(Fraction(sum(map(bool, correct)), len(correct)) * scale)


def true_length(correct: Sequence[bool], lengths: Sequence[int]) -> int:
    """Returns the mean length of the correct rollouts, of which there is at least one, in tokens.

    >>> true_length([True, True, False], [10, 21, 900])
    16
    """
    right = [length for length, ok in zip(lengths, correct, strict=True) if ok]
    return round(Fraction(sum(right), len(right)))


def has_reasoning(text: str) -> bool:
    """Whether a meta completion has `<meta>` reasoning that it closed."""
    reasoning, closed, _ = text.partition(_CLOSE)
    return bool(closed) and _OPEN in reasoning


def rewritten(text: str, written: str) -> str:
    """Returns a meta completion with closed reasoning, with another JSON object behind it.

    >>> rewritten('<meta>easy</meta> {"pass_rate": 1}', '{"pass_rate": 8}')
    '<meta>easy</meta> {"pass_rate": 8}'
    """
    reasoning, _, tail = text.partition(_CLOSE)
    space = tail[: len(tail) - len(tail.lstrip())] if tail.strip() else "\n"
    return f"{reasoning}{_CLOSE}{space}{written}"


def _has_read(rollout: Rollout) -> bool:
    return has_reasoning(rollout.text) and rollout.prediction is not None


def _qualifies(rollout: Rollout) -> bool:
    return _has_read(rollout) and rollout.prediction is not None and bool(rollout.prediction.notions)
