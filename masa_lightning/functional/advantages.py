"""Group advantages: how much better a rollout did than the others of its group."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Scale = Literal["group", "none", "batch"]
Baseline = Literal["mean", "leave-one-out"]
MultiObjective = Literal["sum_then_normalize", "normalize_then_sum", "normalize_per_value"]

EPSILON = 1e-6
"""Added to every standard deviation, as verl does."""


def group_advantages(
    rewards: Tensor,
    group: Tensor,
    scale: Scale = "group",
    baseline: Baseline = "mean",
) -> Tensor:
    r"""Centres each reward on its group and, if asked, divides by a standard deviation.

    With :math:`n_g` rewards :math:`r_j` in the group :math:`g` of rollout :math:`i`,

    .. math::

        A_i = \frac{r_i - b_i}{s_i}, \qquad
        b_i = \begin{cases}
            \frac{1}{n_g} \sum_{j \in g} r_j & \text{baseline "mean" (GRPO)} \\
            \frac{1}{n_g - 1} \sum_{j \in g, j \neq i} r_j & \text{baseline "leave-one-out" (RLOO)}
        \end{cases} \qquad
        s_i = \begin{cases}
            \operatorname{std}_g(r) + 10^{-6} & \text{scale "group"} \\
            1 & \text{scale "none" (Dr.GRPO)} \\
            \operatorname{std}(r) + 10^{-6} & \text{scale "batch"}
        \end{cases}

    with unbiased standard deviations. A group of one has neither a spread nor other members: its advantage is its raw,
    unscaled reward with ``scale="group"`` (as in verl) and with ``baseline="leave-one-out"``, and 0 otherwise.

    The arithmetic is done in float64 relative to the least reward of each group, so that equal rewards give exactly 0.

    Args:
        rewards: Total rewards, finite, [N].
        group: Integer id of the group of each rollout, any values in any order, [N]. MASA's groups are pairs of
            (problem, kind): solution and meta rollouts of one problem need different ids.
        scale: What the centred rewards are divided by. "batch" takes the spread of all `rewards` given, so pass the
            rewards of one kind over the whole batch (of all processes) at once.
        baseline: What is subtracted.

    Returns:
        Advantages, detached, [N], in the dtype of `rewards` (float32 for integers and half precision).

    Raises:
        ValueError: If the shapes differ, a reward is not finite, or `scale` or `baseline` is not known.

    Example:
        >>> rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
        >>> group = torch.tensor([7, 7, 7, 3, 3])
        >>> group_advantages(rewards, group)
        tensor([ 1.1547, -0.5773, -0.5773,  0.0000,  0.0000])
        >>> group_advantages(rewards, group, scale="none", baseline="leave-one-out")
        tensor([ 1.0000, -0.5000, -0.5000,  0.0000,  0.0000])
    """
    _check(rewards, group, scale, baseline)
    r = rewards.detach().double()
    if r.numel() == 0:
        return r.to(_result_dtype(rewards))
    index: Tensor
    size: Tensor
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    n = size.double()

    least = torch.full_like(n, torch.inf).scatter_reduce(0, index, r, "amin")
    above = r - least[index]
    centred = above - (torch.zeros_like(n).scatter_add(0, index, above) / n)[index]

    advantages: Tensor = centred
    if baseline == "leave-one-out":
        advantages = advantages * (n / (n - 1).clamp(min=1))[index]
    if scale == "group":
        variance = torch.zeros_like(n).scatter_add(0, index, centred.square()) / (n - 1).clamp(min=1)
        advantages = advantages / (variance.sqrt() + EPSILON)[index]
    elif scale == "batch" and len(r) > 1:
        advantages = advantages / ((r - r.min()).std() + EPSILON)
    if scale == "group" or baseline == "leave-one-out":
        advantages = torch.where(size[index] == 1, r, advantages)
    return advantages.to(_result_dtype(rewards))


def decoupled_advantages(
    rewards: Tensor,
    weights: Tensor,
    group: Tensor,
    scale: Scale = "group",
    baseline: Baseline = "mean",
) -> Tensor:
    r"""Normalises each of several rewards over its group apart, and then adds up what comes out (GDPO, arXiv 2601.05242).

    With the advantages :math:`A_{i,k}` that `group_advantages` gives for the reward k alone,

    .. math:: A_i = \frac{\sum_k w_k A_{i,k}}{\sqrt{\sum_k w_k^2}}

    So the unit and the spread of a reward do not matter, its weight alone does, and rollouts whose rewards happen to have
    the same sum need not have the same advantage. The divisor keeps the spread of independent rewards at that of one. GDPO
    divides by the deviation of the sums over the whole batch for this; then one reward alone has other advantages than in
    GRPO, and greater ones the more groups have no spread. Here one reward alone has the advantages that it has by itself.
    With ``scale="none"`` nothing is normalised: there is no divisor, and the result is that of the sum of the rewards.

    Args:
        rewards: K rewards of each rollout, finite, [N, K].
        weights: Factor of each reward, finite, not all 0, [K].
        group: As `group_advantages`, like the next two.
        scale: What each centred reward is divided by.
        baseline: What is subtracted.

    Returns:
        Advantages, detached, [N], in the dtype that `group_advantages` gives.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, all weights are 0, or `scale` or `baseline` is not known.

    Example:
        >>> rewards = torch.tensor([[1.0, 0.2], [0.0, 0.1], [0.0, 0.0]])
        >>> decoupled_advantages(rewards, torch.tensor([1.0, 1.0]), torch.tensor([0, 0, 0]))  # of 1.1547, -0.5774, -0.5774
        tensor([ 1.5236, -0.4082, -1.1153])
    """
    terms = advantage_terms(rewards.double(), weights, group, scale, baseline)
    return terms.sum(1).to(_result_dtype(rewards))


def advantage_terms(
    rewards: Tensor,
    weights: Tensor,
    group: Tensor,
    scale: Scale = "group",
    baseline: Baseline = "mean",
) -> Tensor:
    r"""Gives what each of several rewards adds to `decoupled_advantages`: :math:`w_k A_{i,k} / \sqrt{\sum_k w_k^2}`.

    Args:
        rewards: As `decoupled_advantages`, like all that follow.
        weights: Factor of each reward.
        group: Ids.
        scale: What each centred reward is divided by.
        baseline: What is subtracted.

    Returns:
        Terms, detached, [N, K], whose sum over K is the advantage.

    Raises:
        ValueError: As `decoupled_advantages`.

    Example:
        >>> rewards = torch.tensor([[1.0, 0.2], [0.0, 0.1], [0.0, 0.0]])
        >>> advantage_terms(rewards, torch.tensor([1.0, 1.0]), torch.tensor([0, 0, 0]))
        tensor([[ 0.8165,  0.7071],
                [-0.4082,  0.0000],
                [-0.4082, -0.7071]])
    """
    if rewards.ndim != 2 or weights.shape != rewards.shape[1:] or not len(weights):
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)} and weights {tuple(weights.shape)}; expected [N, K] and [K], K >= 1"
        )
    w = weights.detach().double()
    size = float(w.square().sum().sqrt())
    if not 0 < size < float("inf"):
        raise ValueError(f"weights is {weights.tolist()}; expected finite numbers, not all 0")
    columns = [group_advantages(reward, group, scale, baseline) for reward in rewards.double().unbind(1)]
    terms = torch.stack(columns, 1) * w
    return (terms if scale == "none" else terms / size).to(_result_dtype(rewards))


def _result_dtype(rewards: Tensor) -> torch.dtype:
    return torch.float64 if rewards.dtype == torch.float64 else torch.float32


def _check(rewards: Tensor, group: Tensor, scale: str, baseline: str) -> None:
    if rewards.ndim != 1 or rewards.shape != group.shape:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)} and group {tuple(group.shape)}; expected two equal shapes [N]"
        )
    if group.dtype.is_floating_point or group.dtype.is_complex:
        raise ValueError(f"group has dtype {group.dtype}; expected integer ids")
    if scale not in get_args(Scale):
        raise ValueError(f"scale is {scale!r}; expected one of {get_args(Scale)}")
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline is {baseline!r}; expected one of {get_args(Baseline)}")
    if not torch.isfinite(rewards).all():
        bad = int((~torch.isfinite(rewards)).nonzero()[0])
        raise ValueError(f"rewards[{bad}] is {float(rewards[bad])}; expected finite rewards: leave such rollouts out")
