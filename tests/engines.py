"""A policy and its vLLM engine on any device, for the stages of tests/gpu: small models of the zoo."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import zoo
from torch import Tensor
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA, add_adapters
from masa_lightning.models.policy import Policy
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, Rollout, SamplingRequest
from masa_lightning.update.experience import make_experience

LENGTH = 200
GREEDY = SamplingSettings(temperature=0.0)

# Nats a token, in the mean, between engine and policy. On CPU 1e-6 and 0.013 were seen, on an H200 0.001 (vLLM's attention
# multiplies float32 in TensorFloat32) and 0.017.
LIMITS = {("cpu", "float32"): 1e-4, ("cuda", "float32"): 3e-3, ("cpu", "bfloat16"): 0.03, ("cuda", "bfloat16"): 0.03}


class Pair:
    """A policy and a sampler that draws from it.

    Args:
        path: A checkpoint of the zoo, or a folder with a configuration.
        device: Of both.
        dtype: Of the policy's weights, and of the engine.
        lora: Gives the policy adapters that do something.
        model: The policy where `path` has no weights.
        **settings: Of the sampler.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        dtype: str = "float32",
        *,
        lora: bool = False,
        model: PreTrainedModel | None = None,
        **settings: Any,
    ) -> None:
        from masa_lightning.sampling.vllm import VLLMSampler

        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # vLLM asks for free memory, of which earlier tests may have left little
        self.device, self.dtype = device, dtype
        model = loading.load_model(str(path), dtype) if model is None else model
        if lora:
            add_adapters(model, LoRA(rank=4), 0)
        self.policy = Policy(model).to(device)
        if lora:
            self._shake()
        self.limit = LIMITS[device.type, dtype]
        """Most that log-probabilities may differ by, in the mean."""
        self.vocabulary = model.config.vocab_size
        self.sampler = VLLMSampler(**{"kv_cache_gib": 0.1, "max_num_seqs": 128, "enforce_eager": True} | settings)
        self.sampler.setup(self.policy.model, str(path), max_model_length=LENGTH, stop_token_ids=[2])

    def close(self) -> None:
        """Drops the engine."""
        self.sampler.close()

    def requests(self, count: int = 24, max_tokens: int = 40, seed: int = 7) -> list[SamplingRequest]:
        """Prompts of lengths 1 to 120, so that some are longer than a block of the cache."""
        draw = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 121, (count,), generator=draw).tolist()
        return [
            SamplingRequest(
                prompt_ids=torch.randint(3, self.vocabulary, (length,), generator=draw).tolist(),
                max_tokens=max_tokens - i % 3,
                seed=2**40 + 1000 * i,
            )
            for i, length in enumerate(lengths)
        ]

    def generate(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings = SamplingSettings()
    ) -> list[Completion]:
        """Draws."""
        return self.sampler.generate(requests, settings)

    @torch.no_grad()
    def differences(self, requests: Sequence[SamplingRequest], completions: Sequence[Completion]) -> Tensor:
        """|log p of the policy - log p of the engine| of each token drawn, as the update computes it."""
        batch = make_experience(
            [
                Rollout(kind="solution", prompt_ids=request.prompt_ids, completion=completion, text="")
                for request, completion in zip(requests, completions, strict=True)
            ],
            self.device,
        )
        logp, _ = self.policy(batch.tokens)
        found: Tensor = (logp - batch.sampler_logp).abs()[batch.tokens.mask].cpu()
        assert bool(found.isfinite().all())
        return found

    @torch.no_grad()
    def gaps(self, requests: Sequence[SamplingRequest], completions: Sequence[Completion]) -> Tensor:
        """By how much a likelier token exceeds each of those that were drawn, in nats."""
        found = []
        for request, completion in zip(requests, completions, strict=True):
            ids = torch.tensor([request.prompt_ids + completion.token_ids], device=self.device)
            logp = self.policy.model(ids).logits[0, len(request.prompt_ids) - 1 : -1].float().log_softmax(-1)
            found.append(logp.max(-1).values - logp.gather(1, ids[0, len(request.prompt_ids) :, None])[:, 0])
        return torch.cat(found).cpu()

    def change(self, rate: float = 0.02) -> None:
        """One training step, large enough to show."""
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate)
        ids = torch.randint(3, self.vocabulary, (4, 24), generator=torch.Generator().manual_seed(1)).to(self.device)
        with torch.enable_grad():
            self.policy.model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _shake(self) -> None:
        draw = torch.Generator().manual_seed(3)
        for p in self.policy.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=draw).to(p))


def make_checkpoint(folder: Path, name: str) -> Path:
    """A model of the zoo, once."""
    path = folder / name
    if not path.exists():
        zoo.save(name, path)
    return path


def large(folder: Path, device: torch.device, layers: int) -> tuple[Path, PreTrainedModel]:
    """A random model as wide as Qwen3-0.6B, in bfloat16, made on the device; its folder has a configuration alone."""
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        dtype="bfloat16",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    with device:
        model = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    return folder, model
