"""Rollouts -> micro-batches of tensors under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from masa_lightning.models.packing import pack, split
from masa_lightning.types import Experience, Rollout, RolloutGroup


def make_experience(rollouts: Sequence[Rollout], device: torch.device | str = "cpu") -> Experience:
    """Makes a micro-batch of rollouts.

    Args:
        rollouts: B rollouts with tokens and an advantage.
        device: Where the tensors go.
    """
    tokens = pack([(r.prompt_ids, r.completion.token_ids) for r in rollouts])
    longest = tokens.mask.shape[1]
    # Not the default dtype, which Lightning's precision "bf16-true" changes.
    logps = [r.completion.logprobs + [0.0] * (longest - r.length) for r in rollouts]
    return Experience(
        tokens=tokens.to(device),
        sampler_logp=torch.tensor(logps, dtype=torch.float32).to(device),
        advantages=torch.tensor([r.advantage for r in rollouts], dtype=torch.float32).to(device),
        kind=torch.tensor([int(r.kind == "meta") for r in rollouts]).to(device),
    )


def micro_batches(
    rollouts: Sequence[Rollout],
    max_tokens: int,
    device: torch.device | str = "cpu",
    *,
    share_prompts: bool = True,
) -> list[Experience]:
    """Splits rollouts into micro-batches of at most `max_tokens` tokens, or of one rollout.

    Args:
        rollouts: Those to train on, in any order; rollouts without tokens are left out.
        max_tokens: Budget, >= 1.
        device: Where the tensors go.
        share_prompts: As `models.packing.split`.
    """
    rollouts = [r for r in rollouts if r.length]
    rows = [(r.prompt_ids, r.completion.token_ids) for r in rollouts]
    return [
        make_experience([rollouts[i] for i in part], device)
        for part in split(rows, max_tokens, share_prompts=share_prompts)
    ]


def mini_batches(groups: Sequence[RolloutGroup], count: int) -> list[list[RolloutGroup]]:
    """Splits groups into `count` parts, of sizes that differ by one at most, for one optimiser step each.

    Whole groups, so that the number of steps is the same with and without meta rollouts.
    """
    ends = list(accumulate((len(groups) + i) // count for i in range(count)))
    return [list(groups[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
