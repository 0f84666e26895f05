"""What a chat template makes of a conversation: which roles it shows, and what it ends an answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _QUESTION, _ANSWER = "qsystemz", "qquestionz", "qanswerz"  # no template has these words


@dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """What a template writes behind an answer: a token, or a text of ordinary ones."""

    token_ids: tuple[int, ...]
    text: str = ""
    """Empty where a token of its own ends the turn."""


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any] | None = None) -> TurnEnd | None:
    """Finds it in a rendered conversation: the first special token behind the answer, or else all that is not blank.

    It need not be the tokenizer's end of sequence: base models often have another one (``<|endoftext|>``) than the template
    that they are trained with (``<|im_end|>``, ``<|eot_id|>``, ``<end_of_turn>``).

    Args:
        tokenizer: With a chat template.
        template_kwargs: Extra variables of the template.

    Returns:
        None where the template ends answers with nothing, or shows none.
    """
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = _render(tokenizer, messages, template_kwargs)
    except Exception:  # Jinja runs anything; a template may take questions alone
        return None
    _, found, behind = text.rpartition(_ANSWER)
    ids = tokenizer(behind, add_special_tokens=False).input_ids if found else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*tokenizer.all_special_ids}
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        special -= {tokenizer.bos_token_id}
    special -= {tokenizer.unk_token_id}
    for token in ids:
        if token in special:
            return TurnEnd(token_ids=(token,))
    written = behind.strip()
    ids = tokenizer(written, add_special_tokens=False).input_ids if found else []
    if not written or tokenizer.unk_token_id in ids:
        return None
    own_token = len(ids) == 1 and ids[0] in tokenizer.added_tokens_decoder
    return TurnEnd(token_ids=tuple(ids), text="" if own_token else written)


def check_roles(
    tokenizer: PreTrainedTokenizerBase,
    *,
    model: str,
    system: bool,
    template_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Looks whether a template shows the messages that prompts are made of; some raise, others leave them out.

    Args:
        tokenizer: With a chat template.
        model: Its name, for errors.
        system: Whether there is a system message.
        template_kwargs: Extra variables of the template.

    Raises:
        ValueError: If one is not shown.
    """
    question = {"role": "user", "content": _QUESTION}
    if system and (problem := _missing(tokenizer, [{"role": "system", "content": _SYSTEM}, question], template_kwargs)):
        raise ValueError(
            f"prompts.system is set, but the chat template of model {model!r} shows no system message ({problem}); expected "
            "a template with a system role. Set prompts.system to null and put its text into prompts.solution, "
            "prompts.choice, prompts.code and prompts.meta, or give chat_template one that has the role"
        )
    if not system and (problem := _missing(tokenizer, [question], template_kwargs)):
        raise ValueError(
            f"the chat template of model {model!r} shows no user message ({problem}), so that no prompt would hold its "
            "problem; expected a template of messages with `role` and `content`. Give chat_template another one"
        )


def _missing(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], template_kwargs: Mapping[str, Any] | None
) -> str:
    """What is wrong with the rendered messages; empty if each is shown."""
    try:
        text = _render(tokenizer, messages, template_kwargs, add_generation_prompt=True)
    except Exception as error:
        return f"it ends with {type(error).__name__}: {error}"
    absent = [message["role"] for message in messages if message["content"] not in text]
    return f"the text of the {' and the '.join(absent)} is not in the prompt" if absent else ""


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    template_kwargs: Mapping[str, Any] | None,
    **options: Any,
) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options, **(template_kwargs or {})))
