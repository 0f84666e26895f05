"""Attention of packed tokens in one call of torch's variable-length kernel, on GPUs that have it, held to plain attention.

The kernel (`torch.nn.attention.varlen`, FlashAttention) takes sequences one after the other without padding and without a
mask. It computes in half precision alone, and cannot be tried without a GPU: so it serves once it has shown, on a few
random sequences, that it computes what plain attention does. Otherwise SDPA serves.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # of a torch without it
    varlen_attn = None  # type: ignore[assignment,unused-ignore]

Span = tuple[int, int, int, int]
"""A sequence: tokens [0] to [1] come before, and are seen; those from [2] to [3] see them and themselves, causally."""

_TRIAL: list[Span] = [
    (0, 0, 0, 5),
    (0, 5, 5, 6),
    (0, 5, 6, 13),
    (0, 5, 13, 143),
    (0, 0, 143, 243),
    (143, 243, 243, 246),
]
_WIDEST = 256  # of a head, in FlashAttention
_MOST_OFF = 0.02  # of the largest value: bfloat16 keeps 8 bits, a key too many or too few changes tenths


class OneCall:
    """Sequences of packed tokens as the kernel takes them.

    Args:
        sequences: Of all tokens, each in the part that attends of one of them.
        device: Where the attention runs.

    Raises:
        ValueError: If a token is in none of them or in several.
    """

    def __init__(self, sequences: Iterable[Span], device: torch.device) -> None:
        ordered = sorted(sequences, key=lambda span: span[2:])
        starts = [0, *(span[3] for span in ordered)]
        if [span[2] for span in ordered] != starts[:-1]:
            raise ValueError(
                f"found sequences that attend {[s[2:] for s in ordered]}; expected each token in one of them"
            )
        keys = [torch.cat([torch.arange(*span[:2]), torch.arange(*span[2:])]) for span in ordered]
        self._keys = torch.cat(keys).to(device)
        self._bounds = [
            torch.tensor(bounds, dtype=torch.int32, device=device)
            for bounds in (starts, [0, *accumulate(map(len, keys))])
        ]
        self._longest = [max(span[3] - span[2] for span in ordered), max(map(len, keys))]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Attends.

        Args:
            q: [N, heads, D].
            k: [N, key-value heads, D].
            v: As `k`.
            scale: Of the scores; None is 1 / sqrt(D).

        Returns:
            [N, heads, D].
        """
        k, v = (F.embedding(self._keys, x.flatten(1)).view(-1, *x.shape[1:]) for x in (k, v))
        grouped = {"enable_gqa": True} if _asks_for_groups() and q.shape[1] != k.shape[1] else {}
        causal = (-1, 0)  # the last query sees the last key
        attend: Any = varlen_attn
        out: Tensor = attend(q, k, v, *self._bounds, *self._longest, scale=scale, window_size=causal, **grouped)
        return out


def serves(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel computes attention of such tensors, and right; tried at the first of each kind.

    Args:
        q: [N, heads, D].
        k: [N, key-value heads, D].
        v: Likewise.
    """
    return (
        varlen_attn is not None
        and has_kernel(q.device, q.dtype)
        and k.shape == v.shape
        and q.shape[-1] == k.shape[-1]
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= _WIDEST
        and _passes(q.device, q.dtype, (q.shape[1], k.shape[1], q.shape[2]))
    )


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has the kernel in a dtype: NVIDIA's from Ampere on, in half precision."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def plain_attention(q: Tensor, k: Tensor, v: Tensor, sequences: Sequence[Span], scale: float | None) -> Tensor:
    """What attention over packed tokens is: the oracle, one sequence at a time, with all scores in memory.

    Args:
        q: [N, heads, D].
        k: [N, key-value heads, D].
        v: Likewise.
        sequences: As of `OneCall`.
        scale: Of the scores; None is 1 / sqrt(D).

    Returns:
        [N, heads, D].
    """
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    out = torch.zeros_like(q)
    for p0, p1, c0, c1 in sequences:
        keys, values = (torch.cat([x[p0:p1], x[c0:c1]]) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[c0:c1], keys) * (q.shape[-1] ** -0.5 if scale is None else scale)
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(p1 - p0 + 1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        out[c0:c1] = torch.einsum("hqk,khd->qhd", weights, values)
    return out


@cache
def _asks_for_groups() -> bool:
    """Whether the kernel wants to be told that several heads share a key; else it sees that by itself."""
    return varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters


@cache
def _passes(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> bool:
    try:
        off = _trial(device, dtype, shape)
    except (RuntimeError, TypeError, ValueError) as error:
        found = f"failed: {error}"
    else:
        if off <= _MOST_OFF:
            return True
        found = f"differs from plain attention by {off:.1%} of the largest value, or gradient; expected {_MOST_OFF:.0%}"
    rank_zero_warn(
        f"torch.nn.attention.varlen of torch {torch.__version__} on {device} in {dtype} with (heads, key-value heads, "
        f"width) = {shape} {found}. Training goes on with SDPA, which pads a little and is slower: please report it"
    )
    return False


def _trial(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> float:
    """Largest difference of outputs and gradients from those of float32 on CPU, as a share of the largest value."""
    heads, shared, width = shape
    draw = torch.Generator().manual_seed(0)
    results = []
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        drawn = [torch.randn(_TRIAL[-1][3], n, width, generator=draw).to(dtype) for n in (heads, shared, shared, heads)]
        for exact in (True, False):
            place, kind = (torch.device("cpu"), torch.float32) if exact else (device, dtype)
            *inputs, slope = (x.to(place, kind) for x in drawn)
            q, k, v = (x.requires_grad_() for x in inputs)
            out = plain_attention(q, k, v, _TRIAL, None) if exact else OneCall(_TRIAL, device)(q, k, v, None)
            results.append([x.detach().float().cpu() for x in (out, *torch.autograd.grad(out, (q, k, v), slope))])
    off = [float((ours - exact).abs().max() / exact.abs().max()) for exact, ours in zip(*results, strict=True)]
    return max(off) if all(x == x for x in off) else float("nan")
