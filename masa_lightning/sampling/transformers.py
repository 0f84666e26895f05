"""Samples from the policy with its own `generate`: where vLLM does not run, and as the oracle in tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from masa_lightning.checks import check_number, trusts_code
from masa_lightning.sampling._limits import check_requests
from masa_lightning.sampling._stops import StopStrings, load_tokenizer
from masa_lightning.sampling.structured import Walk, Walks, unpack_bits
from masa_lightning.types import Completion, SamplingRequest

if TYPE_CHECKING:
    from masa_lightning.protocols import CompletionFn, ProgressFn
    from masa_lightning.settings import SamplingSettings
    from masa_lightning.types import FinishReason


class TransformersSampler:
    """Draws completions with the `generate` method of the policy, a transformers causal language model.

    Much slower than `VLLMSampler`, and exact: tokens are drawn by the Gumbel-max rule with noise that depends on a
    request's seed and the token's position alone, so that equal requests give equal tokens in any batch (in
    float32 on a CPU; elsewhere rounding depends on the batch, and may change a token).

    The two samplers draw from the same distribution and report the same log-probabilities, but not the same tokens for
    the same seed (except at temperature 0): their noise differs.

    Args:
        batch_size: Most completions decoded at once.
    """

    structured_outputs = True
    on_completion: CompletionFn | None = None

    def __init__(self, batch_size: int = 64) -> None:
        check_number("batch_size", batch_size, ">= 1", whole=True)
        self.batch_size = batch_size
        self._policy: Any = None
        self._model_path = ""
        self._tokenizer: Any = None  # once there are stop strings
        self._walks: Walks | None = None
        self._max_model_length = 0
        self._stop_token_ids: frozenset[int] = frozenset()

    def setup(
        self, policy: nn.Module, model_path: str, *, max_model_length: int, stop_token_ids: Sequence[int]
    ) -> None:
        """Remembers the policy and the limits; may be called again with the same policy.

        Raises:
            RuntimeError: It samples from another policy.
            TypeError: The policy cannot `generate`, or not on its own because its weights are spread over processes.
        """
        if self._policy is not None and policy is not self._policy:
            raise RuntimeError(
                "this TransformersSampler samples from another policy already, that of another module perhaps, which would "
                "get completions of this one; expected one sampler a policy: make a new TransformersSampler"
            )
        if any(hasattr(weight, "full_tensor") for weight in policy.parameters()):
            raise TypeError(
                "the policy's weights are spread over processes (FSDP2), which would have to draw every token together; "
                "expected whole weights: use VLLMSampler, or DDP"
            )
        if not callable(getattr(policy, "generate", None)):
            raise TypeError(
                f"the policy is a {type(policy).__name__} without a generate method; expected a transformers causal "
                "language model: pass the model itself and not a wrapper of it"
            )
        self._policy = policy
        self._walks = self._walks or Walks(policy, model_path)
        self._model_path = model_path
        self._max_model_length = max_model_length
        self._stop_token_ids = frozenset(stop_token_ids)

    def sync_weights(self) -> None:
        """Does nothing: the policy itself generates."""

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        settings: SamplingSettings,
        on_progress: ProgressFn | None = None,
    ) -> list[Completion]:
        """Draws one completion a request, in the order of the requests.

        At temperature 0 the log-probabilities are those of the plain softmax, as with `VLLMSampler`.

        Raises:
            RuntimeError: `setup` was not called.
            ValueError: A prompt is empty, or too long for the completion it may get; there are stop strings or structures,
                and the model has no tokenizer, or there are both.
        """
        if self._policy is None:
            raise RuntimeError("this TransformersSampler has no policy yet; call setup(policy, model_path, ...) first")
        check_requests(requests, self._max_model_length)
        completions: dict[int, Completion] = {}
        with _ready_to_generate(self._policy):
            for chosen in self._batches(requests):
                drawn = dict(zip(chosen, self._run([requests[i] for i in chosen], settings), strict=True))
                completions |= drawn
                if self.on_completion is not None:
                    for index, completion in drawn.items():
                        self.on_completion(requests[index], completion)
                if on_progress is not None:
                    on_progress(len(completions), len(requests))
        return [completions[i] for i in range(len(requests))]

    def sleep(self) -> None:
        """Does nothing: there is no engine whose memory could be freed."""

    def wake(self) -> None:
        """Does nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Settings without the policy: a copy has to be set up anew."""
        return {**self.__dict__, "_policy": None, "_walks": None}

    def _batches(self, requests: Sequence[SamplingRequest]) -> Iterator[list[int]]:
        """Indices of the requests that are decoded together, those of like size.

        Models with a state beside keys and values may take padding in front of a prompt for tokens: for them the prompts
        of a batch are of one length.
        """
        stateful = bool(getattr(self._policy, "_is_stateful", False))
        order = sorted(range(len(requests)), key=lambda i: (requests[i].max_tokens, len(requests[i].prompt_ids)))
        for _, alike in groupby(order, key=lambda i: stateful and len(requests[i].prompt_ids)):
            together = [*alike]
            for start in range(0, len(together), self.batch_size):
                yield together[start : start + self.batch_size]

    def _run(self, requests: Sequence[SamplingRequest], settings: SamplingSettings) -> list[Completion]:
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        device = next(self._policy.parameters()).device
        width = max(len(request.prompt_ids) for request in requests)
        stop_token_ids = sorted(self._stop_token_ids.union(settings.stop_token_ids))
        pad = stop_token_ids[0] if stop_token_ids else 0
        input_ids = torch.full((len(requests), width), pad)
        attention_mask = torch.zeros_like(input_ids)
        for row, request in enumerate(requests):
            input_ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            attention_mask[row, width - len(request.prompt_ids) :] = 1
        assert self._walks is not None  # since `setup`
        draw = _Draw([request.seed for request in requests], settings, self._walks.of(requests, settings))
        limits = torch.tensor([request.max_tokens for request in requests], device=device)

        def reached_limit(ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return limits <= ids.shape[1] - width

        ends: dict[int, int] = {}  # tokens of a row when its text came to a stop string
        criteria: list[Any] = [reached_limit]
        if settings.stop:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._model_path, trusts_code(self._policy))
            strings = StopStrings(self._tokenizer, settings.stop)

            def reached_text(ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
                for row, drawn in enumerate(ids[:, width:].tolist()):
                    if row not in ends and strings.reached(drawn):
                        ends[row] = len(drawn)
                return torch.tensor([row in ends for row in range(len(ids))], device=ids.device)

            criteria.append(reached_text)

        output = self._policy.generate(
            input_ids=input_ids.to(device),
            attention_mask=attention_mask.to(device),
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                do_sample=False,  # `draw` adds the noise
                max_new_tokens=max(request.max_tokens for request in requests),
                eos_token_id=stop_token_ids or None,
                pad_token_id=pad,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList([draw]),
            stopping_criteria=StoppingCriteriaList(criteria),
        )
        drawn = output[:, width:].tolist()
        logprobs = torch.stack(draw.logprobs, dim=1).tolist()
        return [
            _completion(ids, logp if request.logprobs else [], request.max_tokens, {*stop_token_ids}, ends.get(row))
            for row, (ids, logp, request) in enumerate(zip(drawn, logprobs, requests, strict=True))
        ]


def _completion(
    token_ids: list[int], logprobs: list[float], max_tokens: int, stop_token_ids: set[int], text_end: int | None
) -> Completion:
    """Cuts a row of the batch after its stop token or stop string, or at its own limit; the rest is padding."""
    length = min(max_tokens, len(token_ids))
    ends = [index + 1 for index, token in enumerate(token_ids[:length]) if token in stop_token_ids][:1]
    if text_end is not None and text_end <= length:
        ends.append(text_end)
    finish_reason: FinishReason = "stop" if ends else "length"
    length = min([length, *ends])
    return Completion(token_ids=token_ids[:length], logprobs=logprobs[:length], finish_reason=finish_reason)


class _Draw:
    """A logits processor after which the argmax is a sample (Gumbel-max), and which keeps the log-probabilities.

    With E_v ~ Exponential(1), argmax_v (log p_v - log E_v) is distributed as p.
    """

    def __init__(self, seeds: Sequence[int], settings: SamplingSettings, walks: Sequence[Walk | None]) -> None:
        from transformers import LogitsProcessorList
        from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self.walks = walks
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = settings.temperature
        self.truncate: Any = LogitsProcessorList()  # in vLLM's order
        if settings.min_p > 0:
            self.truncate.append(MinPLogitsWarper(settings.min_p))
        if settings.top_k > 0:
            self.truncate.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            self.truncate.append(TopPLogitsWarper(settings.top_p))
        self.logprobs: list[torch.Tensor] = []  # one [B] a step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [B, V] with noise; as a side effect, the log-probabilities of their argmax."""
        scores = self._structured(input_ids, scores.float())
        if self.temperature > 0:
            scores = self.truncate(input_ids, scores / self.temperature)
        logp = scores.log_softmax(-1)
        noisy = logp
        if self.temperature > 0:
            noise = torch.empty(logp.shape, dtype=torch.float32)
            for row, generator in zip(noise, self.generators, strict=True):
                row.exponential_(generator=generator)
            noisy = logp - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_().to(logp.device)
        self.logprobs.append(logp.gather(1, noisy.argmax(-1, keepdim=True))[:, 0])
        return noisy

    def _structured(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores, minus infinity where a token would break the structure of its row."""
        last = input_ids[:, -1].tolist() if self.logprobs else []
        for row, walk in enumerate(self.walks):
            if walk is None or walk.done:
                continue
            if (not last or walk.accept(last[row])) and not walk.done:  # behind a row's end comes padding
                masks = walk.new_masks(1)
                walk.fill(masks, 0)
                allowed = unpack_bits(masks[0])[: scores.shape[1]].to(scores.device)
                scores[row] = scores[row].masked_fill(~allowed, -torch.inf)
        return scores


@contextlib.contextmanager
def _ready_to_generate(policy: Any) -> Iterator[None]:
    """Turns dropout and gradients off, and hides the model's own generation defaults, which would change the draw."""
    from transformers import GenerationConfig

    was_training = [module for module in policy.modules() if module.training]
    defaults = policy.generation_config
    policy.eval()
    policy.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            yield
    finally:
        policy.generation_config = defaults
        for module in was_training:
            module.training = True
