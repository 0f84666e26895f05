"""What is done with predictions outside of training: the controls of `predict`."""

from __future__ import annotations

from collections.abc import Sequence

from masa_lightning.functional.controls import cutoff_tokens, gate, hint_notions, sample_count
from masa_lightning.settings import Inference
from masa_lightning.types import Decision, RolloutGroup


def control_solving(groups: Sequence[RolloutGroup], settings: Inference, *, count: int, budget: int) -> None:
    """Decides how problems are to be solved, by their predictions; in place.

    What a problem looks like, "hopeless" or "trivial", becomes the detail of the decision "gating".

    Args:
        groups: With read predictions, still without solutions.
        settings: Which controls there are.
        count: Solutions a problem, without a reason for more or fewer.
        budget: Most tokens of a solution.
    """
    for group in groups:
        predictions = [r.prediction for r in group.metas if r.prediction is not None]
        rates = [p.rate for p in predictions if p.rate is not None]
        lengths = [p.solution_length for p in predictions if p.solution_length is not None]
        looks = gate(rates, max_std=settings.max_std, margin=settings.margin)
        group.gated = looks == "hopeless" and settings.hopeless == "skip"
        group.decisions["gating"] = Decision(wanted=looks is not None, acted=group.gated, detail=looks)
        if settings.adapt_samples:
            group.num_solutions = sample_count(rates, count)
        if settings.cutoff_factor is not None:
            limit = cutoff_tokens(lengths, budget=budget, factor=settings.cutoff_factor)
            group.token_limit = limit if limit < budget else None
        if settings.hint:
            group.hint = hint_notions(predictions, group.problem.problem)
