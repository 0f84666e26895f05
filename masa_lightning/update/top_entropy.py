"""Entropies of tokens -> those tokens of an optimiser step that are among the most uncertain, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from masa_lightning.types import Experience

_BINS: Final = 4096


def choose_tokens(batches: Sequence[Experience | None], share: float, gather: Callable[[Tensor], list[Tensor]]) -> None:
    """Fills in `Experience.chosen`: of each kind of rollout, the tokens with the highest entropy; a collective.

    They are tokens of rollouts with an advantage: the others train nothing, whether they are in the update or not.

    Args:
        batches: Of one optimiser step on this process, with `entropy`.
        share: Of the tokens of the step on all processes, in (0, 1); ties at the threshold are all chosen.
        gather: Gives the tensors of all processes.
    """
    known = [(batch, batch.entropy) for batch in batches if batch is not None and batch.entropy is not None]
    for batch, _ in known:
        batch.chosen = None
    for kind in (0, 1):
        rows = [(batch.kind == kind) & (batch.by_token != 0).any(1) for batch, _ in known]
        masks = [batch.tokens.mask & of_kind[:, None] for (batch, _), of_kind in zip(known, rows, strict=True)]
        values = [entropy[mask] for (_, entropy), mask in zip(known, masks, strict=True)]
        least = threshold(torch.cat(values).cpu() if values else torch.empty(0), share, gather)
        for (batch, entropy), mask in zip(known, masks, strict=True):
            batch.chosen = (
                mask & (entropy >= least) if batch.chosen is None else batch.chosen | (mask & (entropy >= least))
            )


def threshold(values: Tensor, share: float, gather: Callable[[Tensor], list[Tensor]]) -> float:
    """Finds the value at which a share of the values of all processes begins, from above; a collective.

    The same for any number of processes, up to float32's last digits: counts in bins are exchanged, not values.

    Args:
        values: Of this process, finite, float32 [N].
        share: In (0, 1).
        gather: Gives the tensors of all processes.

    >>> round(threshold(torch.tensor([0.1, 0.4, 0.2, 0.3]), 0.5, lambda value: [value]), 6)
    0.3
    """
    values = values.double()
    extremes = torch.stack([values.min(), values.max()]) if len(values) else torch.tensor([torch.inf, -torch.inf])
    found = torch.stack(gather(extremes.double()))
    low, high = float(found[:, 0].min()), float(found[:, 1].max())
    counts = torch.stack(gather(torch.tensor(len(values)))).sum()
    wanted = max(1, round(share * int(counts)))  # of the largest
    for _ in range(3):
        if not high > low:
            break
        edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
        inside = values[(values >= low) & (values <= high)]
        index = (torch.bucketize(inside, edges, right=True) - 1).clamp(0, _BINS - 1)
        above = torch.stack(gather(torch.bincount(index, minlength=_BINS))).sum(0).flip(0).cumsum(0).flip(0)
        last = int((above >= wanted).nonzero().max())  # the bin that holds the value
        wanted -= int(above[last + 1]) if last + 1 < _BINS else 0
        low, above_it = float(edges[last]), edges[last + 1]
        high = high if last == _BINS - 1 else float(torch.nextafter(above_it, edges[last]))
    return low
