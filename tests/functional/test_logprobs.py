"""Chunked log-probabilities against log_softmax."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from masa_lightning.functional import logprobs
from masa_lightning.functional.logprobs import token_logprobs
from masa_lightning.types import AllowedTokens


def inputs(n: int = 11, h: int = 8, v: int = 23, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(n)
    return {
        "hidden": torch.randn(n, h, generator=g).to(dtype),
        "weight": torch.randn(v, h, generator=g).to(dtype),
        "targets": torch.randint(v, (n,), generator=g),
        "bias": torch.randn(v, generator=g).to(dtype),
    }


def plain(x: dict[str, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    logits = x["hidden"] @ x["weight"].T + x.get("bias", 0)
    logp = (logits.float() / temperature).log_softmax(-1)
    return logp[torch.arange(len(logp)), x["targets"]], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk", [None, 1, 4, 11, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_log_softmax(chunk: int | None, temperature: float, with_bias: bool) -> None:
    x = inputs()
    if not with_bias:
        del x["bias"]
    leaves = {k: v.requires_grad_() for k, v in x.items() if k != "targets"}
    slope = torch.randn(11, generator=torch.Generator().manual_seed(5))

    expected, expected_entropy = plain(x, temperature)
    expected_grads = torch.autograd.grad((expected * slope).sum(), list(leaves.values()))
    actual, entropy = token_logprobs(**x, temperature=temperature, chunk_tokens=chunk)
    grads = torch.autograd.grad((actual * slope).sum(), list(leaves.values()))

    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-6, rtol=1e-6)
    for name, a, b in zip(leaves, grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("chunk", [None, 1, 4, 11])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_logp", [True, False])
def test_entropies_have_a_gradient(chunk: int | None, temperature: float, with_logp: bool) -> None:
    x = inputs()
    leaves = [v.requires_grad_() for k, v in x.items() if k != "targets"]
    g = torch.Generator().manual_seed(5)
    slope, other = torch.randn(11, generator=g), torch.randn(11, generator=g) * with_logp
    expected, expected_entropy = plain(x, temperature)
    expected_grads = torch.autograd.grad((expected_entropy * slope + expected * other).sum(), leaves)
    logp, entropy = token_logprobs(**x, temperature=temperature, chunk_tokens=chunk)
    loss = (entropy * slope).sum() + ((logp * other).sum() if with_logp else 0)
    for a, b in zip(torch.autograd.grad(loss, leaves), expected_grads, strict=True):
        torch.testing.assert_close(a, b, atol=3e-6, rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1])
def test_entropies_beside_impossible_tokens_have_a_finite_gradient(chunk: int | None) -> None:
    weight = torch.tensor([[0.0], [0.5], [-1e30]])  # the last token has probability 0
    hidden = torch.tensor([[1.0], [2.0]], requires_grad=True)
    _, entropy = token_logprobs(hidden, weight, torch.tensor([0, 1]), chunk_tokens=chunk)
    (got,) = torch.autograd.grad(entropy.sum(), hidden)
    p = torch.sigmoid(
        0.5 * hidden.detach()
    )  # of the second; dH/dx = -0.5 p (1 - p) log(p / (1 - p)) = -0.25 x p (1 - p)
    torch.testing.assert_close(got, -0.25 * hidden.detach() * p * (1 - p))


@pytest.mark.parametrize("needed", ["hidden", "weight", "bias"])
def test_only_what_needs_a_gradient_gets_one(needed: str) -> None:
    x = inputs()
    x[needed].requires_grad_()
    token_logprobs(**x, chunk_tokens=3)[0].sum().backward()
    expected = torch.autograd.grad(plain(x, 1.0)[0].sum(), x[needed])[0]
    torch.testing.assert_close(x[needed].grad, expected, atol=2e-6, rtol=1e-6)
    assert all(v.grad is None for k, v in x.items() if k != needed)


@pytest.mark.parametrize("chunk", [None, 4])
def test_no_tokens_keep_a_graph(chunk: int | None) -> None:
    x = inputs(n=0)
    hidden, weight = x["hidden"].requires_grad_(), x["weight"].requires_grad_()
    logp, entropy = token_logprobs(hidden, weight, x["targets"], chunk_tokens=chunk)
    assert logp.shape == entropy.shape == (0,)
    logp.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert hidden.grad.shape == (0, 8)


@pytest.mark.parametrize("chunk", [2, 3])
def test_bfloat16(chunk: int) -> None:
    x = inputs(n=9, dtype=torch.bfloat16)
    hidden, weight = x["hidden"].requires_grad_(), x["weight"].requires_grad_()
    logp, entropy = token_logprobs(**x, chunk_tokens=chunk)
    assert logp.dtype == entropy.dtype == torch.float32
    logp.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    exact = {k: v if k == "targets" else v.detach().double().requires_grad_() for k, v in x.items()}
    expected, _ = plain(exact, 1.0)
    expected.sum().backward()
    torch.testing.assert_close(logp, expected.float(), atol=0.05, rtol=0.02)
    torch.testing.assert_close(weight.grad.double(), exact["weight"].grad, atol=0.1, rtol=0.02)
    torch.testing.assert_close(hidden.grad.double(), exact["hidden"].grad, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("chunk", [None, 2])
def test_the_product_runs_in_the_dtype_of_autocast_or_the_one_asked_for(chunk: int | None) -> None:
    x = inputs()
    hidden, weight = x["hidden"].requires_grad_(), x["weight"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = token_logprobs(**x, chunk_tokens=chunk)
        asked, _ = token_logprobs(**x, chunk_tokens=chunk, dtype=torch.float32)
    rounded = {k: v if k == "targets" else v.bfloat16() for k, v in x.items()}
    torch.testing.assert_close(mixed, token_logprobs(**rounded, chunk_tokens=chunk)[0], atol=0, rtol=0)
    expected, _ = plain(x, 1.0)
    torch.testing.assert_close(asked, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mixed, expected, atol=0.1, rtol=0.02)
    assert float((mixed - expected).detach().abs().max()) > 1e-3
    gradients = torch.autograd.grad(mixed.sum(), (hidden, weight))
    assert [g.dtype for g in gradients] == [torch.float32] * 2
    for got, exact in zip(gradients, torch.autograd.grad(expected.sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(got, exact, atol=0.1, rtol=0.02)


def test_weight_gradient_does_not_round_a_chunk_at_a_time() -> None:
    """Adding 600 equal gradients in bfloat16 would stop growing at 256 of them."""
    n = 600
    hidden, targets = torch.ones(n, 1, dtype=torch.bfloat16), torch.zeros(n, dtype=torch.long)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    token_logprobs(hidden, weight, targets, chunk_tokens=1)[0].sum().backward()
    assert weight.grad.flatten().tolist() == [n / 2, -n / 2]


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = logprobs._logits

    def spy(hidden: Tensor, *args: object) -> Tensor:
        seen.append(len(hidden))
        return original(hidden, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(logprobs, "_logits", spy)
    monkeypatch.setattr(logprobs, "MAX_CHUNK_ELEMENTS", 23 * 4)
    x = inputs()
    x["hidden"].requires_grad_()
    logp, _ = token_logprobs(**x)
    assert seen == [4, 4, 3]
    logp.sum().backward()
    assert seen == [4, 4, 3] * 2  # made again
    seen.clear()
    with torch.no_grad():
        logp, _ = token_logprobs(**x)
    assert seen == [4, 4, 3]
    assert not logp.requires_grad


def test_impossible_tokens_have_no_entropy() -> None:
    bias = torch.tensor([0.0, 0.0, -math.inf])
    logp, entropy = token_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0]), bias=bias)
    torch.testing.assert_close((logp.item(), entropy.item()), (-math.log(2), math.log(2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(23, 7)}, r"\[N, H\] and \[V, H\]"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, "targets has shape"),
        ({"bias": torch.zeros(3)}, "bias has shape"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_logprobs(**{**inputs(), **changes})


@pytest.mark.parametrize("chunk", [None, 1, 4, 11])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [True, False])
def test_tokens_that_were_not_allowed_have_no_probability(
    chunk: int | None, temperature: float, with_bias: bool
) -> None:
    """Values and gradients, entropies' too, against autograd through a masked matrix of all logits."""
    x = inputs(v=43)
    if not with_bias:
        del x["bias"]
    leaves = [v.requires_grad_() for k, v in x.items() if k != "targets"]
    g = torch.Generator().manual_seed(5)
    slope, other = torch.randn(11, generator=g), torch.randn(11, generator=g)
    masks = torch.rand(4, 64, generator=g) < 0.3
    masks[0], masks[1] = True, False  # anything; and the target alone
    index = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 2, 3, 1])
    x["targets"][[1, 6, 10]] = 7
    masks[1, 7] = True
    for row in (2, 3):
        masks[row, x["targets"][index == row]] = True
    rows = (masks.view(4, 8, 8) * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)
    allowed = AllowedTokens(rows=rows, index=index)

    logits = (x["hidden"] @ x["weight"].T + x.get("bias", 0)).masked_fill(~masks[index][:, :43], -math.inf)
    logp = (logits / temperature).log_softmax(-1)
    expected = logp[torch.arange(11), x["targets"]]
    expected_entropy = torch.special.entr(logp.exp()).sum(-1)
    expected_grads = torch.autograd.grad((expected * slope).sum(), leaves, retain_graph=True)
    safe = logp.clamp(min=-1e4)
    entropy_grads = torch.autograd.grad(-(safe.exp() * safe * other[:, None]).sum(), leaves)
    actual, entropy = token_logprobs(**x, allowed=allowed, temperature=temperature, chunk_tokens=chunk)
    grads = torch.autograd.grad((actual * slope).sum() + (entropy * other).sum(), leaves)

    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-6, rtol=1e-6)
    for a, b, c in zip(grads, expected_grads, entropy_grads, strict=True):
        torch.testing.assert_close(a, b + c, atol=5e-6, rtol=1e-5)
    assert actual[[1, 6, 10]].tolist() == [0, 0, 0]
    alone = torch.autograd.grad(token_logprobs(**x, allowed=allowed)[0][[1, 6, 10]].sum(), leaves)
    assert all(not grad.any() for grad in alone)


def test_masks_that_do_not_fit_are_refused() -> None:
    x = inputs()
    rows, index = torch.full((1, 4), 255, dtype=torch.uint8), torch.zeros(11, dtype=torch.long)
    token_logprobs(**x, allowed=AllowedTokens(rows=rows, index=index))
    with pytest.raises(ValueError, match=r"index of shape \(10,\) and rows of 32 bits; expected \(11,\)"):
        token_logprobs(**x, allowed=AllowedTokens(rows=rows, index=index[1:]))
    with pytest.raises(ValueError, match=r"rows of 16 bits; expected \(11,\), .* at least 23"):
        token_logprobs(**x, allowed=AllowedTokens(rows=rows[:, :2], index=index))
