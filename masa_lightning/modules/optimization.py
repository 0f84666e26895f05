"""How a policy is trained: precisions, parameter groups, and optimiser steps that Lightning does not count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
"""Precisions of a Trainer to train with; the last makes all weights bfloat16."""


class Uncounted:
    """An optimiser in a trainer, whose steps Lightning takes with all hooks but does not count.

    `trainer.global_step` counts what ends in a counted step: training steps, of which each takes several of the optimiser.

    Args:
        optimizer: Of the strategy.
        strategy: Of the trainer.
    """

    def __init__(self, optimizer: LightningOptimizer, strategy: Strategy) -> None:
        self._optimizer, self._strategy = optimizer.optimizer, strategy

    def step(self) -> None:
        """As `LightningOptimizer.step`, but for the count."""
        self._strategy.optimizer_step(self._optimizer, lambda: None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The optimiser's."""
        self._optimizer.zero_grad(set_to_none=set_to_none)


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


def adamw(named: Iterable[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with `decay_groups`; on CUDA its fused kernel, which needs no memory of its own and a fraction of the time.

    A state is of either kernel: one that was saved on another device goes on with that of this one.

    Args:
        named: Names and parameters, where they are trained; frozen ones are left out.
        learning_rate: Of all.
        weight_decay: As of `decay_groups`.
    """
    groups = decay_groups(named, weight_decay)
    fused = all(p.device.type == "cuda" for group in groups for p in group["params"])
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=fused or None)
    optimizer.register_load_state_dict_pre_hook(_with_own_kernel)
    return optimizer


def _with_own_kernel(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = [
        saved | {name: own[name] for name in ("fused", "foreach")}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    return state | {"param_groups": groups + state["param_groups"][len(groups) :]}


def share_buckets(strategy: Strategy) -> None:
    """Lets gradients live in the buckets that DDP sends, unless the strategy says otherwise, and not beside them as well."""
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)


def live_in_buckets(strategy: Strategy) -> bool:
    """Whether a strategy that has been set up keeps gradients there: then steps should make zeros of them, and not None."""
    return bool(getattr(strategy.model, "gradient_as_bucket_view", False))


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser, in which norms and biases are not decayed, as in transformers' Trainer.

    Args:
        named: Names and parameters; frozen ones are left out.
        weight_decay: Of matrices: linear layers, embeddings, adapters. Vectors and all that is called a bias have none.

    Returns:
        At most two groups, the decayed one first; none of them empty.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in named:
        if p.requires_grad:
            groups[p.ndim > 1 and not name.endswith("bias")].append(p)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0}
        for decayed, parameters in groups.items()
        if parameters
    ]


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
