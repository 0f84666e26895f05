"""Scored groups -> what `ExpertSFT` clones: the best prediction of each problem, rewritten with what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masa_lightning.distributed import Processes, share
from masa_lightning.functional.controls import training_weights
from masa_lightning.models.stops import Stops
from masa_lightning.quantities import Quantities
from masa_lightning.types import Example, RolloutGroup


class ExpertExamples:
    """Writes examples to clone, as token ids.

    Args:
        quantities: What is predicted; they choose and write experts.
        tokenizer: Of the policy.
        stops: What ends a completion.
        max_length: Most tokens of an example.
        processes: Those of the run.
    """

    def __init__(
        self, quantities: Quantities, *, tokenizer: Any, stops: Stops, max_length: int, processes: Processes
    ) -> None:
        self.quantities, self.tokenizer, self.stops = quantities, tokenizer, stops
        self.max_length, self.processes = max_length, processes

    def of(self, groups: Sequence[RolloutGroup]) -> list[Example]:
        """Returns those of this process's part of the problems; a collective.

        Args:
            groups: Scored. Those that a control has biased (`RolloutGroup.is_unbiased`) give no example, and the others
                count for them (`functional.controls.training_weights`).
        """
        part = self.processes.part([1.0] * len(groups))
        examples = share(groups, self._example, self.processes)[part]
        weights = training_weights(groups)[part]
        return [
            example._replace(weight=weight)
            for example, weight in zip(examples, weights, strict=True)
            if example is not None
        ]

    def _example(self, group: RolloutGroup) -> Example | None:
        expert = self.quantities.expert(group) if group.is_unbiased else None
        if expert is None:
            return None
        rollout, text = expert
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        written, read = self.quantities.read(text), self.quantities.read(self.tokenizer.decode(ids))
        unwanted = {*self.tokenizer.all_special_ids, *self.stops.token_ids}  # a hostile text may spell a special token
        fits = len(ids) + len(self.stops.closing) <= self.max_length
        ended = any(stop in text for stop in self.stops.texts)
        if read != written or not fits or ended or not unwanted.isdisjoint(ids):
            return None
        return Example(rollout.prompt_ids, [*ids, *self.stops.closing])
