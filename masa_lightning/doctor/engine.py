"""An engine of the embedded model beside its policy: the start, whether both compute the same, speed, and memory asleep."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from masa_lightning.doctor.check import Found

if TYPE_CHECKING:
    from masa_lightning.models.loading import DType

LENGTH: Final = 256  # tokens of prompt and completion, those of the embedded model
_REQUESTS, _TOKENS = 64, 128
_GIB: Final = 2**30
_CACHE: Final = {"cpu": 0.25, "cuda": 2.0}  # GiB of keys and values
_CAME_BACK: Final = 0.75  # of the cache, at least
DTYPES: Final[dict[str, DType]] = {"32-true": "float32", "bf16-mixed": "float32", "bf16-true": "bfloat16"}
"""Of the weights, by the precision of a Trainer."""
_PARITY: Final = (
    "the engine computes something else here: give it `enforce_eager: true`, or take TransformersSampler; and report "
    "this table"
)


def engine(device: str, precision: str) -> Iterator[Found]:
    """Makes an engine and tries it: start, parity, hand-over, generation, and on CUDA sleep.

    Args:
        device: "cpu" or "cuda".
        precision: Of a Trainer, one of `DTYPES`.
    """
    import torch

    import masa_lightning
    from masa_lightning.distributed import Processes
    from masa_lightning.models.loading import TINY, load_model, load_tokenizer, model_path
    from masa_lightning.models.policy import Policy
    from masa_lightning.models.steady import make_steady
    from masa_lightning.modules.parity import ParityGuard

    model = load_model(TINY, DTYPES[precision])
    make_steady(model, LENGTH)
    policy = Policy(model).to(device)
    tokenizer = load_tokenizer(TINY)
    sampler = masa_lightning.VLLMSampler(
        kv_cache_gib=_CACHE[device],
        gpu_memory_utilization=0.1,  # of which vLLM wants that much to be free, whatever it takes
        enable_sleep_mode=device == "cuda",
        enforce_eager=None if precision == "bf16-mixed" else True,  # graphs once: to compile takes most of a minute
    )
    mixed: Any = torch.autocast(device, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    start = time.perf_counter()
    with mixed:  # as a module does: an engine takes the dtype of autocast
        sampler.setup(policy.model, model_path(TINY), max_model_length=LENGTH, stop_token_ids=[])
    seconds = time.perf_counter() - start
    way = "shared" if sampler.shares_weights else "handed over"
    graphs = ", with graphs" if device == "cuda" and sampler.enforce_eager is None else ""
    text = f"engine in {sampler.engine_dtype}, made in {seconds:.1f} s, weights {way}{graphs}"
    yield Found(text, facts={"engine_seconds": seconds, "shares_weights": sampler.shares_weights})

    guard = ParityGuard(sampler, policy, Processes(0, 1), limit=None, model=TINY, precision=precision)

    def compared(when: str, text: str = "", **facts: float) -> Found:
        """Compares engine and policy; a difference hides nothing of what comes then."""
        try:
            with mixed:
                difference = guard.probe(tokenizer, LENGTH, when)
        except RuntimeError as error:
            return Found(str(error), "failed", _PARITY, facts)
        text += f"log-probabilities differ by {difference:.2g} nats a token, at most {guard.limit:g} expected"
        return Found(text, facts=facts | {"difference": difference, "limit": guard.limit})

    yield compared("after the start of the engine")

    scatter(policy)
    start = time.perf_counter()
    sampler.sync_weights()
    seconds = time.perf_counter() - start
    size = sum(p.numel() * p.element_size() for p in policy.parameters())
    yield compared("after a hand-over", f"{1000 * seconds:.1f} ms for {size / 1e6:.1f} MB; ", hand_over_seconds=seconds)

    yield _generation(sampler, tokenizer)

    if device == "cuda":
        before = _free(torch)
        start = time.perf_counter()
        sampler.sleep()
        asleep, slept = _free(torch), time.perf_counter() - start
        start = time.perf_counter()
        sampler.wake()
        sampler.sync_weights()
        woken = time.perf_counter() - start
        came = (asleep - before) / _GIB
        text = f"{came:.2f} GiB came back, {slept:.2f} s to sleep and {woken:.2f} s to wake; "
        found = compared("after sleep", text, came_back_gib=came, sleep_seconds=slept, wake_seconds=woken)
        if came < _CAME_BACK * _CACHE[device] and found.state == "ok":
            expected = f"expected the {_CACHE[device]:g} GiB of its cache"
            remedy = "leave `enable_sleep_mode` at false, and PYTORCH_CUDA_ALLOC_CONF unset; and report this table"
            found = Found(f"{found.text}; {expected}", "failed", remedy, found.facts)
        yield found


def scatter(policy: Any) -> None:
    """Changes a policy's weights in place by half of what they are: an engine without them is nats away."""
    import torch

    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.ndim > 1:
                change = torch.randn(weight.shape, generator=noise) * weight.float().std().cpu() / 2
                weight.add_(change.to(weight))


def _generation(sampler: Any, tokenizer: Any) -> Found:
    from masa_lightning.settings import SamplingSettings
    from masa_lightning.types import SamplingRequest

    ids = list(tokenizer("What is 17 * 24 - 9, and why?").input_ids)
    requests = [SamplingRequest(prompt_ids=ids, max_tokens=_TOKENS, seed=seed) for seed in range(_REQUESTS)]
    sampler.generate(requests[:1], SamplingSettings())
    start = time.perf_counter()
    completions = sampler.generate(requests, SamplingSettings())
    seconds = time.perf_counter() - start
    drawn = [completion for completion in completions if all(map(math.isfinite, completion.logprobs))]
    tokens = sum(len(completion.token_ids) for completion in drawn)
    facts = {"tokens_per_second": tokens / seconds, "tokens": tokens}
    if tokens != _REQUESTS * _TOKENS:
        text = f"{tokens} tokens with finite log-probabilities; expected {_REQUESTS * _TOKENS}"
        return Found(text, "failed", _PARITY, facts)
    return Found(f"{tokens / seconds:,.0f} tokens/s, {_REQUESTS} completions of {_TOKENS} tokens", facts=facts)


def _free(torch: Any) -> float:
    """Bytes of the GPU that nobody has, torch's own reserve given back."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free: int = torch.cuda.mem_get_info()[0]
    return free
