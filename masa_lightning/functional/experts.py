"""Expert meta-trajectories: a problem's best prediction, rewritten with what then really happened.

The method is in docs/method.md, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from masa_lightning.functional.parsing import render_prediction
from masa_lightning.types import Rollout, RolloutGroup

_OPEN, _CLOSE = "<meta>", "</meta>"


def choose_expert(group: RolloutGroup, *, min_notion_reward: float = 0.2) -> Rollout | None:
    """Picks the meta rollout of a problem whose reasoning is worth cloning: the best by notion reward.

    Args:
        group: With rewards; of its statistics at least one solution has to be correct.
        min_notion_reward: A rollout below it is no expert, in [0, 1].

    Returns:
        A rollout with closed `<meta>` reasoning and notions; of equal ones that with the higher reward, then the first.
        None if there is none.
    """
    if not any(group.correct):
        return None
    experts = [r for r in group.metas if r.rewards.get("notion", 0.0) >= min_notion_reward and _qualifies(r)]
    return max(experts, key=lambda r: (r.rewards["notion"], r.reward or 0.0), default=None)


def expert_target(
    rollout: Rollout, correct: Sequence[bool], lengths: Sequence[int], *, pass_rate_scale: int = 8
) -> str:
    r"""Rewrites a meta completion with the true statistics of its problem.

    .. math:: \text{pass\_rate} = \operatorname{round}(p \cdot \text{scale}), \quad
        \text{solution\_length} = \operatorname{round}(\operatorname{mean}_{i: c_i = 1} l_i)

    Args:
        rollout: Chosen by `choose_expert`; its reasoning and its notions stay.
        correct: [G] verified correctness of the solution rollouts, at least one of them true.
        lengths: [G] generated tokens.
        pass_rate_scale: As in the prompt.

    Returns:
        The text to clone. It parses back to what was written, and earns the full length reward and the best difficulty
        reward that rounding allows.

    Raises:
        ValueError: If the rollout is no expert or no solution is correct.
    """
    if not _qualifies(rollout):
        raise ValueError("the rollout has no closed <meta> reasoning or no notions; expected one of choose_expert")
    if not any(correct):
        raise ValueError("no solution is correct, so there is no length to predict; expected at least one")
    assert rollout.prediction is not None and rollout.prediction.notions is not None
    reasoning, _, tail = rollout.text.partition(_CLOSE)
    space = tail[: len(tail) - len(tail.lstrip())] if tail.strip() else "\n"
    rate = Fraction(sum(map(bool, correct)), len(correct))
    right = [length for length, ok in zip(lengths, correct, strict=True) if ok]
    length = Fraction(sum(right), len(right))
    written = render_prediction(
        notions=rollout.prediction.notions, pass_rate=round(rate * pass_rate_scale), solution_length=round(length)
    )
    return f"{reasoning}{_CLOSE}{space}{written}"


def _qualifies(rollout: Rollout) -> bool:
    reasoning, closed, _ = rollout.text.partition(_CLOSE)
    return bool(closed) and _OPEN in reasoning and rollout.prediction is not None and bool(rollout.prediction.notions)
