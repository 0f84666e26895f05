"""The policy as the update sees it: token ids in, log-probabilities of the completion tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from masa_lightning.functional.logprobs import token_logprobs

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

    Raises:
        ValueError: If the model changes its logits behind the output embedding, which `forward` would miss.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        config = model.config.get_text_config()
        for name, harmless in _LOGIT_CHANGES.items():
            if getattr(config, name, None) not in harmless:
                raise ValueError(
                    f"the model's configuration sets {name}={getattr(config, name)}, which is not supported: its logits "
                    "are not those of the output embedding alone. Choose a model without it"
                )
        self.model = model

    def forward(
        self, input_ids: Tensor, completion_start: Tensor, mask: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Computes log-probabilities of completion tokens.

        Rows are right-padded, so causal attention never sees padding and needs no attention mask.

        Args:
            input_ids: Prompt, completion, padding; [B, S].
            completion_start: Index of each row's first completion token, >= 1; [B].
            mask: True at completion tokens; [B, T].
            temperature: The softmax temperature that the tokens were drawn with, > 0.

        Returns:
            Log-probabilities in nats and entropies in nats (without graph), both float32 [B, T], 0 where masked.
        """
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state  # [B, S, H]
        row, column = mask.nonzero(as_tuple=True)
        position = completion_start[row] + column
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        logp, entropy = token_logprobs(
            hidden[row, position - 1],
            head.weight,
            input_ids[row, position],
            temperature=temperature,
            bias=getattr(head, "bias", None),
        )
        empty = torch.zeros(mask.shape, dtype=logp.dtype, device=mask.device)
        index = (row, column)
        return empty.index_put(index, logp), empty.index_put(index, entropy)
