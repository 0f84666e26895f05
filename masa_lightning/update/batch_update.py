"""Groups with advantages -> all optimiser steps of a training step, on all processes of the run together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from masa_lightning.distributed import Processes, cut, fetch
from masa_lightning.protocols import PhaseProgress
from masa_lightning.settings import Algorithm
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Experience, Rollout, RolloutGroup
from masa_lightning.update.experience import StructuredKinds, ValueTokensFn, micro_batches, mini_batches, token_costs
from masa_lightning.update.policy_update import PolicyUpdate
from masa_lightning.update.summary import compact, merge_processes, update_metrics
from masa_lightning.update.top_entropy import choose_tokens


@dataclass(slots=True, kw_only=True)
class BatchUpdate:
    """Takes ``num_iterations * num_mini_batches`` optimiser steps on the groups of a training step.

    Args:
        loss: Of a micro-batch.
        num_iterations: Passes over the groups, >= 1.
        num_mini_batches: Optimiser steps a pass, >= 1.
        max_tokens_per_micro_batch: Budget, tokens.
        share_prompts: Whether the policy reads a prompt once for neighbours that share it.
        device: Of the policy.
        processes: Those of the run; each back-propagates its part.
        progress: Told how far "update" is, micro-batch by micro-batch.
        watch: Measures "logprobs", "update" and "exchange".
        structured: What completions were drawn under; None for no structure.
        values: Where the values of rollouts with `Rollout.terms` are.
    """

    loss: PolicyUpdate
    num_iterations: int
    num_mini_batches: int
    max_tokens_per_micro_batch: int
    share_prompts: bool
    device: torch.device
    processes: Processes
    progress: PhaseProgress
    watch: Stopwatch
    structured: StructuredKinds | None = None
    values: ValueTokensFn | None = None
    trained_tokens: list[list[int]] = field(default_factory=list)
    """Tokens that each process computed, one list for each mini-batch."""

    def run(
        self,
        groups: Sequence[RolloutGroup],
        *,
        backward: Callable[[Tensor, bool], None],
        step: Callable[[bool], float],
        first: Callable[[Tensor], None],
        learning_rate: float,
    ) -> dict[str, float]:
        """Takes the steps, and returns what is to be logged of them; a collective.

        Args:
            groups: With advantages, the same on each process.
            backward: As in `PolicyUpdate.run`, like the next two.
            step: Takes an optimiser step.
            first: Told the differences of sampler and policy.
            learning_rate: Of the first step, to be logged.
        """
        steps = self._steps(groups)
        with self.watch.phase("logprobs"):
            for i, (batches, _) in enumerate(steps):
                for batch in batches:  # the first step is taken with the policy as it is
                    self.loss.annotate(batch, old=i > 0 or self.num_iterations > 1)
                if self.loss.algorithm.top_entropy_quantile < 1:
                    choose_tokens(batches, self.loss.algorithm.top_entropy_quantile, self.processes.gather)
        total = self.num_iterations * sum(len(batches) for batches, _ in steps)
        with self.watch.phase("update"):
            stats, norms = self.loss.run(
                steps * self.num_iterations,
                backward=backward,
                step=step,
                first=first,
                progress=self.progress("update", total),
            )
        with self.watch.phase("exchange"):
            stats = merge_processes(self.processes.gather(compact(stats)))
        trained = sum(r.length for g in groups for r in trained_rollouts(g, self.loss.algorithm))
        return {"tokens/trained": float(self.num_iterations * trained)} | update_metrics(
            stats,
            norms,
            steps=len(norms),
            learning_rate=learning_rate,
            with_kl=self.loss.reference is not None,
            with_extra=self.loss.extra is not None,
            with_off_policy_mask=self.loss.algorithm.off_policy_mask_threshold is not None,
        )

    def _steps(self, groups: Sequence[RolloutGroup]) -> list[tuple[list[Experience | None], Tensor]]:
        """The micro-batches of this process and the denominators of each optimiser step of a pass."""
        rank, size = self.processes.rank, self.processes.size
        algorithm = self.loss.algorithm
        steps = []
        for part in mini_batches([g for g in groups if trained_rollouts(g, algorithm)], self.num_mini_batches):
            rollouts = [r for g in part for r in trained_rollouts(g, algorithm)]
            chosen = self.loss.select(rollouts)
            costs = token_costs(chosen, share_prompts=self.share_prompts)
            dealt = cut(costs, size)
            self.trained_tokens.append([sum(costs[each]) for each in dealt])
            with self.watch.phase("exchange"):
                trainers = [taker for taker, each in enumerate(dealt) for _ in chosen[each]]
                chosen = fetch(chosen, trainers, self.processes, with_text=False)
            batches = micro_batches(
                chosen,
                self.max_tokens_per_micro_batch,
                self.device,
                share_prompts=self.share_prompts,
                rank=rank,
                processes=size,
                structured=self.structured,
                values=self.values,
            )
            steps.append((batches, self.loss.denominators(rollouts) / size))
        return steps


def trained_rollouts(group: RolloutGroup, algorithm: Algorithm) -> list[Rollout]:
    """Returns the rollouts of a group that the update's loss is a mean over."""
    solutions = group.solutions
    if algorithm.dynamic_sampling and not group.teaches:
        solutions = []
    if algorithm.mask_truncated_completions:
        solutions = [r for r in solutions if r.completion.finish_reason != "length"]
    return [r for r in (*solutions, *group.metas) if r.reward is not None]
