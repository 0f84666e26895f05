"""Move the reference of the KL term after the policy, every so many steps."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor

from masa_lightning.checks import check_number
from masa_lightning.models.lora import WithoutAdapters
from masa_lightning.models.policy import Policy

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ReferenceSync(Callback):
    r"""Mixes the policy into the reference of the KL term (TR-DPO, arXiv:2404.09656; TRL's `sync_ref_model`).

    After every n-th training step

    .. math:: \theta_\text{ref} \leftarrow \alpha\, \theta + (1 - \alpha)\, \theta_\text{ref}

    So the policy may go further from where it began, and the KL term keeps it near where it was lately. From the first
    time on checkpoints hold the reference as well, in the precision of the module's `dtype`.

    Args:
        every_n_steps: n, >= 1. TRL's `ref_model_sync_steps`.
        mixup_alpha: alpha, in (0, 1]; 1 replaces the reference. TRL's `ref_model_mixup_alpha`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ReferenceSync(every_n_steps=64).mixup_alpha
        0.6
    """

    def __init__(self, every_n_steps: int = 512, mixup_alpha: float = 0.6) -> None:
        super().__init__()
        check_number("every_n_steps", every_n_steps, ">= 1", whole=True)
        check_number("mixup_alpha", mixup_alpha, "> 0", "<= 1")
        self.every_n_steps = every_n_steps
        self.mixup_alpha = mixup_alpha
        self.steps = 0
        """Training steps so far."""
        self._reference: Policy | None = None
        self._changed = False  # the reference is no longer the model of the files
        self._weights: dict[str, Any] | None = None  # of a checkpoint, until the reference is there

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses modules without a reference of its own; after `configure_model`, which loads it.

        Raises:
            TypeError: If the module has no `reference` at all.
            ValueError: If it has no KL term, or its reference is the policy without its LoRA adapters, which never changes.
        """
        if not hasattr(pl_module, "reference"):
            raise TypeError(
                f"ReferenceSync found no reference in {type(pl_module).__name__}; expected a GRPOLightningModule or "
                "MASALightningModule"
            )
        if pl_module.reference is None:
            raise ValueError(
                "ReferenceSync moves the reference of the KL term, and there is none: kl_coef is 0; raise "
                "algorithm.kl_coef, or remove the callback"
            )
        if isinstance(pl_module.reference, WithoutAdapters):
            raise ValueError(
                "ReferenceSync cannot move the reference of a LoRA run: it is the model without its adapters, and has no "
                "weights of its own; remove `lora` or the callback"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up the reference of the checkpoint."""
        reference = pl_module.reference
        assert isinstance(reference, Policy)
        self._reference = reference
        if self._weights is not None:
            # Each process has all of them, as the checkpoint has.
            set_model_state_dict(reference, self._weights, options=StateDictOptions(full_state_dict=True))
            self._weights, self._changed = None, True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Mixes, if it is time."""
        self.steps += 1
        if self.steps % self.every_n_steps:
            return
        assert self._reference is not None and isinstance(pl_module.policy, Policy)
        self._changed = True
        with torch.no_grad():
            for mine, policys in zip(self._reference.parameters(), pl_module.policy.parameters(), strict=True):
                _local(mine).lerp_(_local(policys.detach()).to(mine.device, mine.dtype), self.mixup_alpha)

    def state_dict(self) -> dict[str, Any]:
        """The counter, and the reference's weights from its first change on; a collective under FSDP2."""
        weights = self._weights
        if self._reference is not None and self._changed:
            weights = get_model_state_dict(self._reference, options=_FULL)
        return {"steps": self.steps, "reference": weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counter; the reference when training starts."""
        self.steps, self._weights = state_dict["steps"], state_dict["reference"]


def _local(weight: Tensor) -> Tensor:
    """The shard of this process: shards of policy and reference are cut alike."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
