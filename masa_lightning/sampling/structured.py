"""Structured outputs: which tokens a completion may go on with, so that it ends with a JSON object of a schema.

A completion is free text up to a mark, the object, and the tokens that end it. xgrammar, which vLLM draws structured outputs
with as well, says at each token which ones keep it so. Two things are added, for which no grammar has words. The last tokens
of the limit are kept for the end: text that has not come to the mark by then is closed, and an object that has come close to
the limit is closed the shortest way. And what comes after the object is the model's own end of turn.

The samplers and the update ask the same `Walk`, so that log-probabilities are those of the distribution that was drawn from
on both sides.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from packaging.version import Version
from torch import Tensor

from masa_lightning.checks import trusts_code
from masa_lightning.sampling._stops import load_tokenizer
from masa_lightning.types import AllowedTokens, SamplingRequest, Structure

if TYPE_CHECKING:
    from masa_lightning.settings import SamplingSettings

_SPARE: Final = 4  # least of `Structured.spare`: a comma, where letters are tokens, is followed by ` "x"`
_LETTER_AS_BYTE: Final = re.compile("<0x[2-7][0-9A-F]>")  # of vocabularies with bytes as tokens of their own
_LEAST: Final = "0.2.8"  # xgrammar's: before, a range of letters that ends within a first byte of UTF-8 led nowhere
_LONGEST: Final = 2000  # tokens; the shortest way out of an object that is longer than that leads nowhere


def check_xgrammar() -> None:
    """Looks for the package that knows which tokens a grammar allows.

    Raises:
        ImportError: If it is not installed, or too old.
    """
    if importlib.util.find_spec("xgrammar") is None:
        raise ImportError(
            "structured_outputs=True needs the package 'xgrammar', which is not installed; expected it beside vLLM, which "
            "brings it: pip install xgrammar, or set structured_outputs=False"
        )
    if Version(found := version("xgrammar")) < Version(_LEAST):
        raise ImportError(
            f"structured_outputs=True needs xgrammar {_LEAST}, which vLLM 0.32 brings, and {found} is installed, whose "
            "grammars may allow a letter that nothing can follow; expected a newer one, or structured_outputs=False"
        )


class Structured:
    """A structure, compiled for a tokenizer.

    Args:
        structure: What completions have to be.
        tokenizer: Of the model.
        rows: Tokens that the model has logits for.

    Raises:
        ImportError: If xgrammar is not installed, or too old.
        ValueError: If it makes no grammar of the schema, or an object of it has no end.
    """

    def __init__(self, structure: Structure, tokenizer: Any, rows: int) -> None:
        check_xgrammar()
        import xgrammar

        self.structure = structure
        self.mark = structure.mark.encode()
        self.closing: list[int] = tokenizer(structure.mark, add_special_tokens=False).input_ids
        """The mark, as tokens."""
        if ends := sorted({*self.closing} & {*structure.stop_token_ids}):
            raise ValueError(
                f"stop_token_ids has {', '.join(map(str, ends))}, with which {structure.mark!r} is written, so that every "
                "completion would end there; expected others, or structured_outputs=False"
            )
        size = max(rows, max(tokenizer.get_vocab().values()) + 1)
        try:
            schema = xgrammar.Grammar.from_json_schema(structure.schema, any_whitespace=False, separators=(", ", ": "))
            grammar = xgrammar.Grammar.from_ebnf(
                f'whole ::= TagDispatch(("{structure.mark}", behind), loop_after_dispatch=false)\n'
                f"behind ::= [ \\n]{{0,2}} root\n{schema}",
                root_rule_name="whole",
            )
            info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=size, stop_token_ids=list(structure.stop_token_ids)
            )
            compiler = xgrammar.GrammarCompiler(info)
            self._grammar = compiler.compile_grammar(grammar)
            entries = [
                compiler.compile_json_schema(json.dumps(entry), any_whitespace=False, separators=(", ", ": "))
                for entry in _entries(json.loads(structure.schema))
            ]
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"xgrammar {version('xgrammar')} makes no grammar of the schema {structure.schema:.300}: "
                f"{type(error).__name__}: {error}\nExpected one that it knows: change the quantity's `schema`, or set "
                "structured_outputs=False"
            ) from error
        self.texts: list[bytes] = [_bytes(text) for text in info.decoded_vocab]
        """Of each token."""
        special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
        # A byte that is no text takes all bytes behind it along, when the completion is decoded.
        special |= {i for token, i in tokenizer.get_vocab().items() if _LETTER_AS_BYTE.fullmatch(token)}
        ids = torch.arange(_words(size) * 32)
        free = (ids < rows) & ~torch.isin(ids, torch.tensor(structure.stop_token_ids, dtype=torch.long))
        self.free = pack_bits(free)
        """Tokens that text may have, [W] int32: all but those that end a completion."""
        self.plain = pack_bits(free & ~torch.isin(ids, torch.tensor(sorted(special), dtype=torch.long)))
        """Tokens that the object may have: special ones are no text either, and letters as bytes not always."""
        self._rank = np.array([_rank(text) for text in self.texts] + [0] * (len(ids) - len(self.texts)), np.int16)
        written = [json.dumps(value, ensure_ascii=False) for value in _spelled_out(json.loads(structure.schema))]
        begun = [xgrammar.GrammarMatcher(entry, terminate_without_stop_token=True) for entry in entries]
        lengths = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in written]
        self.spare = max([_SPARE, *lengths, *(_SPARE + len(self.way_out(entry)) for entry in begun)])
        """Most tokens by which a drawn one may put off the end: a value that is begun has to be gone on with."""
        start = self.matcher()
        start.accept_string(structure.mark)
        least = len(self.way_out(start)) + len(structure.ending)
        self.reserve = len(self.closing) + 2 * least + self.spare
        """Tokens of the limit at which text is closed: half of those of the object are for the model to choose."""

    def new_masks(self, count: int) -> Tensor:
        """Masks to fill, [count, W] int32."""
        return torch.full((count, len(self.free)), -1, dtype=torch.int32)

    def matcher(self) -> Any:
        """xgrammar's, at the start of a completion."""
        import xgrammar

        return xgrammar.GrammarMatcher(self._grammar, terminate_without_stop_token=True)

    def way_out(self, matcher: Any) -> list[int]:
        """Tokens that end the object of a matcher soonest, or nearly so.

        Raises:
            ValueError: If that takes too many.
        """
        matcher, row = matcher.fork(), self.new_masks(1)
        way: list[int] = []
        while not matcher.is_terminated():
            matcher.fill_next_token_bitmask(row)
            bits = np.unpackbits((row[0] & self.plain).numpy().view(np.uint8), bitorder="little")
            token = int(np.where(bits, self._rank, -1).argmax())
            if len(way) == _LONGEST or not matcher.accept_token(token):
                raise ValueError(
                    f"an object of the schema {self.structure.schema:.300} is not closed after {len(way)} tokens; expected "
                    "a schema that ends: give texts and lists a greatest length"
                )
            way.append(token)
        return way

    def allowed(self, token_ids: Sequence[int], max_tokens: int) -> Tensor:
        """Tokens that each token of a completion was drawn from.

        Args:
            token_ids: Of the completion, n.
            max_tokens: Its limit.

        Returns:
            Bits, as xgrammar has them, [n, W] int32.

        Raises:
            ValueError: If it is no completion of this structure.
        """
        walk, rows = Walk(self, max_tokens), self.new_masks(len(token_ids))
        for index, token in enumerate(token_ids):
            walk.fill(rows, index)
            if not walk.accept(token):
                raise ValueError(
                    f"token {index} of a prediction is {token}, which structured outputs do not allow there; expected a "
                    "completion of a sampler that draws under `SamplingRequest.structure`"
                )
        return rows


