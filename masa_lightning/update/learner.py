"""Optimiser steps: all clipping of gradients, skipping of those that are not finite, and checking of weights is here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from masa_lightning.checks import check_number


class Steps(Protocol):
    """The methods of an optimiser that are used; torch's own and Lightning's have them."""

    def step(self) -> Any: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...


class Learner:
    """Takes the optimiser steps of a module or a callback, and stops a run whose gradients stay not finite.

    A gradient that is not finite is dropped: weights, moments and step counts of the optimiser stay as they were. The step
    counts as one all the same, for schedules, checkpoints and the end of the run, so that these do not shift. Gradients
    and weights are the same in all processes, or summed up over them, so that all of them skip and stop together.

    Args:
        max_grad_norm: Gradients are clipped to this norm, > 0; None is off.
        max_skipped_steps: Most steps in a row that may be skipped, >= 0; one more is an error.
        owner: Whose steps they are, for messages, where it is not the module.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, *, max_grad_norm: float | None, max_skipped_steps: int, owner: str = "") -> None:
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, "> 0", note="or None to turn clipping off")
        check_number("max_skipped_steps", max_skipped_steps, ">= 0", whole=True)
        self.max_grad_norm = max_grad_norm
        self.max_skipped_steps = max_skipped_steps
        self._of = f" of {owner}" if owner else ""
        self.skipped_in_a_row = 0
        """Steps skipped since the last one that was taken; part of a checkpoint."""
        self.keeps_gradients = False
        """Whether gradients stay where they are after a step, as zeros, because DDP's buckets hold them."""

    def clear(self, optimizer: Steps) -> None:
        """Clears the gradients."""
        optimizer.zero_grad(set_to_none=not self.keeps_gradients)

    def step(self, optimizer: Steps, parameters: Iterable[nn.Parameter]) -> float:
        """Clips the gradients, takes a step with them, and clears them.

        Args:
            optimizer: Of the parameters.
            parameters: All that are trained.

        Returns:
            The norm of the gradient before clipping; NaN if the step was skipped.

        Raises:
            RuntimeError: If too many steps in a row were skipped, or the weights are no longer finite.
        """
        trained = [p for p in parameters if p.requires_grad]
        bound = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = _number(nn.utils.clip_grad_norm_(trained, bound))
        skipped = not math.isfinite(norm)
        if skipped:
            optimizer.zero_grad(set_to_none=True)  # what is left to do is nothing
        optimizer.step()
        self.clear(optimizer)
        if not skipped:
            self.skipped_in_a_row = 0
            if not are_finite(trained):
                raise RuntimeError(
                    f"an optimiser step{self._of} made weights that are not finite, from a gradient of norm {norm:.3g}; "
                    "the run ends here, and they are not saved. Lower the learning rate, or look at your optimiser, and go "
                    "on from the last checkpoint, which holds finite ones: --ckpt_path last"
                )
            return norm
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.max_skipped_steps:
            raise RuntimeError(
                f"the gradient norm{self._of} was not finite in {self.skipped_in_a_row} optimiser steps in a row, "
                f"lastly {norm}; expected at most max_skipped_steps = {self.max_skipped_steps}. The weights are those of "
                "before these steps. Likely causes: a learning rate that is too high, weights of low precision (train in "
                "dtype float32, with precision bf16-mixed on a GPU), or log-probabilities of the sampler or rewards that "
                "are not finite. Mend that and go on from the last checkpoint: --ckpt_path last"
            )
        warnings.warn(
            f"the gradient norm{self._of} is {norm}: this optimiser step is skipped, "
            f"number {self.skipped_in_a_row} in a row; more than {self.max_skipped_steps} end the run",
            stacklevel=2,
        )
        return math.nan


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite; those of all shards, in all processes alike. A fraction of an AdamW step's time."""
    values = [x.detach() for x in tensors]
    kind = (
        math.inf if any(x.dtype == torch.float16 for x in values) else 2.0
    )  # the latter is fast, but may overflow there
    return not values or math.isfinite(_number(nn.utils.get_total_norm(values, kind)))


def _number(norm: Tensor) -> float:
    return float((norm.full_tensor() if isinstance(norm, DTensor) else norm).item())
