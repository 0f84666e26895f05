"""How the engine draws tokens on CPU: vLLM's own draws, with less Python for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_SEEDS_AT_ONCE = 64


class Draws(nn.Module):
    """In place of vLLM's `TopKTopPSampler` on CPU: draws the very same tokens, and notes their log-probabilities itself.

    vLLM asks each request's generator for one seed a token, with three calls of torch, and takes each log-probability
    through four layers of Python; on a small model both together cost a tenth of the generation
    (docs/results/performance.md). Here a generator is asked for many seeds at once, which are the same ones, and a
    log-probability is put on the list of its request.

    At temperature 0 vLLM does not come here.

    Args:
        runner: vLLM's model runner, whose batch tells which request a row of logits belongs to.
        truncate: vLLM's `apply_top_k_top_p`.
    """

    def __init__(self, runner: Any, truncate: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._batch = runner.input_batch
        self._truncate = truncate
        self._seeds: dict[str, Iterator[int]] = {}
        self.logprobs: dict[str, list[float]] = {}
        """Those wanted: by request, as vLLM names it, of its tokens so far, in nats; add an empty list to want them."""

    def clear(self) -> None:
        """Forgets all requests."""
        self._seeds.clear()
        self.logprobs.clear()

    def forward(
        self,
        logits: torch.Tensor,
        generators: Mapping[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, None]:
        """One token a row of `logits` [B, V], from the distribution that top-k and top-p leave of it; [B]."""
        logits = self._truncate(logits, k, p).float()
        names = self._batch.req_ids
        seeds = torch.tensor([self._seed(name, generators[row]) for row, name in enumerate(names)])
        tokens: torch.Tensor = torch.ops._C.fused_gumbel_argmax(logits, seeds)
        if self.logprobs:
            drawn = logits.log_softmax(1).gather(1, tokens.long()[:, None])[:, 0]  # `logsumexp` takes longer
            for name, logprob in zip(names, drawn.tolist(), strict=True):
                if name in self.logprobs:
                    self.logprobs[name].append(logprob)
        return tokens, None

    def _seed(self, name: str, generator: torch.Generator) -> int:
        if name not in self._seeds:
            self._seeds[name] = _seeds(generator)
        return next(self._seeds[name])


def _seeds(generator: torch.Generator) -> Iterator[int]:
    """The seeds that vLLM would draw for a request's tokens."""
    while True:
        yield from torch.randint(0, 2**31, (_SEEDS_AT_ONCE,), generator=generator).tolist()