def allowed_tokens(masks: Sequence[Tensor | None], lengths: Sequence[int]) -> AllowedTokens | None:
    """Puts the masks of completions one after the other, each that recurs once.

    Args:
        masks: Of each completion `Structured.allowed`, None where any token was allowed.
        lengths: Tokens of each.

    Returns:
        None where any token was allowed everywhere.
    """
    words = next((m.shape[1] for m in masks if m is not None), 0)
    if not words:
        return None
    every = torch.full((1, words), -1, dtype=torch.int32)
    parts = [every.expand(n, words) if m is None else m for m, n in zip(masks, lengths, strict=True)]
    known: dict[bytes, int] = {}
    index = [known.setdefault(row.tobytes(), len(known)) for part in parts for row in part.numpy()]
    rows = torch.frombuffer(bytearray().join(known), dtype=torch.uint8).view(len(known), 4 * words)
    return AllowedTokens(rows=rows, index=torch.tensor(index))


class Walks:
    """Those of the requests of a sampler, whose structures it compiles once.

    Args:
        policy: The model that is drawn from.
        model_path: Of its tokenizer.
    """

    def __init__(self, policy: Any, model_path: str) -> None:
        self._policy, self._model_path = policy, model_path
        self._known: dict[Structure, Structured] = {}

    def of(self, requests: Sequence[SamplingRequest], settings: SamplingSettings) -> list[Walk | None]:
        """One a request, None where it may become anything.

        Raises:
            ValueError: If a request has a structure and texts would end it, or the model has no tokenizer.
        """
        if settings.stop and any(request.structure is not None for request in requests):
            raise ValueError(
                f"stop is {list(settings.stop)!r} and a request has a structure, which such a text could end before its "
                "object; expected none: use stop_token_ids"
            )
        return [None if r.structure is None else Walk(self._compiled(r.structure), r.max_tokens) for r in requests]

    def _compiled(self, structure: Structure) -> Structured:
        if structure not in self._known:
            why, instead = "structured outputs need the text of each token", "Set structured_outputs to false"
            tokenizer = load_tokenizer(self._model_path, trusts_code(self._policy), why, instead)
            self._known[structure] = Structured(structure, tokenizer, len(self._policy.get_output_embeddings().weight))
        return self._known[structure]


