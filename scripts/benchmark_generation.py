"""Generation in training and in `masa test` against bare vLLM, for scripts/benchmark.py."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_run import Run, stop_at
from benchmark_table import Row, rate, rounds, row


class BareEngine:
    """vLLM with the engine settings of a module's sampler, by itself, on the module's weights.

    Args:
        module: Whose sampler has its engine.
        out: Folder to write the weights to.
    """

    def __init__(self, module: Any, out: str) -> None:
        from vllm import LLM

        sampler = module.sampler
        config = sampler.llm.llm_engine.vllm_config
        policy = Path(out) / "model"
        if not (policy / "config.json").exists():
            module.policy.model.save_pretrained(policy)
        os.environ |= {
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }  # in this process, as ours is
        self.stop = list(module.stops.token_ids)
        self.llm = LLM(
            model=str(policy),
            skip_tokenizer_init=True,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=sampler.max_num_seqs,
            enforce_eager=True,
            distributed_executor_backend="uni",
            enable_chunked_prefill=False,  # with it vLLM on CPU fails on requests with a seed
            max_num_batched_tokens=8192,
            kv_cache_memory_bytes=config.cache_config.kv_cache_memory_bytes,
            disable_log_stats=True,
            generation_config="vllm",
        )

    def generate(self, requests: list[Any], settings: Any, *, seeded: bool, stop: bool = True) -> int:
        """Draws completions in one call of `LLM.generate`, with seeds and log-probabilities or without; their tokens."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        self.llm.reset_prefix_cache()
        parameters = [
            SamplingParams(
                temperature=settings.temperature,
                max_tokens=r.max_tokens,
                stop_token_ids=self.stop if stop else [],
                ignore_eos=True,
                detokenize=False,
                seed=r.seed if seeded else None,
                logprobs=0 if seeded else None,
            )
            for r in requests
        ]
        prompts = [TokensPrompt(prompt_token_ids=r.prompt_ids) for r in requests]
        return sum(len(o.outputs[0].token_ids) for o in self.llm.generate(prompts, parameters, use_tqdm=False))


def generation(args: argparse.Namespace) -> list[Row]:
    """`VLLMSampler.generate` against bare `LLM.generate`, natural lengths and all at the limit, in tokens a second."""
    import torch

    from masa_lightning.settings import SamplingSettings

    run = Run(args, steps=1)
    module, sampler = run.module, run.module.sampler
    requests = run.requests
    settings = module.sampling
    del run.cli
    bare = BareEngine(module, args.out)

    def plain(at_limit: bool, seeded: bool) -> int:
        return bare.generate(requests, settings, seeded=seeded, stop=not at_limit)

    def ours(at_limit: bool) -> int:
        stop_at(module, () if at_limit else module.stops.token_ids)
        drawn = sampler.generate(requests, SamplingSettings(temperature=settings.temperature))
        return sum(len(c.token_ids) for c in drawn)

    rows = []
    for at_limit, name in ((False, "natural lengths"), (True, "all at the limit")):
        for seeded, against in ((False, "bare LLM.generate"), (True, "the same with seeds and log-probabilities")):
            pairs = rounds(args, lambda at=at_limit: rate(ours, at), lambda at=at_limit, s=seeded: rate(plain, at, s))
            rows.append(row(f"generation, {name}", "tokens/s", pairs, against, goal=">= 0.95"))
    rows.append({"what": "threads of torch", "value": torch.get_num_threads()})
    return rows


def evaluation(args: argparse.Namespace) -> list[Row]:
    """Generation in a test, batch by batch, and the whole test, against one bare `LLM.generate` of all its prompts."""
    from masa_lightning import BenchmarkReport

    run = Run(args, steps=1)
    module, trainer, data = run.module, run.cli.trainer, run.cli.datamodule
    requests: list[Any] = []
    seconds = {"generate": 0.0}
    generate = module.sampler.generate

    def watched(asked: Any, *more: Any) -> Any:
        requests.extend(asked)
        begin = time.perf_counter()
        try:
            return generate(asked, *more)
        finally:
            seconds["generate"] += time.perf_counter() - begin

    module.sampler.generate = watched
    bare = BareEngine(module, args.out)
    report = BenchmarkReport()
    trainer.callbacks.append(report)
    whole: list[tuple[float, float]] = []

    def ours() -> float:
        requests.clear()
        seconds["generate"] = 0.0
        with tempfile.TemporaryDirectory() as folder:
            report.dirpath = folder
            begin = time.perf_counter()
            trainer.test(module, datamodule=data, verbose=False)
            all_seconds = time.perf_counter() - begin
        tokens = sum(float(trainer.callback_metrics[f"test/tokens/{kind}"]) for kind in ("solution", "meta"))
        whole.append((tokens / all_seconds, 0.0))
        return tokens / seconds["generate"]

    def theirs(seeded: bool) -> float:
        speed = rate(lambda: bare.generate(requests, module.evaluation_sampling, seeded=seeded))
        whole[-1] = (whole[-1][0], speed)
        return speed

    rows = []
    for seeded, against in ((False, "bare LLM.generate"), (True, "the same with seeds and log-probabilities")):
        whole.clear()
        pairs = rounds(args, ours, lambda s=seeded: theirs(s))
        rows.append(row("masa test, generation", "tokens/s", pairs, against, goal=">= 0.95"))
        rows.append(row("masa test, all of it", "tokens/s", whole[1:], against, goal=""))
    rows.append({"what": "masa test: requests, problems a batch", "value": [len(requests), data.val_batch_size]})
    return rows
