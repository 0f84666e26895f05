"""A tiny random Qwen3 and the two samplers on it.

Rule for vLLM in tests: several engines in one process are fine (a quarter of a second each after the first, which takes
some seconds), but share one where weights do not matter.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import installed_vllm
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, SamplingRequest

LENGTH = 96
STOP = (2, 3)


class Tools:
    """What the tests of this folder share."""

    length = LENGTH
    stop = STOP

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs_on = installed_vllm()
        self.device = self.runs_on or "cpu"
        """Of policies."""

    def needs_cpu(self) -> None:
        """Skips a test of what engines do on CPU alone."""
        if self.runs_on not in ("cpu", None):
            pytest.skip(f"the installed vLLM runs on {self.runs_on or 'no device here'}; tests/gpu is for it")

    def path(self, tied: bool = True) -> str:
        """A folder with a checkpoint, whose generation defaults would spoil any draw that heeded them."""
        path = self.folder / ("tied" if tied else "untied")
        if not path.exists():
            torch.manual_seed(0)
            config = Qwen3Config(
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                vocab_size=250,  # vLLM pads it to 256
                max_position_embeddings=256,
                tie_word_embeddings=tied,
                initializer_range=0.15,
            )
            model = Qwen3ForCausalLM(config)
            model.generation_config.update(top_k=1, repetition_penalty=3.0, do_sample=True)
            model.save_pretrained(path)
        return str(path)

    def policy(self, tied: bool = True) -> PreTrainedModel:
        return Qwen3ForCausalLM.from_pretrained(self.path(tied), dtype=torch.float32).to(self.device)

    def vllm(self, policy: PreTrainedModel, tied: bool = True, **settings: Any) -> Any:
        from masa_lightning.sampling.vllm import VLLMSampler

        if self.runs_on == "":
            pytest.skip("the installed vLLM finds no device that it runs on")
        sampler = VLLMSampler(**{"kv_cache_gib": 0.02, "max_num_seqs": 64} | settings)
        sampler.setup(policy, self.path(tied), max_model_length=LENGTH, stop_token_ids=STOP)
        return sampler

    def transformers(self, policy: PreTrainedModel, batch_size: int = 64) -> TransformersSampler:
        sampler = TransformersSampler(batch_size)
        sampler.setup(policy, "unused", max_model_length=LENGTH, stop_token_ids=STOP)
        return sampler

    @staticmethod
    def requests(count: int = 12, max_tokens: int = 20) -> list[SamplingRequest]:
        """Prompts of lengths 1 to 40, with their own limits and seeds."""
        draw = torch.Generator().manual_seed(7)
        lengths = torch.randint(1, 41, (count,), generator=draw).tolist()
        return [
            SamplingRequest(
                prompt_ids=torch.randint(4, 250, (length,), generator=draw).tolist(),
                max_tokens=max_tokens - i % 3,
                seed=2**62 + 1000 * i,
            )
            for i, length in enumerate(lengths)
        ]

    @staticmethod
    @torch.no_grad()
    def distance(policy: PreTrainedModel, requests: list[SamplingRequest], completions: list[Completion]) -> float:
        """Largest difference of reported log-probabilities and those of a plain forward pass."""
        worst = 0.0
        for request, completion in zip(requests, completions, strict=True):
            ids = torch.tensor([request.prompt_ids + completion.token_ids], device=policy.device)
            logp = policy(ids).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1).cpu()
            expected = logp.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            worst = max(worst, (expected - torch.tensor(completion.logprobs)).abs().max().item())
        return worst

    @staticmethod
    def distribution(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
        """An independent statement of temperature, then min-p, then top-k, then top-p."""
        p = (logits / settings.temperature).softmax(-1)
        p = torch.where(p >= settings.min_p * p.max(), p, 0)
        order = p.argsort(descending=True)
        kept = order[: settings.top_k] if settings.top_k else order
        mass = p[kept] / p[kept].sum()
        kept = kept[mass.cumsum(0) - mass < settings.top_p]
        result = torch.zeros_like(p)
        result[kept] = p[kept]
        return result / result.sum()

    @staticmethod
    def change(policy: PreTrainedModel) -> None:
        """One real training step, large enough to show."""
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.02)
        ids = torch.randint(4, 250, (4, 16), generator=torch.Generator().manual_seed(1)).to(policy.device)
        policy(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return Tools(tmp_path_factory.mktemp("tiny_qwen3"))


@pytest.fixture(scope="session")
def make_sampler(tools: Tools) -> Callable[[str, PreTrainedModel], Any]:
    """`make_sampler(kind, policy)` with kind "vllm" (skipped where it is not installed) or "transformers"."""

    def make(kind: str, policy: PreTrainedModel) -> Any:
        if kind == "vllm":
            pytest.importorskip("vllm")
            return tools.vllm(policy)
        return tools.transformers(policy)

    return make


@pytest.fixture(autouse=True)
def _show_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="masa_lightning")
