"""Takes from a model what makes a token's log-probability depend on how it is computed, and not on the tokens before it.

Samplers compute tokens one after the other, an update computes all of them at once, beside other rows than before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_steady(model: PreTrainedModel, max_length: int) -> None:
    """Fixes the choices that a model makes anew in each pass; in place, and nothing for most models.

    * LongRoPE has one set of frequencies for long and one for short sequences, and transformers takes that of the longest
      row beside a token: here that of `max_length` serves all, as in vLLM.
    * Some layers of Mamba 2 bound their time steps from below where they compute many tokens, and not where they compute
      one: here they never do, as in vLLM.

    Args:
        model: A transformers model, not yet sharded.
        max_length: Most tokens of a prompt and its completion.
    """
    from transformers import GenerationMixin
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in model.modules():
        part: Any = module
        if getattr(part, "rope_type", None) == "longrope":
            frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](part.config, part.inv_freq.device, seq_len=max_length)
            part.register_buffer("inv_freq", frequencies, persistent=False)
            part.rope_type = "default"  # or the next pass would choose again
            # Phi-3's own drops the cache where it would have chosen again, and goes on without it.
            whole: Any = model
            whole.prepare_inputs_for_generation = partial(GenerationMixin.prepare_inputs_for_generation, whole)
        if isinstance(getattr(part, "time_step_limit", None), tuple):
            part.time_step_limit = (0.0, float("inf"))
