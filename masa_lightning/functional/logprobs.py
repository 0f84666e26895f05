"""Log-probabilities of tokens without a [tokens, vocabulary] matrix in memory.

A matrix of logits of 32k tokens and 150k words takes 20 GB in float32, several times over in the backward pass. Here it
is made a chunk of tokens at a time and made again in the backward pass; what stays is one float a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from masa_lightning.types import AllowedTokens

MAX_CHUNK_ELEMENTS = 2**24
"""Largest default chunk on a CPU, tokens times vocabulary: 64 MiB in float32."""

MAX_CHUNK_ELEMENTS_OF_GPU = 2**27
"""The same on a GPU, which small products leave idle: 512 MiB in float32, up to four times in memory."""


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    allowed: AllowedTokens | None = None,
    dtype: torch.dtype | None = None,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Log-probability of each target token, and the entropy of the distribution it comes from.

    .. math:: z = (W h + b) / \tau, \qquad
        \log p(y) = z_y - \log\sum_v e^{z_v}, \qquad
        H = -\sum_v p_v \log p_v

    The rest than the matrix product runs in float32. Gradients of `weight` are summed over chunks in float32.

    Args:
        hidden: Last hidden states, [N, H].
        weight: Output embedding, [V, H].
        targets: Token ids in [0, V), [N].
        temperature: tau > 0.
        bias: Of the output layer, [V].
        allowed: Tokens that each target was drawn from, itself among them: the others have probability 0, before tau
            counts. By default all.
        dtype: That the matrix product runs in; by default autocast's where it is on, else that of `hidden`.
        chunk_tokens: Tokens whose logits are in memory at once; by default as many as keep them within 2**24 elements on a
            CPU, 2**27 elsewhere.

    Returns:
        Log-probabilities in nats, float32, <= 0, [N], and entropies in nats, float32, in [0, log V], [N]; both
        differentiable in `hidden`, `weight` and `bias`. A gradient of entropies that nobody asks for costs nothing.

    Raises:
        ValueError: If shapes do not fit, `temperature` is not positive or `chunk_tokens` is less than 1.

    Example:
        >>> logp, entropy = token_logprobs(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3]))
        >>> logp, entropy
        (tensor([-1.3863, -1.3863]), tensor([1.3863, 1.3863]))
    """
    _check(hidden, weight, targets, temperature, bias, allowed, chunk_tokens)
    device = hidden.device.type
    chunk = chunk_tokens or _default_chunk(device, len(weight))
    if dtype is None:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    hidden = hidden.to(dtype)
    with torch.autocast(device, enabled=False):
        if len(hidden) <= chunk:
            z = _masked(_logits(hidden, weight, bias, temperature), allowed)
            logp, _, entropy = _reduce(z, targets)
            return logp, entropy
        apply: Callable[..., tuple[Tensor, Tensor]] = _ChunkedLogprobs.apply
        return apply(hidden, weight, targets, temperature, bias, allowed, chunk)


class _ChunkedLogprobs(torch.autograd.Function):
    """Keeps the log-normaliser of each token and makes the logits again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        bias: Tensor | None,
        allowed: AllowedTokens | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        parts = [
            _reduce(_masked(_logits(hidden[rows], cast, bias, temperature), allowed, rows), targets[rows])
            for rows in (slice(start, start + chunk) for start in range(0, len(hidden), chunk))
        ]
        logp, normaliser, entropy = (torch.cat(columns) for columns in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, bias, normaliser)
        ctx.entropy = entropy.detach()  # of no use to autograd, so no saved tensor
        ctx.temperature, ctx.allowed, ctx.chunk = temperature, allowed, chunk
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, bias, normaliser = ctx.saved_tensors
        grad_logp = torch.zeros_like(normaliser) if grad_logp is None else grad_logp
        needs_hidden, needs_weight, _, _, needs_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(hidden.dtype)
            for start in range(0, len(hidden), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                h = hidden[rows]
                grad = _masked(_logits(h, cast, bias, ctx.temperature), ctx.allowed, rows)
                scale = grad_logp[rows, None] / ctx.temperature
                grad = grad.sub_(normaliser[rows, None])
                if grad_entropy is None:
                    grad = grad.exp_().mul_(-scale)  # d logp / d z = onehot - p
                else:
                    entropy_scale = grad_entropy[rows, None] / ctx.temperature
                    slope = _entropy_slope(grad, ctx.entropy[rows]).mul_(entropy_scale)
                    grad = slope.sub_(grad.exp_().mul_(scale))
                grad.scatter_add_(1, targets[rows, None], scale)
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad @ cast
                if grad_weight is not None:
                    grad_weight += grad.T @ h
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


class _Entropy(torch.autograd.Function):
    """Gives entropies that are known already their gradient by logits, which are in memory anyway."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, normaliser: Tensor, entropy: Tensor) -> Tensor:
        ctx.save_for_backward(z, normaliser, entropy)
        return entropy.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z, normaliser, entropy = ctx.saved_tensors
        return _entropy_slope(z - normaliser[:, None], entropy).mul_(grad[:, None]), None, None


