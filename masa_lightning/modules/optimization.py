"""Optimisers and learning-rate schedules: what a YAML says of them, the defaults, and how they are made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from masa_lightning.checks import check_number

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""As `lightning.pytorch.cli.OptimizerCallable`."""
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
"""As `lightning.pytorch.cli.LRSchedulerCallable`."""


class AdamW(torch.optim.AdamW):
    """torch's AdamW; on CUDA its fused kernel, which needs no memory of its own and a fraction of the time.

    A state fits either kernel: one that was saved on another device is used with the kernel of this one.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, >= 0.
        weight_decay: Of matrices, >= 0: `Optimization` leaves norms and biases out.
        betas: Decay of the running means of the gradient and of its square, each in [0, 1).
        eps: Added to the denominator, >= 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-6,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        check_number("lr", lr, ">= 0")
        check_number("weight_decay", weight_decay, ">= 0")
        params = list(params)
        tensors = [p for group in params for p in (group["params"] if isinstance(group, dict) else [group])]
        fused = all(p.device.type == "cuda" for p in tensors)
        super().__init__(params, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=fused or None)
        self.register_load_state_dict_pre_hook(_with_own_kernel)


def _with_own_kernel(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = [
        saved | {name: own[name] for name in ("fused", "foreach")}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    return state | {"param_groups": groups + state["param_groups"][len(groups) :]}


class ConstantWithWarmup(LRScheduler):
    r"""Raises the learning rate linearly, and leaves it there.

    At optimiser step :math:`t = 0, 1, ...` it is :math:`\min(1, (t + 1) / w)` of the optimiser's.

    Args:
        optimizer: Whose rates it changes.
        num_warmup_steps: Optimiser steps w until the rate is reached, >= 0.
    """

    def __init__(self, optimizer: Optimizer, num_warmup_steps: int = 0) -> None:
        check_number("num_warmup_steps", num_warmup_steps, ">= 0", whole=True)
        self.num_warmup_steps = num_warmup_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of this step."""
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]

    def factor(self, step: int) -> float:
        """What the optimiser's rates are multiplied by at a step, from 0."""
        return min(1.0, (step + 1) / max(self.num_warmup_steps, 1))


class CosineWithWarmup(ConstantWithWarmup):
    r"""Raises the learning rate as `ConstantWithWarmup`, and lowers it to 0 along half a cosine.

    From step w on it is :math:`\frac{1}{2} (1 + \cos(\pi (t - w) / (T - w)))` of the optimiser's (arXiv 1608.03983).

    Args:
        optimizer: Whose rates it changes.
        num_warmup_steps: Optimiser steps w until the rate is reached, >= 0.
        num_training_steps: Optimiser steps T, >= 1, from which on the rate is 0; those of the whole run by default.
    """

    def __init__(self, optimizer: Optimizer, num_warmup_steps: int = 0, num_training_steps: int | None = None) -> None:
        if num_training_steps is not None:
            check_number("num_training_steps", num_training_steps, ">= 1", whole=True)
        self.num_training_steps = num_training_steps
        super().__init__(optimizer, num_warmup_steps)

    def take(self, steps: float) -> None:
        """Sets how many optimiser steps a run has.

        Args:
            steps: That number; inf if the trainer has neither max_steps nor max_epochs.

        Raises:
            ValueError: If it is not known, or the rate would be 0 before its end.
        """
        if self.num_training_steps is None:
            if math.isinf(steps):
                raise ValueError(
                    "CosineWithWarmup has no num_training_steps and the Trainer no end; expected max_steps or max_epochs of "
                    "the Trainer, or num_training_steps"
                )
            self.num_training_steps = int(steps)
        elif steps > self.num_training_steps and not math.isinf(steps):
            raise ValueError(
                f"num_training_steps of CosineWithWarmup is {self.num_training_steps}, and the run has {int(steps)} "
                "optimiser steps, the last of them with a learning rate of 0; expected as many, or none, to take those of "
                "the run"
            )

    def factor(self, step: int) -> float:
        if step < self.num_warmup_steps or self.num_training_steps is None:
            return super().factor(step)
        left = max(self.num_training_steps - self.num_warmup_steps, 1)
        return 0.5 * (1.0 + math.cos(math.pi * min((step - self.num_warmup_steps) / left, 1.0)))


