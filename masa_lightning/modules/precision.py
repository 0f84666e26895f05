"""Precisions and dtypes that a policy is trained in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
"""Precisions of a Trainer to train with; the last makes all weights bfloat16."""


def check_precision(precision: str, dtype: str | None = None) -> None:
    """Refuses precisions of a Trainer in which a policy is not trained right.

    Args:
        precision: Of the Trainer.
        dtype: That the weights are loaded in; None where they are there already.

    Raises:
        ValueError: If it is none of `PRECISIONS`, or makes something else of the weights.
    """
    if precision == "bf16-true" and dtype not in (None, "bfloat16"):
        raise ValueError(
            f"the Trainer's precision is 'bf16-true' and the module's dtype {dtype!r}; expected dtype 'bfloat16', which is "
            "what that precision makes of all weights, or precision 'bf16-mixed' to keep them in float32"
        )
    if precision in PRECISIONS:
        return
    why = {
        "16-mixed": "float16 needs gradients that are scaled, which clipping, skipping and ExpertSFT here are not made for",
        "16-true": "float16 weights become NaN within a step or two, as Adam's epsilon is 0 in float16",
        "64-true": "engine and policy would differ: the weights have the module's dtype",
    }.get(precision, "policy and engine would compute with different weights")
    raise ValueError(
        f"the Trainer's precision is {precision!r}; expected one of {', '.join(map(repr, PRECISIONS))}, because {why}. Take "
        "'bf16-mixed' on a GPU and '32-true' on a CPU"
    )


def check_trained_dtype(dtype: str) -> None:
    """Refuses a dtype of weights that are trained.

    Raises:
        ValueError: If it is float16.
    """
    if dtype == "float16":
        raise ValueError(
            "dtype is float16, in which Adam's epsilon is 0 and small gradients vanish: weights become NaN within a step or "
            "two; expected 'float32' (on a GPU with the Trainer's precision 'bf16-mixed') or 'bfloat16' for training. "
            "float16 may be evaluated, and the engine may have another dtype than the policy"
        )


def warn_of_lost_steps(optimizer: Optimizer) -> None:
    """Warns where most bfloat16 weights are too large for steps of the learning rate to change them."""
    groups = optimizer.param_groups
    rate = max(group.get("initial_lr", group["lr"]) for group in groups)
    weights = [p for group in groups for p in group["params"] if p.dtype == torch.bfloat16]
    if (lost := lost_share(weights, rate)) > 0.5:
        rank_zero_warn(
            f"{lost:.0%} of the weights are too large for steps of learning rate {rate:g} to change them "
            "in bfloat16, which keeps 8 significant bits; expected most of them to move. Set dtype: float32, on a GPU "
            "with precision: bf16-mixed, train a LoRA, whose adapters are float32, or raise the learning rate"
        )


def lost_share(parameters: Sequence[Tensor], step: float) -> float:
    """Share of the weights that a step of this size leaves as they are, because their dtype has nothing between.

    >>> import torch
    >>> lost_share([torch.tensor([1.0, 1e-4], dtype=torch.bfloat16)], 1e-6)
    0.5
    """
    local = [p.to_local() if isinstance(p, DTensor) else p for p in (p.detach() for p in parameters)]
    kept = sum(int(p.add(step).ne(p).sum()) for p in local)
    count = sum(p.numel() for p in local)
    return 1 - kept / count if count else 0.0
