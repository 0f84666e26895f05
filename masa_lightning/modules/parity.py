"""Whether a sampler draws from the policy: the log-probabilities that it reports, against the policy's own."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import torch
from torch import Tensor

from masa_lightning.distributed import Processes
from masa_lightning.models.policy import Policy
from masa_lightning.protocols import Sampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Rollout, SamplingRequest
from masa_lightning.update.experience import make_experience

# As training data looks, in digits, formulas, code and other letters; no real prompt starts like them, so that what an
# engine caches of them serves none.
_TEXTS = (
    "What is 17 * 24 - 9, and why?",
    r"Let $f(x) = \frac{3x^2 - 1}{x + 2}$. Then",
    "def mean(values):\n    return",
    "Für 250 g zahlt man im Café 7,50 €:",
)
_MAX_PROMPT = 12  # tokens
_MAX_TOKENS = 8
# Nats a token, in the mean. On CPU float32 is off by 1e-6 to 1e-4, bfloat16 by 0.06; CUDA's kernels may round float32 to
# TensorFloat32 inside.
_EXACT_LIMIT, _CUDA_LIMIT, _ROUNDED_LIMIT = 0.001, 0.01, 0.15
_PEAK = 100  # limits that a single token may differ by, where nothing is rounded
_FEW = 16  # fewer tokens than that count as so many: a single one may differ by more than the mean of many


class ParityGuard:
    """Stops a run whose sampler does not draw from its policy.

    Args:
        sampler: Set up for the policy.
        policy: What the update computes with.
        processes: Those of the run; all of them make the same calls.
        limit: Most that log-probabilities may differ by, nats a token in the mean, > 0. None goes by the precision: 0.001
            on CPU and 0.01 elsewhere where weights, sampler and Trainer compute in float32, and 0.15 where any of them
            rounds to 16 bits.
        model: Name of the model, for errors.
        precision: Of the Trainer, such as "bf16-mixed".
    """

    def __init__(
        self,
        sampler: Sampler,
        policy: Policy,
        processes: Processes,
        *,
        limit: float | None,
        model: str,
        precision: str,
    ) -> None:
        self._sampler, self._policy, self._processes = sampler, policy, processes
        weights = sorted({_name(p.dtype) for p in policy.parameters()})
        computes = getattr(sampler, "engine_dtype", None) or getattr(sampler, "dtype", None)
        engine = _name(computes or policy.model.dtype)
        self._exact = (
            {*weights, engine} <= {"float", "float32", "float64"}
            and precision in ("32-true", "64-true")
            and _multiplies_exactly()
        )
        exact = _EXACT_LIMIT if next(policy.parameters()).device.type == "cpu" else _CUDA_LIMIT
        self.limit = limit or (exact if self._exact else _ROUNDED_LIMIT)
        """Nats a token, in the mean."""
        self._described = (
            f"model {model!r} ({type(policy.model).__name__}), {type(sampler).__name__} in {engine}, policy in "
            f"{' and '.join(weights)} with the Trainer's precision {precision}"
        )

    def probe(self, tokenizer: Any, max_model_length: int, when: str) -> float:
        """Draws a few tokens and compares them; a collective, under the autocast of a training step.

        Args:
            tokenizer: Of the model.
            max_model_length: Most tokens of prompt and completion together, >= 2.
            when: Ends the sentence "the sampler does not draw from the policy ...".

        Returns:
            As `check`.

        Raises:
            RuntimeError: If log-probabilities differ by more than the limit, or none are there to compare.
        """
        requests = probe_requests(tokenizer, max_model_length)
        completions = self._sampler.generate(requests, SamplingSettings())
        if [len(c.logprobs) for c in completions] != [len(c.token_ids) or 1 for c in completions]:
            raise RuntimeError(
                f"{type(self._sampler).__name__} drew {[len(c.token_ids) for c in completions]} tokens for "
                f"{len(requests)} short prompts with {[len(c.logprobs) for c in completions]} log-probabilities; expected "
                "at least a token each, and as many log-probabilities: `Sampler.generate` returns both"
            )
        batch = make_experience(
            [
                Rollout(kind="solution", prompt_ids=request.prompt_ids, completion=completion, text="")
                for request, completion in zip(requests, completions, strict=True)
            ],
            next(self._policy.parameters()).device,
        )
        with torch.no_grad():
            logp = self._policy(batch.tokens)[0]
        reshard: Any = getattr(self._policy, "reshard", None)
        if reshard is not None:  # FSDP2 would keep some weights gathered until a backward pass
            reshard()
        return self.check((logp - batch.sampler_logp).abs()[batch.tokens.mask], when)

    def check(self, differences: Tensor, when: str, temperature: float = 1.0) -> float:
        """Compares what is known already; a collective.

        Args:
            differences: |log p_policy - log p_sampler| of tokens of this process, nats.
            when: As in `probe`.
            temperature: That tokens were drawn with: below 1 it enlarges the rounding of logits.

        Returns:
            By how much they differ, nats a token in the mean; NaN where the limit is inf, and nothing is compared.

        Raises:
            RuntimeError: If they are above the limit in any process, or are no numbers.
        """
        if not math.isfinite(self.limit):
            return math.nan
        found = differences.double()
        parts = self._processes.gather(
            (found.sum().item(), found.max().item() if found.numel() else 0.0, found.numel())
        )
        total, largest, counts = (torch.tensor(values, dtype=torch.float64) for values in zip(*parts, strict=True))
        count, peak = int(counts.sum()), largest.max().item()  # NaN if one is
        limit = self.limit / min(temperature, 1.0)
        mean = total.sum().item() / max(count, _FEW)
        if mean <= limit and (not self._exact or peak <= _PEAK * limit):
            return total.sum().item() / max(count, 1)
        expected = f"a mean of at most {limit:.3g}" + f", {_PEAK * limit:.3g} for one token" * self._exact
        raise RuntimeError(
            f"the sampler does not draw from the policy {when}: over {count} tokens their log-probabilities differ by "
            f"{total.sum().item() / max(count, 1):.3g} nats a token in the mean and by {peak:.3g} at most; expected "
            f"{expected}. Found with {self._described}. Likely causes: weights that did not reach the engine or that it "
            "keeps in another layout; an engine that computes this architecture differently; a sampler that another "
            "module uses too; a sampler in a lower precision than the policy"
            + ("; weights that are not finite" if not math.isfinite(peak) else "")
            + ". Use TransformersSampler, which draws from the policy itself, or give the sampler the policy's dtype and "
            "each module its own sampler; if you know why they differ, and how much does no harm, set "
            "max_logp_difference (inf compares nothing)"
        )


def probe_requests(tokenizer: Any, max_model_length: int) -> list[SamplingRequest]:
    """A few short completions of short texts, which fit any model.

    Args:
        tokenizer: Of the model.
        max_model_length: Most tokens of prompt and completion together, >= 2.
    """
    max_tokens = min(_MAX_TOKENS, max_model_length // 2)
    longest = min(_MAX_PROMPT, max_model_length - max_tokens)
    prompts = (tokenizer(text).input_ids[:longest] for text in _TEXTS)
    return [SamplingRequest(prompt_ids=list(ids), max_tokens=max_tokens, seed=seed) for seed, ids in enumerate(prompts)]


_claims: dict[int, tuple[weakref.ref[Any], weakref.ref[Any]]] = {}  # by id of a sampler: itself and its module


def claim(sampler: Sampler, module: object) -> None:
    """Notes that a module uses a sampler, for as long as both live.

    Raises:
        RuntimeError: If another module does.
    """
    key = id(sampler)
    try:
        itself = weakref.ref(sampler, lambda gone: _claims.pop(key, None) if _known(key) is gone else None)
    except TypeError:  # made of slots: the comparison alone has to do
        return
    owner = _owner(sampler)
    if owner not in (None, module):
        del owner
        gc.collect()  # modules and trainers know each other: without this they stay for a while after their end
        owner = _owner(sampler)
    if owner not in (None, module):
        raise RuntimeError(
            f"this {type(sampler).__name__} draws for another {type(owner).__name__} already, whose policy it would give "
            "up for this one's; expected a sampler for each module: make a new one, or delete the other module"
        )
    _claims[key] = itself, weakref.ref(module)


def _known(key: int) -> Any:
    return _claims[key][0] if key in _claims else None


def _owner(sampler: Sampler) -> object | None:
    known, owner = _claims.get(id(sampler), (lambda: None, lambda: None))
    return owner() if known() is sampler else None


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _multiplies_exactly() -> bool:
    """Whether torch multiplies float32 as it is, and not in TensorFloat32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # it was set for some backends alone, where torch will not say it of all
        return False
