"""What ends a completion: the model's tokens, the template's end of turn, and what the settings add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from masa_lightning.models import loading
from masa_lightning.models.turns import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from masa_lightning.settings import SamplingSettings
    from masa_lightning.types import Completion


@dataclass(frozen=True, kw_only=True)
class Stops:
    """Any of these ends a completion."""

    token_ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    closing: tuple[int, ...] = ()
    """The tokens that a text which is written for the policy to learn ends with."""

    def with_texts(self, settings: SamplingSettings) -> SamplingSettings:
        """Settings with these texts; the tokens are the sampler's own after its `setup`."""
        return replace(settings, stop=self.texts)

    def without_token(self, completion: Completion) -> Sequence[int]:
        """The tokens of a completion without the one that ended it, which is no text even where it is not special."""
        ids = completion.token_ids
        return ids[:-1] if completion.finish_reason == "stop" and ids and ids[-1] in self.token_ids else ids

    def described(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """For messages.

        Args:
            tokenizer: Of the model.
        """
        tokens = [f"{tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in self.token_ids]
        return ", ".join([*tokens, *(f"the text {text!r}" for text in self.texts)])


def find_stops(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: SamplingSettings,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Stops:
    """Puts together what ends a completion.

    Args:
        model: With its generation configuration.
        tokenizer: With a chat template.
        settings: Their `stop_token_ids` and `stop` come on top.
        template_kwargs: Extra variables of the template.

    Raises:
        ValueError: If nothing ends a completion, or a stop is none that can come.
    """
    rows = loading.vocabulary_size(model.config)
    spelled, texts = read_stops(tokenizer, settings, model=str(model.config.name_or_path), rows=rows)
    turn = end_of_turn(tokenizer, template_kwargs)
    if turn is not None and turn.text:
        texts = tuple(dict.fromkeys((*texts, turn.text)))
    try:
        own = loading.stop_token_ids(model, tokenizer, template_kwargs)
    except ValueError:
        if not (spelled or texts):
            raise
        own = []
    ids = {*own, *spelled}
    end = tokenizer.eos_token_id
    closing = turn.token_ids if turn is not None else [end] if end is not None else sorted(ids)[:1]
    return Stops(token_ids=tuple(sorted(ids)), texts=texts, closing=tuple(closing))


def read_stops(
    tokenizer: PreTrainedTokenizerBase, settings: SamplingSettings, *, model: str, rows: float
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The token ids and the texts of the settings; a text that is one special token counts as its id.

    Args:
        tokenizer: Of the model.
        settings: Of sampling.
        model: Its name, for errors.
        rows: Of the model's embedding, as `loading.vocabulary_size`.

    Raises:
        ValueError: If an id is not in the vocabulary, or a text holds special tokens, which completions are read without.
    """
    ids, texts = list(settings.stop_token_ids), []
    most = min(rows, max(tokenizer.get_vocab().values(), default=0) + 1)
    for token in ids:
        if token >= most:
            raise ValueError(
                f"sampling.stop_token_ids has {token}, and model {model!r} has {most} tokens; expected ids below {most}"
            )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*tokenizer.all_special_ids}
    special -= {tokenizer.unk_token_id} - {tokenizer.eos_token_id}  # GPT-2 has one token for both
    for text in settings.stop:
        spelled = tokenizer(text, add_special_tokens=False).input_ids
        if len(spelled) == 1 and spelled[0] in special:
            ids += spelled
        elif found := [i for i in spelled if i in special]:
            name = tokenizer.convert_ids_to_tokens(found[0])
            raise ValueError(
                f"sampling.stop has {text!r} with the special token {name!r} ({found[0]}) in it, and completions are read "
                f"without special tokens, so that it would never be found; expected plain text. Put {found[0]} into "
                "sampling.stop_token_ids"
            )
        else:
            texts.append(text)
    return tuple(dict.fromkeys(ids)), tuple(dict.fromkeys(texts))
