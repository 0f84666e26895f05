"""What a chat template makes of a conversation: which roles it shows, and what it ends an answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _QUESTION, _ANSWER, _NEXT = "qsystemz", "qquestionz", "qanswerz", "qnextz"  # no template has these words


@dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """What a template writes behind an answer: a token, or a text of ordinary ones."""

    token_ids: tuple[int, ...]
    text: str = ""
    """Empty where a token of its own ends the turn."""


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any] | None = None) -> TurnEnd | None:
    """Finds it in a rendered conversation: the marker behind the answer, or else all that is not blank.

    It need not be the tokenizer's end of sequence: base models often have another one (``<|endoftext|>``) than the template
    that they are trained with (``<|im_end|>``, ``<|eot_id|>``, ``<end_of_turn>``). Where a template ends answers with
    nothing, the token that begins the user's next turn ends them (``<|user|>`` of GLM-4).

    Args:
        tokenizer: With a chat template.
        template_kwargs: Extra variables of the template.

    Returns:
        None where there is neither, or the template shows no answer.
    """
    chat = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    behind = _behind_answer(tokenizer, chat, template_kwargs)
    if (token := _first_token(tokenizer, behind)) is not None:
        return TurnEnd(token_ids=(token,))
    if written := behind.strip():
        ids = tokenizer(written, add_special_tokens=False).input_ids
        return None if tokenizer.unk_token_id in ids else TurnEnd(token_ids=tuple(ids), text=written)
    between = _behind_answer(tokenizer, [*chat, {"role": "user", "content": _NEXT}], template_kwargs)
    token = _first_token(tokenizer, between)
    return None if token is None else TurnEnd(token_ids=(token,))


def _behind_answer(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]], template_kwargs: Mapping[str, Any] | None
) -> str:
    """What a template writes between the answer and the next question, or the end; empty where it does not show both."""
    try:
        text = _render(tokenizer, chat, template_kwargs)
    except Exception:  # Jinja runs anything; a template may take questions alone, or want one at the end
        return ""
    if chat[-1]["content"] == _NEXT:
        text, found, _ = text.rpartition(_NEXT)
        text = text if found else ""
    return text.rpartition(_ANSWER)[2] if _ANSWER in text else ""


def _first_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The token of its own that a text begins with, special or not, or else the first special one in it."""
    added = tokenizer.added_tokens_decoder
    no_end = {tokenizer.bos_token_id, tokenizer.unk_token_id} - {tokenizer.eos_token_id}  # some have one for all three
    special = ({i for i, token in added.items() if token.special} | {*tokenizer.all_special_ids}) - no_end
    ids: list[int] = [i for i in tokenizer(text, add_special_tokens=False).input_ids if i not in no_end]
    spelled = [i for i in ids if str(tokenizer.decode([i])).strip()]
    if spelled and spelled[0] in added:
        return spelled[0]
    return next((i for i in ids if i in special), None)


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
