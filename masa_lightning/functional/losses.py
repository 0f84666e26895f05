r"""Losses of the policy update: clipped surrogates, KL penalties, importance weights and the SFT loss.

Every loss is a sum over the tokens that count, divided by a denominator. The denominator of a batch is the sum of
`loss_denominator` over its micro-batches and processes; with it, the losses of micro-batches add up to the loss of the
whole batch. Where gradients are averaged over W processes (DDP, FSDP), pass the global denominator divided by W.

Positions with a False mask may hold anything, NaN and infinity included: nothing of it reaches a loss or a gradient.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

LossType = Literal["ppo_clip", "gspo", "cispo", "sapo"]
Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
KLKind = Literal["k1", "k2", "k3", "k3+"]

LOG_RATIO_BOUND = 20.0
"""Log ratios are held within +-20, as in verl, so that no exponential overflows."""

K3_BOUND = 10.0
"""The k3 estimate of a token's KL is at most that, as in verl: one token cannot take over the loss."""


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    loss_type: LossType = "ppo_clip",
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.28,
    dual_clip: float | None = 10.0,
    sapo_temperatures: tuple[float, float] = (1.0, 1.05),
    aggregation: Aggregation = "token-mean",
    weights: Tensor | None = None,
    denominator: float | Tensor | None = None,
    norm_length: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Surrogate loss of one (micro-)batch of completions.

    With the ratio :math:`\rho_t = \exp(\log\pi_t - \log\pi^{old}_t)`, its clipped twin :math:`\bar\rho_t` in
    [1 - clip_low, 1 + clip_high] and sg the stop-gradient, the loss of token t is

    .. math::

        \text{ppo\_clip:}\quad & \max(-A\rho_t, -A\bar\rho_t), \text{ and at most } -A\,c \text{ where } A < 0
            \text{ (dual clip } c) \\
        \text{gspo:}\quad & \text{the same with } s_t = sg(s) \exp(\log\pi_t - sg(\log\pi_t)) \text{ for } \rho_t,
            \quad s = \exp\bigl(\tfrac{1}{|o|}\textstyle\sum_t \log\rho_t\bigr) \\
        \text{cispo:}\quad & -sg(\bar\rho_t)\,A \log\pi_t \\
        \text{sapo:}\quad & -A\,\tfrac{4}{\tau}\,\sigma(\tau(\rho_t - 1)), \quad \tau \text{ by the sign of } A
            \text{ (arXiv 2511.20347)}

    `aggregation` then reduces the tokens: "token-mean" over all tokens (DAPO), "seq-mean-token-mean" over the tokens of
    each sequence, then over sequences (GRPO, GSPO), "seq-mean-token-sum" sums over the tokens of each sequence, and
    "seq-mean-token-sum-norm" divides that by a constant length (Dr.GRPO). Sequences without tokens do not count.

    Args:
        logp: Log-probabilities under the policy, in nats, [B, T].
        old_logp: Log-probabilities under the policy before this batch's first update, [B, T].
        advantages: Advantage of each token, [B, T] or [B, 1].
        mask: True at completion tokens, [B, T].
        loss_type: The surrogate.
        clip_low: The ratio is clipped below at 1 - clip_low, in [0, 1]. Unused by "sapo", which clips nothing.
        clip_high: The ratio is clipped above at 1 + clip_high, >= 0. Unused by "sapo".
        dual_clip: Bound c > 1 on the ratio where the advantage is negative; None is off. Unused by "cispo" and "sapo".
        sapo_temperatures: :math:`\tau` > 0 of "sapo", for advantages >= 0 and for those below.
        aggregation: How tokens become one number.
        weights: Detached factors on each token's loss, such as `importance_weights`, [B, T]; they are not part of
            the denominator.
        denominator: Replaces this batch's own `loss_denominator`; sum that over micro-batches first.
        norm_length: Length of "seq-mean-token-sum-norm"; default T. T depends on the padding, so micro-batches need it.

    Returns:
        The loss (a float32 scalar with a graph; 0 for an empty mask) and statistics, all detached float32 scalars. They
        are sums over the tokens of the mask, to be added up over micro-batches and processes and divided by ``tokens``:
        ``tokens`` (count), ``clip_low`` and ``clip_high`` (count of tokens whose ratio was clipped from below or from
        above; with "gspo" each token of a clipped sequence counts), ``dual_clip`` (count), ``approx_kl_sum`` (k3
        estimate of KL(old || policy)); and ``ratio_max``, to be reduced by maximum (0 without tokens).

    Raises:
        ValueError: If shapes differ or a setting is out of range.

    Example:
        >>> old_logp = torch.log(torch.tensor([[0.5, 0.5, 0.5]]))
        >>> logp = torch.log(torch.tensor([[0.5, 0.75, 0.1]]))
        >>> loss, stats = policy_loss(logp, old_logp, torch.ones(1, 3), torch.tensor([[True, True, False]]))
        >>> loss, stats["clip_high"]
        (tensor(-1.1400), tensor(1.))
    """
    if loss_type not in get_args(LossType):
        raise ValueError(f"loss_type is {loss_type!r}; expected one of {get_args(LossType)}")
    if loss_type == "sapo":
        clip_low, clip_high, dual_clip = 1.0, float("inf"), None
        if not min(sapo_temperatures) > 0:
            raise ValueError(f"sapo_temperatures are {sapo_temperatures}; expected two > 0")
    if clip_low is None or clip_high is None:
        raise ValueError(f"clip_low is {clip_low} and clip_high {clip_high}; expected numbers for {loss_type!r}")
    _check_settings(clip_low, clip_high, dual_clip)
    _check_shapes(logp, old_logp=old_logp, mask=mask, weights=weights)
    if advantages.shape not in (logp.shape, (logp.shape[0], 1)):
        raise ValueError(f"advantages has shape {tuple(advantages.shape)}; expected that of logp, {tuple(logp.shape)}")
    mask = mask.bool()
    logp, old_logp = _kept(logp, mask), _kept(old_logp, mask)
    advantages = _kept(advantages.expand_as(logp), mask)

    log_ratio = logp - old_logp
    if loss_type == "gspo":
        mean = log_ratio.detach().sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        log_ratio = mean + (logp - logp.detach())
    ratio = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)

    if loss_type == "cispo":
        losses = -clipped_ratio.detach() * advantages * logp
        low, high = ratio < 1 - clip_low, ratio > 1 + clip_high
        dual = torch.zeros_like(mask)
    elif loss_type == "sapo":
        positive, negative = map(logp.new_tensor, sapo_temperatures)
        temperature = torch.where(advantages < 0, negative, positive)
        losses = -advantages * torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature
        low = high = dual = torch.zeros_like(mask)
    else:
        plain, clipped = -advantages * ratio, -advantages * clipped_ratio
        losses = torch.maximum(plain, clipped)
        low = (ratio < 1 - clip_low) & (advantages < 0)
        high = (ratio > 1 + clip_high) & (advantages > 0)
        dual = torch.zeros_like(mask)
        if dual_clip is not None:
            dual = (ratio > dual_clip) & (advantages < 0)
            losses = torch.where(dual, -advantages * dual_clip, losses)

    if weights is not None:
        losses = losses * _kept(weights.detach(), mask)
    loss = aggregate_loss(losses, mask, aggregation, denominator=denominator, norm_length=norm_length)

    with torch.no_grad():
        ratio = torch.where(mask, ratio.detach(), 0.0)
        stats = {
            "tokens": mask.sum().float(),
            "clip_low": (low & mask).sum().float(),
            "clip_high": (high & mask).sum().float(),
            "dual_clip": (dual & mask).sum().float(),
            "approx_kl_sum": _k3(_log_ratio(old_logp.detach(), logp.detach())).sum(),  # no loss, so without a bound
            "ratio_max": ratio.max() if ratio.numel() else ratio.new_zeros(()),
        }
    return loss, stats


def loss_denominator(mask: Tensor, aggregation: Aggregation, norm_length: int | None = None) -> Tensor:
    """Counts what the loss of a (micro-)batch is divided by.

    The count of a batch is the sum of the counts of its micro-batches, over all processes.

    Args:
        mask: True at completion tokens, [B, T].
        aggregation: "token-mean" counts tokens, "seq-mean-..." sequences with at least one token, and
            "seq-mean-token-sum-norm" these times `norm_length`.
        norm_length: Default T. Give it when micro-batches are padded to different lengths.

    Returns:
        The count, a float64 scalar >= 0.

    Raises:
        ValueError: If `aggregation` is not known.

    Example:
        >>> mask = torch.tensor([[True, True, False], [False, False, False]])
        >>> loss_denominator(mask, "token-mean").item(), loss_denominator(mask, "seq-mean-token-sum").item()
        (2.0, 1.0)
    """
    mask = mask.bool()
    if aggregation == "token-mean":
        return mask.sum().double()
    sequences = mask.any(1).sum().double()
    if aggregation in ("seq-mean-token-sum", "seq-mean-token-mean"):
        return sequences
    if aggregation == "seq-mean-token-sum-norm":
        return sequences * (mask.shape[1] if norm_length is None else norm_length)
    raise ValueError(f"aggregation is {aggregation!r}; expected one of {get_args(Aggregation)}")


def aggregate_loss(
    losses: Tensor,
    mask: Tensor,
    aggregation: Aggregation,
    *,
    denominator: float | Tensor | None = None,
    norm_length: int | None = None,
) -> Tensor:
    """Reduces losses of tokens to one number; a KL penalty beside `policy_loss` is reduced by it too.

    Args:
        losses: Loss of each token, [B, T]. Masked values are ignored, but mask what they were computed from.
        mask: True at completion tokens, [B, T].
        aggregation: As for `policy_loss`.
        denominator: Replaces this batch's own `loss_denominator`.
        norm_length: As for `loss_denominator`.

    Returns:
        A scalar; 0, with a graph, for an empty mask.

    Example:
        >>> losses = torch.tensor([[1.0, 3.0], [5.0, 0.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> aggregate_loss(losses, mask, "token-mean"), aggregate_loss(losses, mask, "seq-mean-token-mean")
        (tensor(3.), tensor(3.5000))
    """
    mask = mask.bool()
    count = loss_denominator(mask, aggregation, norm_length) if denominator is None else denominator
    losses = torch.where(mask, losses, 0.0)
    if aggregation == "seq-mean-token-mean":
        losses = losses / mask.sum(1, keepdim=True).clamp(min=1)
    return losses.sum() / _divisor(count, losses)


def kl_penalty(logp: Tensor, ref_logp: Tensor, kind: KLKind = "k3", mask: Tensor | None = None) -> Tensor:
    r"""Estimates KL(policy || reference) at each token, from tokens drawn from the policy.

    With :math:`d = \log\pi^{ref} - \log\pi`, for "k3" held within +-20,

    .. math:: k_1 = -d, \qquad k_2 = \tfrac12 d^2, \qquad k_3 = \min(e^d - d - 1, 10)

    As estimators, "k1" and "k3" (but for its bound) are unbiased. The means of their gradients, at the policy that drew the
    tokens, are other things; a loss takes `kl_loss`:

    * "k1": 0, for :math:`E[\nabla\log\pi] = 0`
    * "k2": the gradient of KL(policy || reference), the reverse KL
    * "k3": the gradient of KL(reference || policy), the forward KL

    Args:
        logp: Log-probabilities under the policy, in nats, any shape.
        ref_logp: Log-probabilities under the reference, the same shape.
        kind: The estimator (http://joschu.net/blog/kl-approx.html); "k2" and "k3" are >= 0. "k3+" is one of `kl_loss`.
        mask: Where given, masked positions are 0 and their values reach neither the result nor the gradient.

    Returns:
        Estimates in float32 (float64 for float64), elementwise.

    Raises:
        ValueError: If shapes differ or `kind` is not known.

    Example:
        >>> kl_penalty(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0]))
        tensor([0.3679, 0.0000])
    """
    _check_shapes(logp, ref_logp=ref_logp, mask=mask)
    if mask is not None:
        logp, ref_logp = _kept(logp, mask.bool()), _kept(ref_logp, mask.bool())
    if kind == "k3":
        return _k3(_log_ratio(logp, ref_logp)).clamp(max=K3_BOUND)
    d = _at_least_float32(ref_logp) - _at_least_float32(logp)
    if kind == "k1":
        return -d
    if kind == "k2":
        return 0.5 * d.square()
    raise ValueError(f"kind is {kind!r}; expected one of {get_args(KLKind)}")


def kl_loss(logp: Tensor, ref_logp: Tensor, kind: KLKind = "k3", mask: Tensor | None = None) -> Tensor:
    r"""The KL term of a loss at each token: the values of `kl_penalty`, with a gradient that means something.

    .. math:: k_1: \quad k_2 + sg(k_1 - k_2) \qquad\qquad k_3{+}: \quad k_2 + sg(k_3 - k_2) \qquad\qquad
        k_2, k_3: \quad \text{as they are}

    So "k1" and "k3+" are unbiased estimates (but for the bound of k3) with the gradient of "k2", that of
    KL(policy || reference): verl's straight-through "k1+" and "k3+". "k3" has the gradient of KL(reference || policy).

    Args:
        logp: As for `kl_penalty`, like all others.
        ref_logp: Log-probabilities under the reference.
        kind: The estimator.
        mask: Positions that count.

    Returns:
        Estimates in float32 (float64 for float64), elementwise.

    Raises:
        ValueError: As `kl_penalty`.

    Example:
        >>> logp = torch.tensor([-1.0], requires_grad=True)
        >>> kl = kl_loss(logp, torch.tensor([-1.5]), "k1")
        >>> kl.detach(), torch.autograd.grad(kl.sum(), logp)[0]
        (tensor([0.5000]), tensor([0.5000]))
    """
    values = kl_penalty(logp, ref_logp, "k3" if kind == "k3+" else kind, mask)
    if kind not in ("k1", "k3+"):
        return values
    slope = kl_penalty(logp, ref_logp, "k2", mask)
    return values.detach() + (slope - slope.detach())


def importance_weights(
    old_logp: Tensor,
    sampler_logp: Tensor,
    mask: Tensor,
    *,
    mode: Correction = "token_truncate",
    clip_max: float = 2.0,
    clip_min: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Importance sampling, bounded: corrects for the sampler's probabilities differing from the trainer's.

    .. math:: \rho_t = e^{d_t} \quad\text{or, by sequence,}\quad \rho_t = e^{\sum_u d_u}, \qquad
        d_t = \log\pi^{old}_t - \log\pi^{sampler}_t

    "..._truncate" holds :math:`\rho` within the bounds (truncated importance sampling), "..._mask" makes it 0 beyond them:
    such a token, or such a sequence, trains nothing.

    Args:
        old_logp: The trainer's log-probabilities when the batch came in, in nats, [B, T].
        sampler_logp: The sampler's, [B, T].
        mask: True at completion tokens, [B, T].
        mode: One weight a token, or one a sequence (from the sum over its tokens), and what happens beyond the bounds.
        clip_max: Upper bound, > 0.
        clip_min: Lower bound in [0, clip_max]; None is none.

    Returns:
        Weights, detached, [B, T], in [0, clip_max], 0 where masked; and statistics over the tokens of the mask, detached
        scalars: sums ``tokens`` (count), ``ratio_sum`` (of the weights), ``clipped`` (count of tokens beyond a bound)
        and ``logp_difference_sum`` (of ``|d|``); maxima ``ratio_max`` (before the bounds) and ``logp_difference_max``; and
        the minimum ``ratio_min`` (infinity without tokens).

    Raises:
        ValueError: If shapes differ, a bound is out of range or `mode` is not known.

    Example:
        >>> old, sampler = torch.log(torch.tensor([[0.6, 0.9]])), torch.log(torch.tensor([[0.5, 0.3]]))
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> importance_weights(old, sampler, mask)[0], importance_weights(old, sampler, mask, mode="token_mask")[0]
        (tensor([[1.2000, 2.0000]]), tensor([[1.2000, 0.0000]]))
    """
    _check_shapes(old_logp, sampler_logp=sampler_logp, mask=mask)
    if not clip_max > 0:
        raise ValueError(f"clip_max is {clip_max}; expected > 0")
    if clip_min is not None and not 0 <= clip_min <= clip_max:
        raise ValueError(f"clip_min is {clip_min}; expected a value in [0, clip_max = {clip_max}], or None")
    if mode not in get_args(Correction):
        raise ValueError(f"mode is {mode!r}; expected one of {get_args(Correction)}")
    with torch.no_grad():
        mask = mask.bool()
        difference = _kept(old_logp, mask) - _kept(sampler_logp, mask)
        by_token = mode in ("token_truncate", "token_mask")
        exponent = difference if by_token else difference.sum(1, keepdim=True).expand_as(difference)
        ratio = exponent.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
        bounded = ratio.clamp(0.0 if clip_min is None else clip_min, clip_max)
        beyond = mask & (bounded != ratio)
        weights = torch.where(mask, bounded, 0.0)
        if mode in ("token_mask", "sequence_mask"):
            weights = torch.where(beyond, 0.0, weights)
        size, some = difference.abs(), mask.numel() > 0
        zero = size.new_zeros(())
        stats = {
            "tokens": mask.sum().float(),
            "ratio_sum": weights.sum(),
            "ratio_min": torch.where(mask, ratio, torch.inf).min() if some else zero + torch.inf,
            "ratio_max": torch.where(mask, ratio, 0.0).max() if some else zero,
            "clipped": beyond.sum().float(),
            "logp_difference_sum": size.sum(),
            "logp_difference_max": size.max() if some else zero,
        }
    return weights, stats


def off_policy_mask(logp: Tensor, sampler_logp: Tensor, advantages: Tensor, mask: Tensor, threshold: float) -> Tensor:
    r"""Finds the sequences to learn from: not those that failed and have become unlikely since they were drawn.

    .. math:: M = 0 \quad\text{where}\quad A < 0 \ \text{ and } \ \tfrac{1}{|o|} \sum_t (\log\pi^{sampler}_t - \log\pi_t)
        > \delta

    That is DeepSeek-V3.2's off-policy sequence mask (arXiv 2512.02556), TRL's ``off_policy_mask_threshold``.

    Args:
        logp: Log-probabilities under the policy as it is now, in nats, [B, T].
        sampler_logp: Those with which the tokens were drawn, [B, T].
        advantages: Advantage of each sequence, [B, 1].
        mask: True at completion tokens, [B, T].
        threshold: :math:`\delta`, nats a token, >= 0.

    Returns:
        True at the sequences that count, bool [B, 1]. Multiplied into the weights of `policy_loss`, it leaves the
        denominator as it is.

    Raises:
        ValueError: If shapes differ, or the threshold is negative.

    Example:
        >>> logp, drawn = torch.tensor([[-3.0, -3.0], [-3.0, -3.0]]), torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
        >>> mask = torch.ones(2, 2, dtype=torch.bool)
        >>> off_policy_mask(logp, drawn, torch.tensor([[1.0], [-1.0]]), mask, threshold=1.0)
        tensor([[ True],
                [False]])
    """
    _check_shapes(logp, sampler_logp=sampler_logp, mask=mask)
    if advantages.shape != (logp.shape[0], 1):
        raise ValueError(f"advantages has shape {tuple(advantages.shape)}; expected ({logp.shape[0]}, 1)")
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}; expected >= 0")
    with torch.no_grad():
        mask = mask.bool()
        away = (_kept(sampler_logp, mask) - _kept(logp, mask)).sum(1, keepdim=True)
        return ~((advantages < 0) & (away > threshold * mask.sum(1, keepdim=True)))


def sft_loss(logp: Tensor, mask: Tensor, denominator: float | Tensor | None = None) -> Tensor:
    r"""Mean negative log-likelihood of the target tokens.

    .. math:: L = -\frac{1}{D} \sum_{b,t} m_{b,t} \log\pi_{b,t}

    Args:
        logp: Log-probabilities of the tokens, in nats, any shape.
        mask: True at target tokens (False at the prompt and at padding), the same shape.
        denominator: D; default the number of target tokens. Give the batch's count to add up micro-batches.

    Returns:
        A scalar; 0, with a graph, for an empty mask.

    Raises:
        ValueError: If shapes differ.

    Example:
        >>> sft_loss(torch.tensor([[-9.0, -1.0, -2.0]]), torch.tensor([[False, True, True]]))
        tensor(1.5000)
    """
    _check_shapes(logp, mask=mask)
    kept = _kept(logp, mask.bool())
    return -kept.sum() / _divisor(mask.sum() if denominator is None else denominator, kept)


def _log_ratio(logp: Tensor, other: Tensor) -> Tensor:
    return (_at_least_float32(other) - _at_least_float32(logp)).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def _k3(d: Tensor) -> Tensor:
    return torch.expm1(d) - d


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, _at_least_float32(x), 0.0)


def _divisor(count: float | Tensor, like: Tensor) -> Tensor:
    count = torch.as_tensor(count, dtype=like.dtype, device=like.device)
    return torch.where(count > 0, count, 1.0)


def _check_shapes(logp: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.shape != logp.shape:
            raise ValueError(f"{name} has shape {tuple(other.shape)}; expected that of logp, {tuple(logp.shape)}")


def _check_settings(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low is {clip_low}; expected a value in [0, 1]")
    if not clip_high >= 0:
        raise ValueError(f"clip_high is {clip_high}; expected >= 0")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; expected > 1, or None to turn it off")
