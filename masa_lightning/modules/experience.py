"""Rollouts -> micro-batches of tensors under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from masa_lightning.types import Experience, Rollout, RolloutGroup


def make_experience(rollouts: Sequence[Rollout], device: torch.device | str = "cpu") -> Experience:
    """Puts rollouts into one right-padded micro-batch.

    Args:
        rollouts: B rollouts with an advantage.
        device: Where the tensors go.
    """
    rows = [r.prompt_ids + r.completion.token_ids for r in rollouts]
    lengths = torch.tensor([r.length for r in rollouts])
    width, longest = max(map(len, rows)), int(lengths.max())
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    # Not the default dtype, which Lightning's precision "bf16-true" changes.
    logps = [r.completion.logprobs + [0.0] * (longest - r.length) for r in rollouts]
    sampler_logp = torch.tensor(logps, dtype=torch.float32)
    return Experience(
        input_ids=input_ids.to(device),
        completion_start=torch.tensor([len(r.prompt_ids) for r in rollouts]).to(device),
        mask=(torch.arange(longest)[None] < lengths[:, None]).to(device),
        sampler_logp=sampler_logp.to(device),
        advantages=torch.tensor([r.advantage for r in rollouts], dtype=torch.float32).to(device),
        kind=torch.tensor([int(r.kind == "meta") for r in rollouts]).to(device),
    )


def micro_batches(rollouts: Sequence[Rollout], max_tokens: int, device: torch.device | str = "cpu") -> list[Experience]:
    """Splits rollouts, longest first, into micro-batches of at most `max_tokens` tokens, padding included.

    Sorted by length, so that little is padded. A rollout longer than the budget gets a micro-batch of its own.

    Args:
        rollouts: Those to train on, in any order; rollouts without tokens are left out.
        max_tokens: Budget of rows times the longest row, >= 1.
        device: Where the tensors go.
    """
    todo = sorted((r for r in rollouts if r.length), key=lambda r: len(r.prompt_ids) + r.length, reverse=True)
    batches = []
    while todo:
        rows = max(1, max_tokens // (len(todo[0].prompt_ids) + todo[0].length))
        batches.append(make_experience(todo[:rows], device))
        todo = todo[rows:]
    return batches


def mini_batches(groups: Sequence[RolloutGroup], count: int) -> list[list[RolloutGroup]]:
    """Splits groups into `count` parts, of sizes that differ by one at most, for one optimiser step each.

    Whole groups, so that the number of steps is the same with and without meta rollouts.
    """
    ends = list(accumulate((len(groups) + i) // count for i in range(count)))
    return [list(groups[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
