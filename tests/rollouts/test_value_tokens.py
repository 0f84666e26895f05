"""Which tokens hold a predicted value, with the tokenizer of the embedded model."""

import json
from array import array
from bisect import bisect_left, bisect_right

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from masa_lightning.models.loading import load_tokenizer
from masa_lightning.quantities import Quantities, default_quantities
from masa_lightning.rollouts.value_tokens import ValueTokens
from masa_lightning.types import Completion, Rollout

TOKENIZER = load_tokenizer("tiny")
PARTS = {"math_notion": "notion", "pass_rate": "difficulty", "solution_length": "length"}


def texts(completions):
    return [TOKENIZER.decode(c.token_ids, skip_special_tokens=True) for c in completions]


def byte_fallback():
    """As Llama 2 and Gemma: blanks are a sign, and characters that the vocabulary lacks are bytes, which decode together."""
    letters = [chr(i) for i in range(33, 127)]
    vocabulary = {
        name: i for i, name in enumerate(["<s>", "</s>", "\u2581", *letters, *(f"<0x{i:02X}>" for i in range(256))])
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


def exact(ids, decode, text, value):
    """The tokens of a value, by all prefixes that are text."""
    lengths = [0]
    for count in range(1, len(ids) + 1):
        prefix = decode(ids[:count])
        lengths.append(len(prefix) if text.startswith(prefix) else lengths[-1])
    start = text.index(value)
    return bisect_right(lengths, start) - 1, bisect_left(lengths, start + len(value))


@pytest.mark.parametrize("before", ["", "漢" * 20 + "</meta>", "漢" * 60, "漢" * 300 + "xx ", "é 漢x" * 40, "x " * 500])
@pytest.mark.parametrize("notion", ["a", "漢漢漢漢漢"])
def test_characters_that_are_bytes(before, notion):
    tokenizer = byte_fallback()
    text = before + f'{{"math_notion": ["{notion}"], "pass_rate": 6, "solution_length": 421}}'
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    completion = Completion(token_ids=[*ids, tokenizer.eos_token_id], logprobs=[], finish_reason="stop")
    rollout = Rollout(kind="meta", prompt_ids=[1], completion=completion, text=text)

    def decoded(completions):
        return [tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in completions]

    found = ValueTokens(Quantities(default_quantities(), budget=10), decoded)(rollout)
    values = {"notion": f'["{notion}"]', "difficulty": "6", "length": "421"}
    assert found == {name: exact(ids, tokenizer.decode, text, value) for name, value in values.items()}


def find(text, finish_reason="stop"):
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    sent = array("i", [*ids, TOKENIZER.eos_token_id])  # as by another process
    completion = Completion(token_ids=sent, logprobs=[], finish_reason=finish_reason)
    rollout = Rollout(kind="meta", prompt_ids=[1], completion=completion, text=text)
    places = ValueTokens(Quantities(default_quantities(), budget=10), texts)(rollout)
    return ids, {name: TOKENIZER.decode(ids[start:stop]) for name, (start, stop) in places.items()}, places


def test_each_part_has_the_tokens_of_its_value():
    _, found, _ = find('<meta>6 of 8</meta>{"math_notion": ["parity"], "pass_rate": 6, "solution_length": 421}')
    assert '["parity"]' in found["notion"]  # its first and last tokens have something of the keys around it too
    assert found["difficulty"].strip(' ,:"') == "6"
    assert found["length"].strip(' ,:"}') == "421"


def test_what_cannot_be_read_has_none():
    assert find("no object")[1] == {}
    assert find("")[1] == {}
    assert find('{"pass_rate": 5/8, "solution_length": 42')[1].keys() == {"length"}
    assert find('{"pass_rate": 5, "solution_length": 42', "length")[1].keys() == {"difficulty"}  # it may have gone on


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=3),
    st.integers(0, 8),
    st.integers(1, 9999),
    st.text(max_size=20),
)
def test_they_are_the_fewest_that_cover_it(notions, rate, length, before):
    text = before + json.dumps({"math_notion": notions, "pass_rate": rate, "solution_length": length})
    ids, found, places = find(text)
    if TOKENIZER.decode(ids) != text or "</meta>" in before:
        return
    assert str(rate) in found["difficulty"]
    assert str(length) in found["length"]
    for start, stop in places.values():
        assert 0 <= start < stop <= len(ids)
    start, stop = places["difficulty"]
    assert str(rate) not in TOKENIZER.decode(ids[start : stop - 1])
    start, stop = places["notion"]
    written = json.dumps(notions)
    assert written in TOKENIZER.decode(ids[start:stop])
    assert written not in TOKENIZER.decode(ids[start + 1 : stop])
    assert written not in TOKENIZER.decode(ids[start : stop - 1])


@pytest.mark.parametrize("text", ["é" * 5 + '{"pass_rate": 3}', "😀" + '{"pass_rate": 3}'])
def test_characters_of_several_tokens(text):
    assert find(text)[1]["difficulty"].strip(" :}") == "3"


@pytest.mark.parametrize("reasoning", [10, 63, 64, 65, 300, 2000])
def test_long_reasoning_shifts_and_costs_little(reasoning, monkeypatch):
    written = '{"math_notion": ["parity", "sums"], "pass_rate": 6, "solution_length": 421}'
    _, _, near = find("</meta>" + written)
    decoded = []
    plain = TOKENIZER.decode
    monkeypatch.setattr(TOKENIZER, "decode", lambda ids, **more: decoded.append(len(ids)) or plain(ids, **more))
    ids, _, far = find("é7 " * reasoning + "</meta>" + written)
    shift = len(ids) - len(TOKENIZER("</meta>" + written, add_special_tokens=False).input_ids)
    assert far == {name: (start + shift, stop + shift) for name, (start, stop) in near.items()}
    assert sum(decoded) < 4 * len(ids) + 8000
