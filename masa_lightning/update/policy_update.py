"""The policy's loss over micro-batches: what each micro-batch adds to one optimiser step, whatever the token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masa_lightning.functional.losses import (
    Aggregation,
    aggregate_loss,
    importance_weights,
    kl_loss,
    loss_denominator,
    off_policy_mask,
    policy_loss,
)
from masa_lightning.protocols import LogProbs, ProgressFn
from masa_lightning.settings import Algorithm
from masa_lightning.types import Experience, PackedTokens, Rollout

TokenLoss = Callable[[Tensor, Experience], Tensor]  # `GRPOLightningModule.extra_loss`


@dataclass(slots=True, kw_only=True)
class PolicyUpdate:
    r"""Computes the loss of one optimiser step, micro-batch by micro-batch.

    .. math:: L = \sum_{k} w_k \left( L_k^{policy} + \beta L_k^{KL} - c H_k + L_k^{extra} \right), \qquad
        k \in \{solution, meta\}

    Each kind is aggregated on its own, so that the solution part equals that of GRPO without the meta path.

    Args:
        policy: Gives log-probabilities with a graph.
        reference: Gives those of the KL term; None without one.
        algorithm: Surrogate, aggregation and so on.
        kind_weights: w of solution and of meta rollouts.
        temperature: The one that completions were drawn with.
        norm_length: Constant length of "seq-mean-token-sum-norm"; one for both kinds, or one of solution and one of meta
            rollouts.
        idle: What a process computes, for nothing, that has no micro-batch left while others have: under FSDP2 and DDP
            all processes have to make as many passes.
        extra: A further loss of each token, [B, T], from the policy's log-probabilities; None without one.
    """

    policy: LogProbs
    reference: LogProbs | None
    algorithm: Algorithm
    kind_weights: tuple[float, float]
    temperature: float
    norm_length: int | tuple[int, int]
    idle: PackedTokens
    extra: TokenLoss | None = None

    def annotate(self, batch: Experience | None, *, old: bool) -> None:
        """Fills in `ref_logp`, and `old_logp` and `entropy` where the loss will need them."""
        tokens = self.idle if batch is None else batch.tokens
        ranked = self.algorithm.top_entropy_quantile < 1
        with torch.no_grad():
            logp, entropy = self.policy(tokens, self.temperature) if old or ranked else (None, None)
            ref_logp = None if self.reference is None else self.reference(tokens, self.temperature)[0]
        if batch is not None:
            batch.old_logp, batch.ref_logp = logp if old else None, ref_logp
            batch.entropy = entropy if ranked else None

    def select(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Picks those of an optimiser step that its gradient needs.

        Without a KL term, an entropy bonus or an extra loss, a rollout with advantage 0, as in a group whose rewards are
        all equal, adds exactly nothing.
        The shortest stays if there is no other, so that every step has a backward pass.
        """
        rollouts = [r for r in rollouts if r.length]
        if self.reference is not None or self.extra is not None or self.algorithm.entropy_coef:
            return rollouts
        return [r for r in rollouts if r.teaches] or sorted(rollouts, key=lambda r: r.length)[:1]

    def denominators(self, rollouts: Sequence[Rollout]) -> Tensor:
        """Counts, per kind, what the losses are divided by; float64 [2].

        Args:
            rollouts: All of an optimiser step, whether `select` picks them or not.
        """
        lengths: tuple[list[int], list[int]] = ([], [])
        for rollout in rollouts:
            lengths[rollout.kind == "meta"].append(rollout.length)
        masks = (torch.arange(max(n, default=0))[None] < torch.tensor(n)[:, None] for n in lengths)
        counts = [
            loss_denominator(m, self._aggregation, norm) for m, norm in zip(masks, self._norm_lengths, strict=True)
        ]
        return torch.stack(counts)

    @property
    def _aggregation(self) -> Aggregation:
        assert self.algorithm.aggregation is not None  # since `Algorithm` was made
        return self.algorithm.aggregation

    @property
    def _norm_lengths(self) -> tuple[int, int]:
        return self.norm_length if isinstance(self.norm_length, tuple) else (self.norm_length, self.norm_length)

    def run(
        self,
        steps: Sequence[tuple[Sequence[Experience | None], Tensor]],
        *,
        backward: Callable[[Tensor, bool], None],
        step: Callable[[bool], float],
        progress: ProgressFn,
        first: Callable[[Tensor], None] = lambda differences: None,
    ) -> tuple[dict[str, Tensor], list[float]]:
        """Takes the optimiser steps of a training step.

        Args:
            steps: The micro-batches of each optimiser step on this process, None for a pass of `idle`; and the
                `denominators` of all processes' rollouts over the number of processes, because gradients are averaged.
            backward: Back-propagates a loss, told whether it is the last one of the optimiser step.
            step: Takes an optimiser step, told whether it is the last one, and returns the gradient's norm.
            progress: Told the micro-batches done, and all.
            first: Told |policy - sampler| of each token of the first micro-batch, before anything is changed.

        Returns:
            Statistics of all micro-batches, merged, and the gradient norms.
        """
        stats: dict[str, Tensor] = {}
        norms, done, total = [], 0, sum(len(batches) for batches, _ in steps)
        for number, (batches, denominators) in enumerate(steps, start=1):
            for i, batch in enumerate(batches):
                loss, more = self.loss(batch, denominators) if batch is not None else (self._nothing(), {})
                if not done:
                    first(more.get("sampling_logp_difference", loss.detach().new_zeros(0)))
                backward(loss, i == len(batches) - 1)
                merge_stats(stats, more)
                done += 1
                progress(done, total)
            norms.append(step(number == len(steps)))
        return stats, norms

    def _nothing(self) -> Tensor:
        """A loss of 0 with a gradient of 0, from all weights."""
        return 0 * self.policy(self.idle, self.temperature)[0].sum()

    def loss(self, batch: Experience, denominators: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes what a micro-batch adds to the loss of its optimiser step.

        Args:
            batch: Prepared by `annotate` where `old_logp` or `ref_logp` are needed.
            denominators: Of the whole step, [2].

        Returns:
            The loss with its graph, and detached statistics to `merge_stats`: sums over tokens, extremes named
            ``..._max`` and ``..._min``, and ``sampling_logp_difference``, |old - sampler| of each token.
        """
        alg, mask = self.algorithm, batch.tokens.mask
        logp, entropy = self.policy(batch.tokens, self.temperature)
        old_logp = logp.detach() if batch.old_logp is None else batch.old_logp
        weights, mismatch = importance_weights(
            old_logp,
            batch.sampler_logp,
            mask,
            mode="token_truncate" if alg.importance_sampling == "off" else alg.importance_sampling,
            clip_max=alg.importance_sampling_clip_max,
            clip_min=alg.importance_sampling_clip_min,
        )
        stats = {f"sampling_{name}": value for name, value in mismatch.items()}
        if alg.importance_sampling == "off":
            weights = mask.to(weights)
        if alg.off_policy_mask_threshold is not None:
            near = off_policy_mask(
                logp, batch.sampler_logp, batch.advantages[:, None], mask, alg.off_policy_mask_threshold
            )
            stats["off_policy_masked"] = (mask & ~near).sum().float()
            weights = weights * near
        if batch.chosen is not None:
            weights = weights * batch.chosen
        stats["entropy_sum"] = entropy.detach().sum()
        stats["sampling_logp_difference"] = (old_logp - batch.sampler_logp).abs()[mask]
        extra = None if self.extra is None else self._extra(logp, batch)
        loss = logp.new_zeros(())
        for kind, kind_weight in enumerate(self.kind_weights):
            rows = batch.kind == kind
            if not rows.any():
                continue
            aggregated: dict[str, Any] = {
                "aggregation": self._aggregation,
                "denominator": denominators[kind],
                "norm_length": self._norm_lengths[kind],
            }
            part, surrogate = policy_loss(
                logp[rows],
                old_logp[rows],
                batch.by_token[rows],
                mask[rows],
                loss_type=alg.loss_type,
                clip_low=alg.clip_low,
                clip_high=alg.clip_high,
                dual_clip=alg.dual_clip,
                sapo_temperatures=(alg.sapo_temperature_pos, alg.sapo_temperature_neg),
                weights=weights[rows],
                **aggregated,
            )
            merge_stats(stats, surrogate)
            merge_stats(stats, {"policy_loss_sum": kind_weight * part.detach()})
            if batch.ref_logp is not None:
                kl = kl_loss(logp[rows], batch.ref_logp[rows], alg.kl_kind, mask=mask[rows])
                merge_stats(stats, {"kl_sum": kl.detach().sum()})
                part = part + alg.kl_coef * aggregate_loss(kl, mask[rows], **aggregated)
            if alg.entropy_coef:
                part = part - alg.entropy_coef * aggregate_loss(entropy[rows], mask[rows], **aggregated)
            if extra is not None:
                own = aggregate_loss(extra[rows], mask[rows], **aggregated)
                merge_stats(stats, {"extra_loss_sum": kind_weight * own.detach()})
                part = part + own
            loss = loss + kind_weight * part
        return loss, stats

    def _extra(self, logp: Tensor, batch: Experience) -> Tensor:
        assert self.extra is not None
        extra = self.extra(logp, batch)
        if not isinstance(extra, Tensor) or extra.shape != logp.shape:
            found = tuple(extra.shape) if isinstance(extra, Tensor) else type(extra).__name__
            raise ValueError(
                f"extra_loss gave {found} for a batch of {tuple(logp.shape)} tokens; expected a tensor of that shape, one "
                "number a token: tokens that count for nothing have 0"
            )
        return extra


def merge_stats(total: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Adds statistics to `total` in place: vectors one after the other, extremes by their name, scalars as sums."""
    for name, value in more.items():
        if name not in total:
            total[name] = value
        elif value.dim():
            total[name] = torch.cat([total[name], value])
        elif name.endswith("_max"):
            total[name] = torch.maximum(total[name], value)
        elif name.endswith("_min"):
            total[name] = torch.minimum(total[name], value)
        else:
            total[name] = total[name] + value
