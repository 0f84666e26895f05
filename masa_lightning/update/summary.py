"""Statistics of an update -> the scalars that are logged. Names follow TRL's and verl's where they have one.

Each step gives the same names, NaN where there is nothing to say: Lightning would log the last value of a missing one again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from masa_lightning.update.policy_update import merge_stats

NAN = float("nan")


def merge_processes(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Merges the statistics of all processes (`compact`), as `merge_stats` does those of micro-batches."""
    total: dict[str, Tensor] = {}
    for part in parts:
        merge_stats(total, part)
    for name in ("policy_loss_sum", "extra_loss_sum"):
        if name in total:
            total[name] /= len(parts)  # their losses are averaged like their gradients
    return total


def compact(stats: dict[str, Tensor]) -> dict[str, Tensor]:
    """Statistics on the CPU, with an even sample of at most 65,536 values of each vector: enough for a median."""
    return {name: (x[:: 1 + len(x) // 65536] if x.dim() else x).cpu() for name, x in stats.items()}


def update_metrics(
    stats: dict[str, Tensor],
    norms: Sequence[float],
    *,
    steps: int,
    learning_rate: float,
    with_kl: bool,
    with_extra: bool = False,
    with_off_policy_mask: bool = False,
) -> dict[str, float]:
    """Statistics of a whole update (`PolicyUpdate.loss`, merged) as means.

    Args:
        stats: Sums over tokens and extremes; may be empty.
        norms: Gradient norm of each optimiser step, NaN where the step was skipped.
        steps: Optimiser steps of the training step.
        learning_rate: Of the first step.
        with_kl: Whether the loss has a KL term.
        with_extra: Whether it has a further one, of a subclass.
        with_off_policy_mask: Whether rollouts may leave it that have become too unlikely.
    """
    finite = [norm for norm in norms if norm == norm]
    metrics = {
        "grad_norm": fmean(finite) if finite else NAN,
        "learning_rate": learning_rate,
        "skipped_updates": float(len(norms) - len(finite)),
    }
    s = defaultdict(lambda: NAN, {name: value.item() for name, value in stats.items() if value.dim() == 0})
    tokens = max(s["tokens"], 1.0)  # NaN stays NaN
    difference = stats["sampling_logp_difference"].float() if stats else torch.empty(0)
    metrics |= {
        "policy_loss": s["policy_loss_sum"] / steps,
        "entropy": s["entropy_sum"] / tokens,
        "approx_kl": s["approx_kl_sum"] / tokens,
        "clip_ratio/low_mean": s["clip_low"] / tokens,
        "clip_ratio/high_mean": s["clip_high"] / tokens,
        "clip_ratio/region_mean": (s["clip_low"] + s["clip_high"]) / tokens,
        "clip_ratio/dual_mean": s["dual_clip"] / tokens,
        "sampling/sampling_logp_difference/mean": s["sampling_logp_difference_sum"] / tokens,
        "sampling/sampling_logp_difference/median": difference.median().item() if len(difference) else NAN,
        "sampling/sampling_logp_difference/max": s["sampling_logp_difference_max"],
        "sampling/importance_sampling_ratio/mean": s["sampling_ratio_sum"] / tokens,
        "sampling/importance_sampling_ratio/min": s["sampling_ratio_min"],
        "sampling/importance_sampling_ratio/max": s["sampling_ratio_max"],
        "sampling/importance_sampling_ratio/clipped_ratio": s["sampling_clipped"] / tokens,
    }
    if with_off_policy_mask:
        metrics["off_policy_masked_ratio"] = s["off_policy_masked"] / tokens
    if with_extra:
        metrics["extra_loss"] = s["extra_loss_sum"] / steps
    return metrics | ({"kl": s["kl_sum"] / tokens} if with_kl else {})
