"""The update without an engine: the head's numbers and memory, a GRPO step in each precision, and a fit.

Nothing here needs vLLM, datasets or the command line.
"""

import copy
import math
from functools import partial

import pytest
import torch
import zoo
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from masa_lightning.data.arithmetic import ArithmeticDataModule
from masa_lightning.functional.logprobs import token_logprobs
from masa_lightning.models import tiny
from masa_lightning.models.policy import Policy
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.optimization import AdamW, Optimization
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import Algorithm
from masa_lightning.types import Completion, Rollout
from masa_lightning.update.experience import micro_batches
from masa_lightning.update.learner import Learner
from masa_lightning.update.policy_update import PolicyUpdate

VOCABULARY = 151_936  # of Qwen3
PRECISIONS = ["32-true", "bf16-mixed", "bf16-true"]


def head(count: int, hidden: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator(device).manual_seed(0)
    x = torch.randn(count, hidden, generator=draw, device=device).to(dtype)
    weight = (torch.randn(VOCABULARY, hidden, generator=draw, device=device) * hidden**-0.5).to(dtype)
    targets = torch.randint(0, VOCABULARY, (count,), generator=draw, device=device)
    return x.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_log_probabilities_over_a_large_vocabulary_are_those_of_float64(device, show, dtype, temperature):
    """In chunks; of what the dtype holds, so that only the arithmetic may differ."""
    on_gpu = device.type == "cuda"
    x, weight, targets = head(500 if on_gpu else 24, 1024 if on_gpu else 32, device, dtype)
    slope = torch.randn(len(x), generator=torch.Generator().manual_seed(1)).to(device)
    logp, entropy = token_logprobs(x, weight, targets, temperature=temperature, chunk_tokens=len(x) // 3)
    got = torch.autograd.grad((logp * slope).sum(), (x, weight))
    a, b = (t.detach().double().requires_grad_() for t in (x, weight))
    everything = (a @ b.T / temperature).log_softmax(-1)
    expected = everything.gather(1, targets[:, None])[:, 0]
    uncertainty = -(everything.exp() * everything).sum(1)
    wanted = torch.autograd.grad((expected * slope).sum(), (a, b))
    off = float((logp - expected).detach().abs().max())
    vague = float((entropy - uncertainty).detach().abs().max())
    slants = [float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True)]
    show(
        f"{dtype}, temperature {temperature}: off by {off:.1e}, entropy {vague:.1e}, "
        f"gradients {slants[0]:.1e}, {slants[1]:.1e}"
    )
    assert logp.dtype == entropy.dtype == torch.float32
    # bfloat16 rounds a logit, of at most about 5, to 8 bits; its gradients to 8 bits each.
    limits = (3e-5, 1e-5, 2e-5) if dtype is torch.float32 else (0.04 / temperature, 5e-3 / temperature, 1e-2)
    assert off < limits[0]
    assert vague < limits[1]
    assert max(slants) < limits[2]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_memory_of_the_head_is_not_that_of_all_logits(peak, show, dtype):
    """16,384 tokens: a matrix of logits would take 9.3 GiB in float32, and several are alive in a plain backward pass."""
    cuda = torch.device("cuda")

    def step(count: int) -> int:
        x, weight, targets = head(count, 1024, cuda, dtype)
        return peak(lambda: token_logprobs(x, weight, targets)[0].sum().backward())

    step(64)  # cuBLAS takes its workspace
    most, half = step(16_384), step(8_192)
    matrix = 16_384 * VOCABULARY * 4
    gradients = VOCABULARY * 1024 * (4 + 4)  # added up in float32, and in the weight's dtype
    show(f"{dtype}: {most / 2**30:.2f} GiB, half as many tokens {half / 2**30:.2f}; all logits {matrix / 2**30:.1f}")
    assert most - half < 2**28  # what grows with tokens is their hidden states, not their logits
    assert most < gradients + matrix // 3


# -- a GRPO step on scripted rollouts --------------------------------------------------------------------------------------


def scripted(count: int = 4, size: int = 4) -> list[Rollout]:
    """Groups that share a prompt, with advantages, and log-probabilities of a sampler that is a little off."""
    draw = torch.Generator().manual_seed(5)
    rollouts = []
    for group in range(count):
        prompt = torch.randint(4, 250, (5 + 20 * group,), generator=draw).tolist()
        for i in range(size):
            length = int(torch.randint(1, 120, (1,), generator=draw))
            ids = torch.randint(4, 250, (length,), generator=draw).tolist()
            logps = (-5.5 + 0.2 * torch.randn(length, generator=draw)).tolist()
            rollouts.append(
                Rollout(
                    kind="meta" if group == count - 1 else "solution",
                    prompt_ids=prompt,
                    completion=Completion(token_ids=ids, logprobs=logps, finish_reason="stop"),
                    text="",
                    advantage=(-1.0) ** i * (1 + i / 4),
                )
            )
    return rollouts


def model() -> Policy:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=250,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        initializer_range=0.05,
        tie_word_embeddings=True,
    )
    return Policy(Qwen3ForCausalLM(config).eval())


