"""Rollouts -> micro-batches of tensors under a token budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from masa_lightning.distributed import cut
from masa_lightning.models.packing import pack, split
from masa_lightning.sampling.structured import Structured, allowed_tokens
from masa_lightning.types import Experience, Kind, Rollout, RolloutGroup

StructuredKinds = Mapping[Kind, tuple[Structured, int]]
"""The structure of completions, and most tokens of one, by kind of rollout; without those that may become anything."""

ValueTokensFn = Callable[[Rollout], Mapping[str, tuple[int, int]]]
"""Says by part of the reward which tokens of a rollout its value has: the first, and the one behind the last."""


def make_experience(
    rollouts: Sequence[Rollout],
    device: torch.device | str = "cpu",
    structured: StructuredKinds | None = None,
    values: ValueTokensFn | None = None,
) -> Experience:
    """Makes a micro-batch of rollouts.

    Args:
        rollouts: B rollouts with tokens and an advantage.
        device: Where the tensors go.
        structured: What their completions were drawn under; None for no structure.
        values: Where the values of rollouts with `Rollout.terms` are.
    """
    tokens = pack([(r.prompt_ids, r.completion.token_ids) for r in rollouts])
    known = [(structured or {}).get(r.kind) for r in rollouts]
    masks = [each and each[0].allowed(r.completion.token_ids, each[1]) for each, r in zip(known, rollouts, strict=True)]
    tokens = replace(tokens, allowed=allowed_tokens(masks, [r.length for r in rollouts]))
    longest = tokens.mask.shape[1]
    # Not the default dtype, which Lightning's precision "bf16-true" changes.
    logps = [[*r.completion.logprobs, *[0.0] * (longest - r.length)] for r in rollouts]
    by_token = _by_token(rollouts, longest, values)
    return Experience(
        tokens=tokens.to(device),
        sampler_logp=torch.tensor(logps, dtype=torch.float32).to(device),
        advantages=torch.tensor([r.advantage for r in rollouts], dtype=torch.float32).to(device),
        token_advantages=None if by_token is None else by_token.to(device),
        kind=torch.tensor([int(r.kind == "meta") for r in rollouts]).to(device),
    )


def _by_token(rollouts: Sequence[Rollout], longest: int, values: ValueTokensFn | None) -> torch.Tensor | None:
    """The advantage of each token: of the tokens of a value the term of its part alone, or those of all that share it.

    A part that is not rewarded has none, so that its value is not trained. None where no rollout has terms.
    """
    if values is None or not any(r.terms for r in rollouts):
        return None
    by_token = torch.tensor([[r.advantage] * longest for r in rollouts], dtype=torch.float32)
    for row, rollout in zip(by_token, rollouts, strict=True):
        places = values(rollout) if rollout.terms else {}
        for start, stop in places.values():
            row[start:stop] = 0.0
        for name, (start, stop) in places.items():
            row[start:stop] += rollout.terms.get(name, 0.0)
    return by_token


def micro_batches(
    rollouts: Sequence[Rollout],
    max_tokens: int,
    device: torch.device | str = "cpu",
    *,
    share_prompts: bool = True,
    rank: int = 0,
    processes: int = 1,
    structured: StructuredKinds | None = None,
    values: ValueTokensFn | None = None,
) -> list[Experience | None]:
    """Splits the rollouts of an optimiser step into micro-batches of at most `max_tokens` tokens, or of one rollout.

    Args:
        rollouts: Those of all processes, in any order; rollouts without tokens are left out.
        max_tokens: Budget, >= 1.
        device: Where the tensors go.
        share_prompts: As `models.packing.split`.
        rank: Of this process.
        processes: Number of processes that share the rollouts.
        structured: As `make_experience`, like the next one.
        values: Where values are.

    Returns:
        Those of this process; None where it has nothing left to do and another process has.
    """
    rollouts = [r for r in rollouts if r.length]
    dealt = [rollouts[part] for part in cut(token_costs(rollouts, share_prompts=share_prompts), processes)]
    parts = [
        split([(r.prompt_ids, r.completion.token_ids) for r in own], max_tokens, share_prompts=share_prompts)
        for own in dealt
    ]
    mine = [make_experience([dealt[rank][i] for i in indices], device, structured, values) for indices in parts[rank]]
    return [*mine, *[None] * (max(map(len, parts)) - len(mine))]


def token_costs(rollouts: Sequence[Rollout], *, share_prompts: bool = True) -> list[int]:
    """Tokens that each rollout adds to a pass over neighbours: its prompt too, unless it is that of the one before."""
    costs, before = [], None
    for rollout in rollouts:
        shared = share_prompts and rollout.prompt_ids == before
        costs.append(rollout.length + (0 if shared else len(rollout.prompt_ids)))
        before = rollout.prompt_ids
    return costs


def mini_batches(groups: Sequence[RolloutGroup], count: int) -> list[list[RolloutGroup]]:
    """Splits groups into `count` parts, of sizes that differ by one at most, for one optimiser step each.

    Whole groups, so that the number of steps is the same with and without meta rollouts.
    """
    ends = list(accumulate((len(groups) + i) // count for i in range(count)))
    return [list(groups[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
