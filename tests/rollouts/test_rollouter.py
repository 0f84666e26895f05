"""What a sampler gives is checked before anything is learned from it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from training_loop import Loop, Problems

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.rollouts.rollouter import check_logprobs
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.types import Completion


class Wrong(TransformersSampler):
    """The last log-probability of the last completion is another one, in the rollouts of training alone."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def generate(self, requests: Any, settings: Any, on_progress: Any = None) -> list[Completion]:
        completions = super().generate(requests, settings, on_progress)
        if len(requests) == 6:
            completions[-1].logprobs = [*completions[-1].logprobs[:-1], *[self.value] * (self.value is not None)]
        return completions


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "1 of 6 completions of Wrong have log-probabilities that are not finite"),
        (-math.inf, "1 of 6 completions of Wrong have log-probabilities that are not finite"),
        (None, "1 of 6 completions of Wrong have not one log-probability a token"),
    ],
)
def test_log_probabilities_that_nothing_can_be_learned_from_end_the_run(loop: Loop, value: Any, said: str) -> None:
    """Whichever micro-batch they would have come to: the parity guard looks at the first."""
    module = loop.module(
        kind=GRPOLightningModule, sampler=Wrong(value), max_tokens_per_micro_batch=8, grader=loop.Grades()
    )
    before = loop.weights()
    with pytest.raises(RuntimeError, match=said):
        loop.fit(module, Problems(2, batch_size=2), max_steps=1)
    assert loop.changed(before, dict(module.policy.model.named_parameters())) == set()


def test_nothing_drawn_is_nothing_wrong() -> None:
    check_logprobs([], "it")
    check_logprobs([Completion(token_ids=[], logprobs=[], finish_reason="stop")], "it")
