"""Tokens a second, printed and not judged: the sampler beside vLLM's own loop, on one engine."""

import time
from dataclasses import replace

import pytest
import torch
from engines import Pair, large

from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest

COUNT, LENGTH, PROMPT = 256, 120, 60


@pytest.mark.gpu
def test_tokens_a_second(show, tmp_path):
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.platforms import current_platform

    from masa_lightning.sampling.vllm.isolation import apart_from_training

    if not current_platform.is_cuda():
        pytest.skip("the installed vLLM does not run on CUDA")
    cuda = torch.device("cuda", 0)
    path, model = large(tmp_path, cuda, layers=12)
    pair = Pair(path, cuda, "bfloat16", model=model, kv_cache_gib=8.0, enforce_eager=False)
    try:
        draw = torch.Generator().manual_seed(0)
        prompts = torch.randint(3, 100_000, (COUNT, PROMPT), generator=draw).tolist()
        requests = [SamplingRequest(prompt_ids=p, max_tokens=LENGTH, seed=i) for i, p in enumerate(prompts)]
        params = [
            vllm.SamplingParams(seed=i, max_tokens=LENGTH, ignore_eos=True, detokenize=False) for i in range(COUNT)
        ]

        def ours(logprobs: bool) -> int:
            asked = [replace(r, logprobs=logprobs) for r in requests]
            return sum(len(c.token_ids) for c in pair.generate(asked, SamplingSettings()))

        def bare() -> int:
            llm = pair.sampler.llm
            with apart_from_training():
                outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
            return sum(len(output.outputs[0].token_ids) for output in outputs)

        speeds = {"ours": [], "ours without log-probabilities": [], "vLLM's own loop": []}
        for _ in range(3):  # in turns; the first warms up
            for name, call in zip(speeds, (lambda: ours(True), lambda: ours(False), bare), strict=True):
                pair.sampler.sync_weights()  # forgets cached prompts
                torch.cuda.synchronize()
                start = time.perf_counter()
                tokens = call()
                torch.cuda.synchronize()
                speeds[name].append(tokens / (time.perf_counter() - start))
                assert tokens > COUNT
        for name, values in speeds.items():
            show(
                f"{name}: {', '.join(f'{v:,.0f}' for v in values[1:])} tokens/s ({COUNT} x {LENGTH} tokens, 12 layers)"
            )
        found = pair.differences(requests[:32], pair.generate(requests[:32]))
        show(f"log-probabilities differ by {found.mean():.1e} in the mean")
        assert found.mean() < 0.1
    finally:
        pair.close()