def gradient(policy: Policy, device: torch.device, precision: str, budget: int) -> tuple[float, dict[str, Tensor]]:
    """Loss, and gradients in float32 on the CPU, of one optimiser step of GRPO with a KL term."""
    reference = copy.deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(1.05)
    rollouts = scripted()
    update = PolicyUpdate(
        policy=policy,
        reference=reference,
        algorithm=Algorithm(kl_coef=0.1),
        kind_weights=(1.0, 0.5),
        temperature=0.9,
        norm_length=120,
        idle=micro_batches(rollouts[:1], 1, device)[0].tokens,
    )
    total = 0.0
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        for batch in micro_batches(rollouts, budget, device):
            update.annotate(batch, old=True)
            loss, stats = update.loss(batch, update.denominators(rollouts))
            assert all(bool(x.isfinite().all()) for x in stats.values())
            loss.backward()
            total += loss.item()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in policy.parameters())
    return total, {name: p.grad.float().cpu() for name, p in policy.named_parameters()}


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients.values()])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_grpo_step_is_that_of_float32_on_the_cpu(device, show, precision):
    policy = model()
    loss, expected = gradient(copy.deepcopy(policy), torch.device("cpu"), "32-true", 10_000)
    policy.to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=1e-2
    )  # or bfloat16 rounds away what becomes of a norm's weight of 1
    whole, slope = gradient(policy, device, precision, 10_000)
    policy.zero_grad()
    parts, again = gradient(policy, device, precision, 150)
    want = flat(expected)
    slants = [float((flat(g) - want).norm() / want.norm()) for g in (slope, again)]
    show(
        f"{precision}: loss {whole:.6f} in one micro-batch, {parts:.6f} in many, {loss:.6f} on CPU; "
        f"gradients off by {slants[0]:.1e}, {slants[1]:.1e}"
    )
    close, limit = (1e-5, 2e-5) if precision == "32-true" else (2e-2, 5e-2)
    assert whole == pytest.approx(loss, abs=close)
    assert parts == pytest.approx(loss, abs=close)
    assert max(slants) < limit
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    norm = Learner(max_grad_norm=1.0, max_skipped_steps=0).step(optimizer, policy.parameters())
    assert norm == pytest.approx(float(want.norm()), rel=2 * limit)
    moved = [float((p.detach() - before[name]).abs().max()) for name, p in policy.named_parameters()]
    assert all(0 < m < 0.02 for m in moved)  # about the rate


# -- a whole fit, drawn by transformers ---------------------------------------------------------------------------------


class Places(Callback):
    """Notes where the policy is while it is trained: Lightning moves it to the CPU in the end."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.found |= {p.device.type for p in module.policy.parameters()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_three_steps_without_an_engine(device, show, loop, precision):
    """Sampler and policy agree in every step, after each of which the weights are others."""
    module = GRPOLightningModule(
        model="tiny",
        sampler=TransformersSampler(),
        prompts=tiny.PROMPTS,
        num_generations=4,
        max_prompt_length=64,
        max_completion_length=24,
        reward_functions=[zoo.Oddness()],
        optimization=Optimization(optimizer=partial(AdamW, lr=1e-3)),
        dtype="bfloat16" if precision == "bf16-true" else "float32",
        seed=0,
    )
    recorder, places = loop.Recorder(), Places()
    trainer: Trainer = loop.trainer(
        recorder,
        places,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_steps=3,
        limit_val_batches=0,
    )
    trainer.fit(module, ArithmeticDataModule(batch_size=4, train_size=12))
    assert module.run_state.rollout_steps == 3
    assert places.found == {device.type}
    found = [m["sampling/sampling_logp_difference/mean"] for m in recorder.metrics]
    norms = [m["grad_norm"] for m in recorder.metrics]
    show(f"{precision}: log-probabilities differ by {', '.join(f'{x:.1e}' for x in found)}; gradients {norms}")
    assert len(found) == 3
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)
    assert max(found) < (1e-3 if precision == "32-true" else 0.05)


@pytest.mark.parametrize(("place", "fused"), [("cpu", None), ("cuda", True)])
def test_adamw_is_fused_on_a_gpu(place, fused):
    """Tensors without memory: no GPU is needed to make an optimiser of them."""
    with FakeTensorMode():
        optimizer = AdamW([torch.nn.Parameter(torch.empty(2, device=place))])
    assert optimizer.defaults["fused"] is fused


@pytest.mark.gpu
def test_float16_is_refused(loop):
    """On CPU: tests/modules/test_precision.py."""
    module = loop.module(GRPOLightningModule)
    trainer = loop.trainer(accelerator="gpu", devices=1, precision="16-mixed", max_steps=1, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"precision is '16-mixed'; expected one of .*'bf16-mixed' on a GPU"):
        trainer.fit(module, loop.Problems(2))