class Walk:
    """Where one completion is.

    Args:
        structured: What it has to be.
        max_tokens: Its limit.
    """

    def __init__(self, structured: Structured, max_tokens: int) -> None:
        self._structured, self._left = structured, max_tokens
        self._matcher = structured.matcher()
        self._tail = b""  # of the text, as long as it has not come to the mark
        self._in_object = self._ended = False
        self._only: list[int] = []  # what has to come next
        self._unwatched = 0  # tokens that may come before the way out is looked for again
        self._look_ahead()

    def new_masks(self, count: int) -> Tensor:
        """As `Structured.new_masks`."""
        return self._structured.new_masks(count)

    @property
    def done(self) -> bool:
        """Whether nothing may come any more."""
        return self._ended and not self._only

    def fill(self, masks: Tensor, index: int) -> None:
        """Writes the tokens that may come next, as bits.

        Args:
            masks: [B, W] int32, contiguous.
            index: Row that is written.

        Raises:
            RuntimeError: If nothing may.
        """
        row = masks[index]
        if self._only or self._ended:
            row.zero_()
            for token in self._only[:1]:
                row[token // 32] = _BITS[token % 32]
            return
        self._matcher.fill_next_token_bitmask(masks, index)
        row &= self._structured.plain if self._in_object else self._structured.free
        if not row.any():
            schema = self._structured.structure.schema
            raise RuntimeError(
                f"xgrammar {version('xgrammar')} has led a completion of the schema {schema:.300} to where no "
                "token of the vocabulary may come; expected one that ends: change the quantity's `schema`, or set "
                "structured_outputs=False"
            )

    def accept(self, token: int) -> bool:
        """Goes on by a token; False if it may not come."""
        self._left -= 1
        if self._only:
            if token != self._only.pop(0):
                return False
        elif self._ended:
            return False
        if not self._ended:
            if not self._matcher.accept_token(token):
                return False
            if not self._in_object:
                self._tail += self._structured.texts[token]
                self._in_object = self._structured.mark in self._tail
                self._tail = self._tail[-len(self._structured.mark) :]
            if self._in_object and self._matcher.is_terminated():
                self._ended, self._only = True, [*self._structured.structure.ending]
        self._look_ahead()
        return True

    def _look_ahead(self) -> None:
        structured = self._structured
        if self._only or self._ended or self._left > structured.reserve:
            return
        if not self._in_object:
            self._only = [*structured.closing]
            return
        if self._unwatched:
            self._unwatched -= 1
            return
        way_out = structured.way_out(self._matcher)
        margin = self._left - len(way_out) - len(structured.structure.ending) - structured.spare
        if margin <= 0:
            self._only = way_out
        else:  # each token takes one of what is left, and puts off the end by `spare` at most
            self._unwatched = (margin - 1) // (1 + structured.spare)


def pack_bits(allowed: Tensor) -> Tensor:
    """[..., 32 W] bool -> [..., W] int32, the first of 32 in the lowest bit.

    >>> pack_bits(torch.arange(64) % 32 == 1)
    tensor([2, 2], dtype=torch.int32)
    """
    words = allowed.view(*allowed.shape[:-1], -1, 32)
    return (words * _BITS).sum(-1, dtype=torch.int32)


def unpack_bits(masks: Tensor) -> Tensor:
    """Undoes `pack_bits`."""
    return ((masks[..., None] & _BITS) != 0).flatten(-2)


_BITS: Final = torch.tensor([1 << i for i in range(31)] + [-(1 << 31)], dtype=torch.int32)


def _spelled_out(schema: Any) -> Iterator[Any]:
    """The values that a schema spells out, wherever it does."""
    if isinstance(schema, dict):
        yield from schema["enum"] if isinstance(schema.get("enum"), list) else ()
        yield from [schema["const"]] if "const" in schema else ()
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _spelled_out(part)


def _entries(schema: Any) -> Iterator[dict[str, Any]]:
    """The schemas of the entries of lists, where these are objects or lists themselves."""
    entry = schema.get("items") if isinstance(schema, dict) else None
    if isinstance(entry, dict) and entry.get("type") in ("object", "array"):
        yield entry
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _entries(part)


def _words(size: int) -> int:
    return -(-size // 32)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _rank(text: bytes) -> int:
    """Of a token, how soon it ends an object, where it may come: what closes, then what goes on, then values."""
    if text.startswith(b'"]'):
        first = 6
    elif text in (b'"', b'"}'):
        first = 5
    elif text.startswith((b"]", b"}")):
        first = 4
    elif text.startswith(b"{"):
        first = 3
    elif text.startswith((b",", b":", b" ")):
        first = 2
    else:
        first = 0 if text.startswith((b"-", b".", b"e", b"E")) or not text.isascii() else 1
    return 100 * first + min(len(text), 99)
