"""LoRA: a policy that trains small adapters beside frozen weights, with peft."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from masa_lightning.checks import check_number
from masa_lightning.models.checkpoints import OtherSettingsError
from masa_lightning.models.policy import Policy
from masa_lightning.types import PackedTokens

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


@dataclass(kw_only=True, frozen=True)
class LoRA:
    r"""Trains an adapter on each of some linear layers, and nothing else.

    .. math:: W + \frac{\alpha}{r} B A, \qquad A: [r, in], \quad B: [out, r], \quad B = 0 \text{ at the start}

    Adapters are float32 whatever the dtype of the weights; an engine in bfloat16 gets the sum rounded to that. There is no
    dropout: it would falsify log-probabilities. The learning rate wants to be about ten times that of all weights.

    Args:
        rank: r, >= 1.
        alpha: >= 1.
        targets: "all-linear", which leaves out the output layer, or the last parts of names, such as q_proj.
    """

    rank: int = 16
    alpha: int = 32
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            check_number(f"LoRA's {name}", getattr(self, name), ">= 1", whole=True)
        if not self.targets or (isinstance(self.targets, str) and self.targets != "all-linear"):
            raise ValueError(f"LoRA's targets are {self.targets!r}; expected 'all-linear' or a list of module names")

    def config(self) -> LoraConfig:
        """These settings as peft's.

        Raises:
            ImportError: If peft is not installed.
        """
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ImportError(
                f"LoRA needs peft, which does not import ({error}); expected it installed: "
                "pip install 'masa_lightning[lora]', or leave `lora` away to train all weights"
            ) from error
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        return LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=targets, lora_dropout=0.0)


def add_adapters(model: PreTrainedModel, lora: LoRA, seed: int) -> None:
    """Adds trainable adapters to a model in place, and freezes the rest of it.

    Args:
        model: With or without weights.
        lora: Which adapters.
        seed: Of their start, which is the same on every device and in every process.

    Raises:
        ValueError: If the targets are not linear layers inside the model.
    """
    config = lora.config()
    _check_targets(model, lora.targets)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model.add_adapter(config)
    for p in model.parameters():
        if p.requires_grad:  # a step is too small for what bfloat16 can tell apart
            p.data = p.data.float()


def leave_out_frozen(policy: Policy) -> None:
    """Keeps frozen weights out of the state dicts of a policy and of what holds it, and misses none when one is loaded."""
    policy.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]
    policy.register_load_state_dict_post_hook(_miss_no_frozen)  # type: ignore[no-untyped-call]


def _drop_frozen(policy: Policy, state: dict[str, Any], prefix: str, _: Any) -> None:
    trained = {prefix + name for name, p in policy.named_parameters() if p.requires_grad}
    for name in [name for name in state if name.startswith(prefix) and name not in trained]:
        del state[name]


def _miss_no_frozen(policy: Policy, keys: Any) -> None:
    """Also for those who load into a copy of a module, such as `WeightAveraging`."""
    trained = {f"policy.{name}" for name, weight in policy.named_parameters() if weight.requires_grad}
    names = {key: key.removeprefix("module.") for key in keys.missing_keys}
    keys.missing_keys[:] = [k for k, name in names.items() if name in trained or not name.startswith("policy.")]


class WithoutAdapters:
    """The model under a policy's adapters: `Policy.forward` with the adapters off, and no second copy of the weights.

    Args:
        policy: With adapters. A copy of both is of the copy.
    """

    def __init__(self, policy: Policy) -> None:
        from peft.tuners.lora import LoraLayer

        self.policy = policy
        self.layers: list[Any] = [module for module in policy.modules() if isinstance(module, LoraLayer)]

    def __call__(self, tokens: PackedTokens, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        self._scale(0.0)
        try:
            logprobs: tuple[Tensor, Tensor] = self.policy(tokens, temperature)
        finally:
            self._scale(1.0)
        return logprobs

    def _scale(self, factor: float) -> None:
        """Peft's own switch thaws and freezes parameters, which FSDP2 does not follow."""
        for layer in self.layers:
            for name in layer.scaling:
                layer.set_scale(name, factor)


def check_same(saved: dict[str, Any] | None, lora: LoRA | None) -> None:
    """Compares a checkpoint's LoRA settings with those of the module that loads it.

    Args:
        saved: `asdict` of the checkpoint's, None without.
        lora: The module's.

    Raises:
        OtherSettingsError: If they differ.
    """
    here = None if lora is None else asdict(lora)
    if saved == here:
        return
    raise OtherSettingsError(
        f"the checkpoint was written with lora: {_shown(saved)}, and this module has lora: {_shown(here)}; expected the "
        "same. Set the module's `lora` to the checkpoint's, or start from the exported checkpoint as `model`: "
        "masa export CKPT OUT_DIR"
    )


def _shown(settings: dict[str, Any] | None) -> str:
    if settings is None:
        return "null"
    return "{" + ", ".join(f"{k}: {[*v] if isinstance(v, tuple) else v}" for k, v in settings.items()) + "}"


def _check_targets(model: PreTrainedModel, targets: str | tuple[str, ...]) -> None:
    if isinstance(targets, str):
        return
    from transformers.pytorch_utils import Conv1D

    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not model.get_output_embeddings()  # type: ignore[no-untyped-call]
    }
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(
                f"LoRA's target {target!r} is no linear layer inside the model; expected 'all-linear' or some of {known}"
            )
