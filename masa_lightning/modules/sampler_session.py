"""A sampler in a run: given the policy, compared with it, handed its weights, and closed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from masa_lightning.checks import check_number
from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.modules.meta import structured_kinds
from masa_lightning.modules.parity import ParityGuard, claim
from masa_lightning.sampling.structured import Structured
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Kind
from masa_lightning.update.learner import are_finite

if TYPE_CHECKING:
    from masa_lightning.modules.base import PolicyLightningModule


class SamplerSession:
    """Keeps the sampler of a module at the module's policy, and stops a run in which it is not.

    Args:
        limit: Most that log-probabilities of the two may differ by, nats a token in the mean, > 0; None goes by the
            precision (`ParityGuard`), and inf compares nothing.

    Raises:
        ValueError: If it is none.
    """

    def __init__(self, limit: float | None) -> None:
        if limit not in (None, math.inf):
            note = "nats a token, None for one by precision, or inf to compare nothing"
            check_number("max_logp_difference", limit, "> 0", note=note)
        self.limit = limit
        self.guard: ParityGuard | None = None
        """Compares sampler and policy; made by `start`."""
        self.is_ready = False
        """Whether the sampler has the policy."""
        self.structured: dict[Kind, Structured] = {}
        """What completions are drawn under, by kind; nothing of those that are free."""

    def start(self, module: PolicyLightningModule) -> None:
        """Readies the sampler and compares it with the policy; a collective.

        Raises:
            ValueError: If the policy has weights that are not finite, or completions cannot be structured as asked.
            RuntimeError: If another module uses the sampler, or it does not draw from the policy.
        """
        policy, trainer = module.policy, module.trainer
        assert policy is not None
        self.structured = structured_kinds(module, self.structured)
        with torch.inference_mode(False), torch.enable_grad(), module.watch.phase("start"):
            claim(module.sampler, module)
            if not self.is_ready:
                self._set_up(module, policy)
                self.is_ready = True
            else:
                module.sampler.wake()
                module.sampler.sync_weights()
        self.guard = ParityGuard(
            module.sampler,
            policy,
            module.processes,
            limit=self.limit,
            model=module.model_name,
            precision=trainer.precision,
        )
        stage = trainer.state.stage
        self._compare(module, f"at the start of stage {stage.value!r}" if stage else "at the start")

    def hand_over(self, module: PolicyLightningModule, *, compare: bool) -> None:
        """Gives the sampler the policy's current weights; a collective.

        Args:
            module: With the policy.
            compare: Whether to compare the two on a few tokens.
        """
        with module.watch.phase("sync"):
            module.sampler.wake()
            module.sampler.sync_weights()
            if compare:
                self._compare(module, "after the first update")

    def check(self, differences: Tensor, step: int, sampling: SamplingSettings) -> None:
        """Compares the log-probabilities that an update computed with those of the sampler; a collective.

        Args:
            differences: |log p_policy - log p_sampler| of tokens of this process, nats.
            step: Number of the training step, from 1.
            sampling: How they were drawn; where it leaves tokens out, the two differ rightly.
        """
        if self.guard is not None and (sampling.top_p, sampling.top_k, sampling.min_p) == (1, 0, 0):
            self.guard.check(differences, f"in training step {step}", sampling.temperature)

    def close(self, module: PolicyLightningModule) -> None:
        """Closes the sampler, if it can be, which gives the memory of its engine back; the next start makes another one."""
        close = getattr(module.sampler, "close", None)
        if close is not None:
            close()
            self.is_ready = False

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose sampler has no policy yet."""
        return vars(self) | {"guard": None, "is_ready": False, "structured": {}}

    def _set_up(self, module: PolicyLightningModule, policy: Policy) -> None:
        """Gives the sampler the policy, the first time; the two may come to share weights."""
        if not are_finite(policy.parameters()):
            raise ValueError(
                f"model {module.model_name!r} has weights that are not finite, as {module.dtype_name} or in its checkpoint; "
                "expected finite ones. Choose another dtype or checkpoint"
            )
        with module.trainer.precision_plugin.forward_context():  # an engine takes the dtype of autocast
            module.sampler.setup(
                policy.model,
                loading.model_path(module.model_name),
                max_model_length=module.loader.max_length,
                stop_token_ids=module.stops.token_ids,
            )
        if isinstance(module.reference, Policy):
            module.reference.to(module.device)

    def _compare(self, module: PolicyLightningModule, when: str) -> None:
        """Compares sampler and policy on a few tokens, and leaves random states as they are; a collective."""
        assert self.guard is not None
        if self.limit == math.inf:
            return
        precision = module.trainer.precision_plugin.forward_context()
        with module.processes.together(), torch.inference_mode(False), isolate_rng(), precision:
            self.guard.probe(module.tokenizer, module.loader.max_length, when)
