"""Optimiser steps that Lightning does not count, and gradients that live in DDP's buckets."""

from __future__ import annotations

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, Strategy


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


def share_buckets(strategy: Strategy) -> None:
    """Lets gradients live in the buckets that DDP sends, unless the strategy says otherwise, and not beside them as well."""
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)


def live_in_buckets(strategy: Strategy) -> bool:
    """Whether a strategy that has been set up keeps gradients there: then steps should make zeros of them, and not None."""
    return bool(getattr(strategy.model, "gradient_as_bucket_view", False))
