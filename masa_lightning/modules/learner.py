"""Optimiser steps: the one place that clips gradients, drops those that are not finite, steps and looks at the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from masa_lightning.checks import check_number

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
"""Precisions of a Trainer to train with; the last makes all weights bfloat16."""


class Steps(Protocol):
    """What is asked of an optimiser, torch's own or Lightning's."""

    def step(self) -> Any: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...


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


class Learner:
    """Takes the optimiser steps of a module or a callback, and stops a run that they no longer teach anything.

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
        """Steps skipped since the last one that was taken; belongs into a checkpoint."""

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
        optimizer.zero_grad(set_to_none=True)
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
            f"the gradient norm{self._of} is {norm}: this optimiser step is skipped, the "
            f"{self.skipped_in_a_row}. in a row of at most {self.max_skipped_steps}",
            stacklevel=2,
        )
        return math.nan


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


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite; those of all shards, in all processes alike. A fraction of an AdamW step's time."""
    values = [x.detach() for x in tensors]
    kind = (
        math.inf if any(x.dtype == torch.float16 for x in values) else 2.0
    )  # the latter is fast, but may overflow there
    return not values or math.isfinite(_number(nn.utils.get_total_norm(values, kind)))


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

    >>> lost_share([torch.tensor([1.0, 1e-4], dtype=torch.bfloat16)], 1e-6)
    0.5
    """
    local = [p.to_local() if isinstance(p, DTensor) else p for p in (p.detach() for p in parameters)]
    kept = sum(int(p.add(step).ne(p).sum()) for p in local)
    count = sum(p.numel() for p in local)
    return 1 - kept / count if count else 0.0


def _number(norm: Tensor) -> float:
    return float((norm.full_tensor() if isinstance(norm, DTensor) else norm).item())