@dataclass(kw_only=True, frozen=True)
class Optimization:
    """How the policy's weights are changed.

    Optimiser and schedule are Lightning's `OptimizerCallable` and `LRSchedulerCallable`: a class path with `init_args` in
    YAML, and in Python a class, a `functools.partial` of one, or a function. Settings of the defaults need no class path:
    ``optimizer: {lr: 1.0e-5}``, ``lr_scheduler: {num_warmup_steps: 10}``.

    Args:
        optimizer: Makes the optimiser of two groups of parameters: matrices, and vectors with all that is called a bias,
            which have a weight decay of 0. Any class of torch's, or like them, such as bitsandbytes.optim.AdamW8bit.
        lr_scheduler: Makes the schedule, which is stepped with the optimiser; None keeps the rate constant. Any class of
            torch's; `lightning.pytorch.cli.ReduceLROnPlateau` has a `monitor` and is stepped at the end of an epoch.
        num_iterations: Passes over a batch, >= 1.
        num_mini_batches: Optimiser steps a pass, >= 1.
        max_tokens_per_micro_batch: Memory knob: tokens of one forward and backward. Does not change the gradient.
        max_grad_norm: Gradients are clipped to this norm, > 0; None is off.
        max_skipped_steps: Optimiser steps whose gradient is not finite are skipped; with more than that many in a row, >= 0,
            the run ends.
    """

    optimizer: OptimizerCallable = AdamW
    lr_scheduler: LRSchedulerCallable | None = ConstantWithWarmup
    num_iterations: int = 1
    num_mini_batches: int = 1
    max_tokens_per_micro_batch: int = 16384
    max_grad_norm: float | None = 1.0
    max_skipped_steps: int = 3

    def __post_init__(self) -> None:
        for name in ("optimizer", "lr_scheduler"):
            object.__setattr__(self, name, _plain_partial(getattr(self, name)))
        made = _tried("optimizer", self.optimizer, [nn.Parameter(torch.zeros(1))], Optimizer)
        if self.lr_scheduler is not None:
            optimizer = made if made is not None else AdamW([nn.Parameter(torch.zeros(1))])
            _tried("lr_scheduler", self.lr_scheduler, optimizer, LRScheduler)
        for name in ("num_iterations", "num_mini_batches", "max_tokens_per_micro_batch"):
            check_number(name, getattr(self, name), ">= 1", whole=True)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, "> 0", note="or None to turn clipping off")
        check_number("max_skipped_steps", self.max_skipped_steps, ">= 0", whole=True)

    @property
    def steps(self) -> int:
        """Optimiser steps of a training step."""
        return self.num_iterations * self.num_mini_batches

    def make(self, named: Iterable[tuple[str, nn.Parameter]], training_steps: Callable[[], float]) -> dict[str, Any]:
        """Makes optimiser and schedule.

        Args:
            named: Names and parameters; frozen ones are left out.
            training_steps: Those of the run; called where a schedule wants to know.

        Returns:
            What `configure_optimizers` may return.
        """
        optimizer = self.optimizer(decay_groups(named))
        if self.lr_scheduler is None:
            return {"optimizer": optimizer}
        schedule = self.lr_scheduler(optimizer)
        if isinstance(schedule, CosineWithWarmup):
            schedule.take(self.steps * training_steps())
        config = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            config = {"scheduler": schedule, "interval": "epoch", "monitor": getattr(schedule, "monitor", None)}
        return {"optimizer": optimizer, "lr_scheduler": config}


def maker(make: Any) -> tuple[type, dict[str, Any]] | None:
    """Class and settings of what makes an optimiser or a schedule; None if it is a function, or something else."""
    kind, settings = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    if not isinstance(kind, type) or not issubclass(kind, (Optimizer, LRScheduler, ReduceLROnPlateau)):
        return None
    return kind, dict(settings)


def _plain_partial(make: Any) -> Any:
    """A partial of a class, of the one of jsonargparse's own functions, by which `hyperparameters` can write it."""
    if isinstance(make, partial) and not isinstance(make.func, type):
        kinds = [each for each in make.args if isinstance(each, type)]
        if kinds and getattr(make.func, "__module__", "").partition(".")[0] == "jsonargparse":
            return partial(kinds[-1], **make.keywords)
    return make


def _tried(name: str, make: Any, of: Any, kind: type) -> Any:
    """Makes one of a weight, so that settings it does not take are refused at once; functions are not called."""
    one = "a class path" if name == "optimizer" else "a class path or None"
    expected = f"expected {one} with init_args, in Python a class, a functools.partial of one, or a function"
    if not callable(make):
        raise TypeError(f"{name} is {f'a {type(make).__name__}' if make is not None else None}; {expected}")
    target = make.func if isinstance(make, partial) else make
    if not isinstance(target, type):
        return None
    if not issubclass(target, (kind, ReduceLROnPlateau) if kind is LRScheduler else kind):
        raise TypeError(f"{name} is {target.__name__}, which is no {kind.__name__}; {expected}")
    if target is ReduceLROnPlateau:
        raise ValueError(
            "lr_scheduler is torch's ReduceLROnPlateau, which does not say what it monitors; expected "
            "lightning.pytorch.cli.ReduceLROnPlateau, with a monitor"
        )
    try:
        return make(of)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{n}={v!r}" for n, v in getattr(make, "keywords", {}).items())
        expected = "" if "expected" in str(error) else "; expected settings that it takes"
        raise type(error)(f"{name} {target.__name__}({given}) cannot be made: {error}{expected}") from error


def decay_groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser, in which norms and biases are not decayed, as in transformers' Trainer.

    Args:
        named: Names and parameters; frozen ones are left out.

    Returns:
        At most two groups, none of them empty: matrices (linear layers, embeddings, adapters), with the optimiser's weight
        decay; and vectors and all that is called a bias, with none.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in named:
        if p.requires_grad:
            groups[p.ndim > 1 and not name.endswith("bias")].append(p)
    return [
        cast("dict[str, Any]", {"params": parameters}) | ({} if decayed else {"weight_decay": 0.0})
        for decayed, parameters in groups.items()
        if parameters
    ]
