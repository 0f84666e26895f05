"""What both samplers ask of requests before they draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from masa_lightning.types import SamplingRequest


def check_requests(requests: Sequence[SamplingRequest], max_model_length: int) -> None:
    """Raises a ValueError for the first request that cannot be served.

    Args:
        requests: What is to be drawn.
        max_model_length: Most tokens of a prompt and its completion together.

    Raises:
        ValueError: A prompt is empty, `max_tokens` is below 1, or both together exceed `max_model_length`.
    """
    for index, request in enumerate(requests):
        length, most = len(request.prompt_ids), request.max_tokens
        if not length:
            raise ValueError(f"the prompt of request {index} is empty; expected at least one token")
        if most < 1:
            raise ValueError(f"max_tokens of request {index} is {most}; expected >= 1")
        if length + most > max_model_length:
            raise ValueError(
                f"request {index} has a prompt of {length} tokens and max_tokens={most}, {length + most} together; "
                f"expected at most max_model_length={max_model_length}: shorten the prompt, lower max_tokens or raise "
                "max_model_length"
            )
