"""What a checkpoint has of a module beside weights, optimisers and loops: its entry "masa"."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from masa_lightning.models.checkpoints import check_sizes
from masa_lightning.models.lora import check_same
from masa_lightning.models.shards import META
from masa_lightning.modules.plain import class_path
from masa_lightning.modules.provenance import provenance
from masa_lightning.update.learner import are_finite

if TYPE_CHECKING:
    from masa_lightning.modules.base import PolicyLightningModule
    from masa_lightning.modules.grpo import GRPOLightningModule

KEY: Final = "masa"


def entry_of(module: GRPOLightningModule) -> dict[str, Any]:
    """What an exact resume needs, and an export.

    Raises:
        RuntimeError: If the weights are not finite.
    """
    assert module.policy is not None
    if not are_finite(module.policy.parameters()):
        raise RuntimeError(
            "the weights are not finite, so no checkpoint of them is written; expected finite ones. Go on from the last "
            "checkpoint: --ckpt_path last"
        )
    return {
        "class_path": class_path(type(module)),
        "model": module.model_name,
        "dtype": str(module.policy.model.dtype).removeprefix("torch."),
        "lora": None if module.lora is None else asdict(module.lora),
        # Its text, never the name of a file: an export reads none for a checkpoint.
        "chat_template": None if module.chat_template is None else module.tokenizer.chat_template,
        "stop_token_ids": [*module.stops.token_ids],
        "stop": [*module.stops.texts],
        "run": {**provenance(module), **module.run_state.validations(module.trainer)},
        **module.run_state.state_dict(),
        **module.learner.state_dict(),
        **module.resumption.state_dict(),
    }


def restore(module: GRPOLightningModule, checkpoint: dict[str, Any]) -> None:
    """Gives a module what `entry_of` wrote.

    Args:
        module: The one that resumes.
        checkpoint: Lightning's, whole.

    Raises:
        ValueError: If the checkpoint is of other LoRA settings, of another model or module, or cannot be resumed from.
    """
    trainer = getattr(module, "_trainer", None)  # None in `load_from_checkpoint`
    name = "this checkpoint" if trainer is None else f"checkpoint {str(trainer.ckpt_path)!r}"
    if KEY not in checkpoint:
        raise ValueError(
            f"{name} has nothing of a {type(module).__name__}; expected one that a GRPO or MASA Lightning module wrote. To "
            "start from another model's weights give its folder as `model`"
        )
    entry = checkpoint[KEY]
    check_same(entry["lora"], module.lora)
    check_sizes(checkpoint.get("state_dict", {}), module.state_dict(), name)
    module.run_state.load_state_dict(entry)
    module.learner.load_state_dict(entry)
    module.resumption.load(module, checkpoint)


class ShardsCheck:
    """Compares LoRA settings when Lightning asks what to read a folder of shards into: torch's errors name weights.

    A hook for `register_state_dict_pre_hook`, which looks once.
    """

    def __init__(self) -> None:
        self._looked = False

    def __call__(self, module: PolicyLightningModule, *_: Any) -> None:
        trainer = getattr(module, "_trainer", None)
        meta = Path((trainer and trainer.ckpt_path) or "", META)
        if not self._looked and meta.is_file():
            check_same(torch.load(meta, map_location="cpu", weights_only=True, mmap=True)[KEY]["lora"], module.lora)
        self._looked = True
