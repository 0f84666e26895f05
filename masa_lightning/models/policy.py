"""The policy as the update sees it: token ids in, log-probabilities of the completion tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from masa_lightning.checks import brings_code
from masa_lightning.functional.logprobs import token_logprobs
from masa_lightning.models.packing import (
    AttentionPlan,
    body,
    packed_arguments,
    padded,
    predicting,
    take_rows,
    takes_packed,
    use_packed_attention,
)
from masa_lightning.types import PackedTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Settings of model families whose logits are not lm_head(hidden) alone, with the values that change nothing.
_LOGIT_CHANGES = {
    **dict.fromkeys(("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"), (None,)),
    **dict.fromkeys(("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"), (None, 1)),
    "logits_mup_width_multiplier": (None, 1),
}


class Policy(nn.Module):
    """A causal language model whose forward gives log-probabilities, never a [tokens, vocabulary] matrix.

    Args:
        model: A transformers causal language model.
        float32_head: Whether the output layer computes in float32 whatever the rest does, under autocast too.

    Raises:
        ValueError: If the model changes its logits behind the output embedding, which `forward` would miss.
    """

    def __init__(self, model: PreTrainedModel, *, float32_head: bool = False) -> None:
        super().__init__()
        config = model.config.get_text_config()
        for name, harmless in _LOGIT_CHANGES.items():
            if getattr(config, name, None) not in harmless:
                raise ValueError(
                    f"the model's configuration sets {name}={getattr(config, name)}, which is not supported: its logits "
                    "are not those of the output embedding alone. Choose a model without it"
                )
        if brings_code(model):
            _check_logits(model)
        self.model = model
        self.head_dtype = torch.float32 if float32_head else None
        """That the output layer computes in; None is autocast's, or that of the hidden states."""
        self.packs = takes_packed(model)
        """Whether `forward` computes packed tokens as they are; else it pads them."""
        if self.packs:
            use_packed_attention(model)

    def forward(self, tokens: PackedTokens, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Computes log-probabilities of completion tokens.

        Args:
            tokens: B completions behind their prompts, on the model's device. Where they were drawn from some tokens alone
                (`PackedTokens.allowed`), all is of the distribution over these.
            temperature: The softmax temperature that the tokens were drawn with, > 0.

        Returns:
            Log-probabilities and entropies in nats, both with a graph, float32 [B, T], 0 where masked.
        """
        if self.packs:
            plan = AttentionPlan(tokens.spans, tokens.mask.device)
            hidden = self._hidden(tokens.input_ids[None], **packed_arguments(tokens.position_ids, plan))
            index = predicting(tokens)
        else:  # right-padded, so causal attention never sees padding and needs no mask
            input_ids, index = padded(tokens)
            hidden = self._hidden(input_ids)
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        logp, entropy = token_logprobs(
            take_rows(hidden, index),
            head.weight,
            tokens.targets,
            temperature=temperature,
            bias=getattr(head, "bias", None),
            allowed=tokens.allowed,
            dtype=self.head_dtype,
        )
        empty = torch.zeros(tokens.mask.shape, dtype=logp.dtype, device=logp.device)
        return empty.masked_scatter(tokens.mask, logp), empty.masked_scatter(tokens.mask, entropy)

    def _hidden(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        """Last hidden states, [rows * columns, H]."""
        output = body(self.model)(input_ids=input_ids, use_cache=False, **kwargs)
        hidden: Tensor = output.last_hidden_state
        return hidden.flatten(0, 1)


@torch.no_grad()
def _check_logits(model: PreTrainedModel) -> None:
    """Compares, for code that came with a checkpoint, the logits with those of the output embedding alone."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    found = "it has no output embedding"
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is not None:
        logits = model(input_ids=ids, use_cache=False).logits
        own = head(body(model)(input_ids=ids, use_cache=False).last_hidden_state)
        if torch.allclose(logits, own, rtol=1e-3, atol=1e-3, equal_nan=True):  # NaN: memory that nobody wrote to yet
            return
        found = f"its logits differ from those of the output embedding by {(logits - own).abs().max():.3g}"
    raise ValueError(
        f"{type(model).__name__} runs code that came with its checkpoint (trust_remote_code), and {found}; expected logits "
        "that are those of the output embedding alone. Choose an architecture that transformers has itself"
    )
