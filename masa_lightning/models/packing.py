"""Completions behind their prompts in one row without padding, where a prompt that several share is computed once.

The rollouts of a group have one prompt. Laid out as ``prompt, completion, completion, ...`` with positions that start
anew after the prompt, and with attention that lets a completion see its prompt and itself alone, their log-probabilities
and gradients are those of separate rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from masa_lightning.checks import brings_code
from masa_lightning.models.varlen import OneCall, Span, serves
from masa_lightning.types import PackedTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "masa_packed"
"""Name of the attention in transformers' registry."""

_MAX_BATCHED = 2**20  # queries times keys above which a sequence has a call of its own, without a mask
_MAX_MASK = 2**22  # elements of a mask


def pack(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> PackedTokens:
    """Packs completions behind their prompts.

    Args:
        rows: (prompt ids, completion ids), neither of them empty. Neighbours with equal prompts share one.

    Raises:
        ValueError: If there is no row, or a prompt or completion is empty.
    """
    if not rows or not all(prompt and completion for prompt, completion in rows):
        raise ValueError("found no rows, or a row with an empty prompt or completion; expected tokens in all of them")
    input_ids: list[int] = []
    position_ids: list[int] = []
    spans: list[Span] = []
    before: Sequence[int] | None = None
    first = 0
    for prompt, completion in rows:
        if before is None or list(prompt) != list(before):
            first, before = len(input_ids), prompt
            input_ids += prompt
            position_ids += range(len(prompt))
        start = len(input_ids)
        input_ids += completion[:-1]  # the last token predicts nothing
        position_ids += range(len(prompt), len(prompt) + len(completion) - 1)
        spans.append((first, first + len(prompt), start, len(input_ids)))
    lengths = torch.tensor([len(completion) for _, completion in rows])
    return PackedTokens(
        input_ids=torch.tensor(input_ids),
        position_ids=torch.tensor(position_ids),
        spans=spans,
        targets=torch.tensor([token for _, completion in rows for token in completion]),
        mask=torch.arange(int(lengths.max()))[None] < lengths[:, None],
    )


def split(
    rows: Iterable[tuple[Sequence[int], Sequence[int]]], max_tokens: int, *, share_prompts: bool
) -> list[list[int]]:
    """Splits rows into micro-batches of at most `max_tokens` tokens each, or of one row.

    Args:
        rows: (prompt ids, completion ids).
        max_tokens: Budget, >= 1.
        share_prompts: Whether they will be packed; else they will be padded, and padding counts.

    Returns:
        Indices into `rows` of each micro-batch, for `pack`: rows with equal prompts next to each other, and those that
        will be padded sorted by length, longest first.
    """
    sizes = [(tuple(prompt), len(completion)) for prompt, completion in rows]
    batches: list[list[int]] = []
    used = 0
    if share_prompts:
        place: dict[tuple[int, ...], int] = {}
        for prompt, _ in sizes:
            place.setdefault(prompt, len(place))
        before: tuple[int, ...] | None = None
        for i in sorted(range(len(sizes)), key=lambda i: place[sizes[i][0]]):
            prompt, length = sizes[i]
            more = length if prompt == before and batches else len(prompt) + length
            if not batches or used + more > max_tokens:
                batches.append([])
                used, more = 0, len(prompt) + length
            batches[-1].append(i)
            used += more
            before = prompt
        return batches
    lengths = [len(prompt) + length for prompt, length in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > max_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


def padded(tokens: PackedTokens) -> tuple[Tensor, Tensor]:
    """Undoes the packing: one right-padded row a completion.

    Returns:
        ``input_ids`` [B, S], without the last token of each row; and the indices [K] into the flattened [B * S] of the
        tokens that predict `targets`.
    """
    index = [[*range(p0, p1), *range(c0, c1)] for p0, p1, c0, c1 in tokens.spans]
    width = max(map(len, index))
    device = tokens.input_ids.device
    ids = tokens.input_ids[torch.tensor([row + [0] * (width - len(row)) for row in index], device=device)]
    predicts = [
        width * b + i for b, (p0, p1, c0, c1) in enumerate(tokens.spans) for i in range(p1 - p0 - 1, p1 - p0 + c1 - c0)
    ]
    return ids, torch.tensor(predicts, device=device)


def predicting(tokens: PackedTokens) -> Tensor:
    """Indices [K] into `input_ids` of the tokens that predict `targets`."""
    index = [i for _, p1, c0, c1 in tokens.spans for i in (p1 - 1, *range(c0, c1))]
    return torch.tensor(index, device=tokens.input_ids.device)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Picks rows of x [N, W], some of them several times, so that on a CPU the gradient is the same in every run.

    Indexing adds up the gradients of a row in an order that depends on what else the machine does; this is also faster.
    """
    return F.embedding(index, x)


def body(model: PreTrainedModel) -> Any:
    """A causal language model without its output layer."""
    inner = model.base_model
    return inner if inner is not model else getattr(model, "model", model)  # Llama 4 calls it otherwise than it says


def takes_packed(model: PreTrainedModel) -> bool:
    """Whether a model's layers are nothing but plain causal attention, which can be told what is packed.

    Sliding windows, recurrent layers, attention sinks and soft caps are not, nor is a model whose attention is its own.
    What a configuration does not say, a pass up to the first attention shows: some models do not hand the plan on to it.
    Code that came with a checkpoint may do anything behind it.
    """
    return not brings_code(model) and _looks_plain(model) and _hands_plan_on(model)


def _looks_plain(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and bool(getattr(model, "_supports_sdpa", False))
        and not getattr(model, "_is_stateful", False)
        and not model.config.is_encoder_decoder
        and set(layers) == {"full_attention"}
        and (window is None or getattr(config, "layer_types", None) is not None)
        and getattr(config, "attn_logit_softcapping", None) is None
        and not any(name.endswith("sinks") for name, _ in model.named_parameters())
    )


class _PlanArrivedError(Exception):
    """Not an error: ends the pass of `_hands_plan_on`."""


class _PlanLostError(RuntimeError):
    """Packed tokens came without the plan that says what is packed."""


class _Probe:
    """Stands for an `AttentionPlan` where it is asked whether one would arrive."""

    def __call__(self, *_: Any) -> Tensor:
        raise _PlanArrivedError


def packed_arguments(position_ids: Tensor, plan: AttentionPlan | _Probe) -> dict[str, Any]:
    """What a model is called with beside the token ids, for packed attention.

    Args:
        position_ids: Of `PackedTokens`, [N].
        plan: Of the same tokens.
    """
    return {
        "position_ids": position_ids[None],
        # The plan says all that a mask would; a mask of four dimensions is one that transformers leaves alone.
        "attention_mask": torch.empty(1, 1, 0, 0, device=position_ids.device),
        "attention_plan": plan,
    }


def _hands_plan_on(model: PreTrainedModel) -> bool:
    """Whether the plan arrives in the first attention; costs the layers before it, on two tokens."""
    before = model.config._attn_implementation
    use_packed_attention(model)
    tokens = torch.zeros(2, dtype=torch.long, device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            body(model)(input_ids=tokens[None], use_cache=False, **packed_arguments(tokens, _Probe()))
    except _PlanArrivedError:
        return True
    except Exception:  # it is not handed on, or stands in the way; padding always serves
        pass
    finally:
        model.set_attn_implementation(before)
    return False


def use_packed_attention(model: PreTrainedModel) -> None:
    """Gives a model an attention that takes an `AttentionPlan`, and is transformers' SDPA without one."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        plan: AttentionPlan | _Probe | None = kwargs.pop("attention_plan", None)
        if plan is None and attention_mask is not None and not attention_mask.numel():
            raise _PlanLostError(
                f"{type(module).__name__} got packed tokens without the plan that says what is packed; expected its model "
                "to hand it on to all layers: please report it"
            )
        if plan is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        strange = [
            name for name in ("softcap", "s_aux", "position_bias", "sliding_window") if kwargs.get(name) is not None
        ]
        if strange:
            raise NotImplementedError(
                f"{type(module).__name__} asks for attention with {', '.join(strange)}, which packed attention lacks; this "
                "model should not have been taken for one with plain attention: please report it"
            )
        return plan(query, key, value, kwargs.get("scaling")), None

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


class AttentionPlan:
    """How attention over packed tokens is carried out: on GPUs in one call (`models.varlen`), else in a few of SDPA.

    A sequence is a prompt, which sees itself, or a completion, which sees its prompt and itself.

    Args:
        spans: Of `PackedTokens`.
        device: Where the attention runs.
    """

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        self._device = device
        self._sequences = {(0, 0, p0, p1) for p0, p1, _, _ in spans} | {span for span in spans if span[3] > span[2]}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Attends.

        Args:
            query: [1, heads, N, D].
            key: [1, key-value heads, N, D].
            value: As `key`.
            scale: Of the scores; None is 1 / sqrt(D).

        Returns:
            [1, N, heads, D], as transformers' attention functions return it.
        """
        # Under autocast queries and keys come in float32, behind norms and rotations, and values in half precision.
        q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [N, heads, D]
        attend = self._in_one_call if serves(q, k, v) else self._in_several
        return attend(q, k, v, scale)[None]

    @cached_property
    def _in_one_call(self) -> OneCall:
        return OneCall(self._sequences, self._device)

    @cached_property
    def _in_several(self) -> _Calls:
        return _Calls(self._sequences, self._device)


class _Calls:
    """Calls of SDPA, each over sequences of like size, padded to the longest of them; nothing else ever is."""

    def __init__(self, sequences: Iterable[Span], device: torch.device) -> None:
        calls = [_Call(call) for call in _alike(sequences)]
        tokens = torch.cat([call.queries.flatten() for call in calls])  # of each output row; padding repeats some
        rows = torch.cat([call.real.flatten() for call in calls]).nonzero()[:, 0]
        place = torch.empty(len(rows), dtype=torch.long)
        place[tokens[rows]] = rows
        self._place = place.to(device)  # of each token, its row among the outputs of all calls
        self._calls = [call.to(device) for call in calls]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Attends; [N, heads, D] each, as the output."""
        return torch.cat([call(q, k, v, scale) for call in self._calls]).index_select(0, self._place)


class _Call:
    """One call of SDPA over sequences that are padded on the right."""

    def __init__(self, spans: Sequence[Span]) -> None:
        p0, p1, c0, c1 = torch.tensor(spans)[:, :, None].unbind(1)  # [B, 1] each
        before, length = p1 - p0, c1 - c0
        q, k = torch.arange(int(length.max())), torch.arange(int((before + length).max()))
        self.real = q < length  # [B, Q]
        present = k < before + length  # [B, K]
        self.queries = c0 + q * self.real
        self.keys = torch.where(k < before, p0 + k, c0 + (k - before) * present)
        self.causal = len(spans) == 1 and len(q) == len(k)
        self.bias: Tensor | None = None
        if len(spans) > 1:
            # A query that is padding sees some key too: a softmax over nothing is NaN, in the gradient as well.
            seen = (k <= q[:, None] + before[:, :, None]) & present[:, None]
            self.bias = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None]
        elif not self.causal:
            self.bias = causal_lower_right(len(q), len(k))

    def to(self, device: torch.device) -> _Call:
        """Moves what the attention needs to a device, in place."""
        self.queries, self.keys = self.queries.to(device), self.keys.to(device)
        if type(self.bias) is Tensor:
            self.bias = self.bias.to(device)
        return self

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Attends; [N, heads, D] each, and as many rows of output as queries, padding included."""
        q = _take(q, self.queries)
        k, v = _take(k, self.keys), _take(v, self.keys)
        bias = self.bias
        grouped = q.shape[1] != k.shape[1]
        if grouped and bias is not None and q.device.type != "cpu":  # CUDA has no fast kernel for both
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
            grouped = False
        if bias is not None and type(bias) is Tensor:
            self.bias = bias = bias.to(q.dtype)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=self.causal, scale=scale, enable_gqa=grouped
        )
        return out.transpose(1, 2).flatten(0, 1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """[N, heads, D], [B, L] -> [B, heads, L, D]."""
    return take_rows(x.flatten(1), index).view(*index.shape, *x.shape[1:]).transpose(1, 2)


def _queries(span: Span) -> int:
    return span[3] - span[2]


def _keys(span: Span) -> int:
    return span[1] - span[0] + span[3] - span[2]


def _area(span: Span) -> int:
    return _queries(span) * _keys(span)


def _alike(sequences: Iterable[Span]) -> list[list[Span]]:
    """Sorts sequences into calls, largest first, in each of which at least half is real."""
    calls: list[list[Span]] = []
    queries = keys = real = 0  # of the last call: the most of each, and its real area
    for span in sorted(sequences, key=lambda s: (_area(s), s), reverse=True):
        queries, keys, real = max(queries, _queries(span)), max(keys, _keys(span)), real + _area(span)
        if (
            calls
            and _area(calls[-1][0]) <= _MAX_BATCHED
            and (len(calls[-1]) + 1) * queries * keys <= min(2 * real, _MAX_MASK)
        ):
            calls[-1].append(span)
        else:
            calls.append([span])
            queries, keys, real = _queries(span), _keys(span), _area(span)
    return calls