def _entropy_slope(logp: Tensor, entropy: Tensor) -> Tensor:
    """D H / d z = -p (log p + H), [N, V], of log-probabilities [N, V] of distributions with entropies [N]."""
    logp = logp.clamp(min=-1e4)  # of an impossible token: 0, and not 0 times infinity
    return logp.exp().neg_().mul_(logp.add_(entropy[:, None]))


def _default_chunk(device: str, vocabulary: int) -> int:
    """Tokens whose logits are in memory at once.

    >>> _default_chunk("cpu", 151_936), _default_chunk("cuda", 151_936)
    (110, 883)
    """
    return max(1, (MAX_CHUNK_ELEMENTS if device == "cpu" else MAX_CHUNK_ELEMENTS_OF_GPU) // vocabulary)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    z = torch.nn.functional.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype))
    return z.float() if temperature == 1.0 else z.float().div_(temperature)


def _masked(z: Tensor, allowed: AllowedTokens | None, rows: slice = slice(None)) -> Tensor:
    """Logits [n, V] of some rows in place, minus infinity where a token was not allowed."""
    if allowed is None:
        return z
    masks = allowed.rows[allowed.index[rows]]
    bits = 1 << torch.arange(8, dtype=torch.uint8, device=masks.device)
    return z.masked_fill_(((masks[..., None] & bits) == 0).flatten(1)[:, : z.shape[1]], -torch.inf)


def _reduce(z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the targets, log-normaliser and entropy, each [N], of logits [N, V]."""
    with torch.no_grad():  # every pass over the logits counts: one exponential, no logarithm, serves both
        largest = z.amax(1)
        below = (z - largest[:, None]).clamp_(min=-1e4)  # finite, where a token is impossible too
        e = below.exp()
        total = e.sum(1)
        normaliser = total.log() + largest
        entropy = total.log() - torch.linalg.vecdot(e, below) / total
    if z.requires_grad:
        entropy = _Entropy.apply(z, normaliser, entropy)  # type: ignore[no-untyped-call]
        normaliser = z.logsumexp(1)
    return z.gather(1, targets[:, None])[:, 0] - normaliser, normaliser, entropy


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    bias: Tensor | None,
    allowed: AllowedTokens | None,
    chunk_tokens: int | None,
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)} and weight {tuple(weight.shape)}; expected [N, H] and [V, H]"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets has shape {tuple(targets.shape)}; expected ({len(hidden)},), one a hidden state")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; expected ({len(weight)},)")
    if allowed is not None and (allowed.index.shape != targets.shape or 8 * allowed.rows.shape[1] < len(weight)):
        raise ValueError(
            f"allowed has an index of shape {tuple(allowed.index.shape)} and rows of {8 * allowed.rows.shape[1]} bits; "
            f"expected ({len(hidden)},), one a hidden state, and at least {len(weight)}, one a token"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected > 0: take 1.0 for greedily drawn tokens")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; expected >= 1, or None to choose it")
