"""Structured outputs: what may come next against a regular expression, and both samplers against a plain forward pass."""

import dataclasses
import json
import math
import os
import pickle
import random
from functools import cache
from itertools import pairwise

import pytest
import regex  # of transformers; knows whether a text can still become a match
import torch
from conftest import installed_vllm
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers import models as tokenizer_models
from torch import distributed, multiprocessing
from transformers import PreTrainedTokenizerFast

from masa_lightning.functional.prompts import Question
from masa_lightning.models import loading
from masa_lightning.quantities import Notions, PassRate, Quantities, SolutionLength, default_quantities
from masa_lightning.sampling.structured import (
    Structured,
    Walk,
    allowed_tokens,
    check_xgrammar,
    pack_bits,
    unpack_bits,
)
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup, SamplingRequest, Structure

try:
    check_xgrammar()
except ImportError as error:  # beside vLLM 0.31, or none
    pytest.skip(str(error), allow_module_level=True)

KINDS = ["transformers", "vllm"]
END, ROWS = 2, 577
QUANTITIES = Quantities(default_quantities(), budget=128)
RATE = Quantities([PassRate(3)], budget=128)
TAIL = regex.compile(r'[ \n]{0,2}\{"pass_rate": [0-3]\}')


def structure(quantities, ending=(END,)):
    return Structure(mark="</meta>", schema=quantities.schema(), ending=ending, stop_token_ids=(END,))


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("tiny")


@pytest.fixture(scope="module")
def policy():
    return loading.load_model("tiny", "float32")


@pytest.fixture(scope="module")
def structured(tokenizer):
    return Structured(structure(QUANTITIES), tokenizer, ROWS)


@pytest.fixture(scope="module")
def rated(tokenizer):
    return Structured(structure(RATE), tokenizer, ROWS)


@pytest.fixture(scope="module", params=KINDS)
def sampler(request, policy):
    if request.param == "vllm":
        if installed_vllm() != "cpu":
            pytest.skip("vLLM is not installed, or runs elsewhere")
        from masa_lightning.sampling.vllm import VLLMSampler as Sampler

        made = Sampler(kv_cache_gib=0.05, max_num_seqs=64)
    else:
        from masa_lightning.sampling.transformers import TransformersSampler as Sampler

        made = Sampler()
    made.setup(policy, loading.model_path("tiny"), max_model_length=200, stop_token_ids=[END])
    assert made.structured_outputs
    return made


def requests_of(tokenizer, asked, count=16, max_tokens=48, text="17+25-3 Predict."):
    chat = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    return [SamplingRequest(prompt_ids=ids, max_tokens=max_tokens, seed=i, structure=asked) for i in range(count)]


def read(quantities, tokenizer, token_ids):
    assert token_ids[-1] == END
    return quantities.read(tokenizer.decode(token_ids[:-1], skip_special_tokens=True))


def draw(structured, most, choose):
    """Token ids of a completion, each chosen among those that are allowed."""
    walk, masks, ids = Walk(structured, most), structured.new_masks(1), []
    while not walk.done:
        walk.fill(masks, 0)
        ids.append(choose(unpack_bits(masks[0]).nonzero()[:, 0].tolist()))
        assert walk.accept(ids[-1])
    return ids


def test_where_nothing_may_come_is_told(tokenizer):
    """xgrammar 0.2.7 allowed the first byte of a letter and then no other; here there are no tokens for objects at all."""
    made = Structured(structure(RATE), tokenizer, len(tokenizer))
    walk, masks = Walk(made, 200), made.new_masks(1)
    assert all(map(walk.accept, made.closing))
    walk.fill(masks, 0)
    assert masks.any()
    made.plain.zero_()
    with pytest.raises(
        RuntimeError, match=r"xgrammar [\d.]+ has led a completion .* no token of the vocabulary may come"
    ):
        walk.fill(masks, 0)


def character_tokenizer():
    """Whose tokens are single characters of ASCII, and bytes where there are none, as in models of SentencePiece."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *map(chr, range(33, 127))]
    inside = Tokenizer(
        tokenizer_models.BPE(
            {token: i for i, token in enumerate(vocabulary)}, [], byte_fallback=True, unk_token="<unk>"
        )
    )
    inside.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inside.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inside, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


# -- what may come next ------------------------------------------------------------------------------------------------


def test_bits():
    every = torch.arange(96) % 3 == 0
    assert torch.equal(unpack_bits(pack_bits(every)), every)
    assert pack_bits(torch.ones(32, dtype=torch.bool)).item() == -1


@pytest.mark.parametrize("name", ["tiny", "characters"])
@pytest.mark.parametrize("quantities", [QUANTITIES, RATE], ids=["papers", "rate"])
def test_any_choice_of_allowed_tokens_ends_with_an_object_that_is_read(tokenizer, name, quantities):
    """So every prediction is read, whatever the model: these are the draws of one that knows nothing."""
    if name == "characters":
        tokenizer = character_tokenizer()
    rows = len(tokenizer)
    made = Structured(structure(quantities), tokenizer, rows)
    draws, lengths = random.Random(0), []
    for most in [made.reserve + i % 11 for i in range(100)] + [300]:
        ids = draw(made, most, draws.choice)
        assert len(ids) <= most
        assert not read(quantities, tokenizer, ids).failures
        assert ids.index(END) == len(ids) - 1
        lengths.append(len(ids))
    assert min(lengths) < made.reserve < max(lengths)


class Free(PassRate):
    """Anything of a schema."""

    key = name = reward_name = metric_name = "free"

    def __init__(self, schema):
        super().__init__()
        self._schema = schema

    def ask(self, budget):
        return Question("free", "anything", "<value>")

    def read(self, value):
        return json.dumps(value)

    def schema(self, budget):
        return self._schema


TEXT = {"type": "string", "maxLength": 20}
ENTRY = {"type": "object", "properties": {"name": TEXT, "number": {"type": "integer"}}, "additionalProperties": False}
ENTRIES = {"type": "array", "items": ENTRY | {"required": ["name", "number"]}, "minItems": 1, "maxItems": 4}


@pytest.mark.parametrize("name", ["tiny", "characters"])
@pytest.mark.parametrize("schema", [{"enum": ["a", "ab", "abc" * 30]}, ENTRIES], ids=["enum", "objects"])
def test_a_long_value_that_is_begun_is_within_the_limit(tokenizer, name, schema):
    """One of a few texts is written whole once it is begun, and so is an object in a list."""
    if name == "characters":
        tokenizer = character_tokenizer()
    quantities = Quantities([Free(schema), PassRate(3)], budget=128)
    made = Structured(structure(quantities), tokenizer, len(tokenizer))
    draws, values = random.Random(0), set()
    for most in (made.reserve + i % 13 for i in range(60)):
        ids = draw(made, most, draws.choice)
        assert len(ids) <= most
        prediction = read(quantities, tokenizer, ids)
        assert not prediction.failures
        values.add(prediction.values["free"])
    assert len(values) > 1


def test_a_stop_that_the_mark_is_written_with_is_refused(tokenizer):
    stop = tokenizer("</meta>", add_special_tokens=False).input_ids[0]
    asked = dataclasses.replace(structure(RATE), stop_token_ids=(END, stop))
    with pytest.raises(ValueError, match=rf"stop_token_ids has {stop}, with which '</meta>' is written"):
        Structured(asked, tokenizer, ROWS)


def test_values_are_the_models_until_the_limit_is_near(tokenizer, structured, rated):
    draws, seen = random.Random(0), set()
    skeleton = tokenizer('x</meta>{"math_notion": ["sum"], "pass_rate": 7, "solution_length": 42}').input_ids
    assert draw(structured, 40, _follow([*skeleton, END])) == [*skeleton, END]
    for _ in range(200):
        seen.add(read(RATE, tokenizer, draw(rated, 60, draws.choice)).pass_rate)
    assert seen == {0, 1, 2, 3}


def _follow(ids):
    left = iter(ids)

    def choose(allowed):
        token = next(left)
        assert token in allowed
        return token

    return choose


def allowed_by_text(tokenizer, token_ids):
    """An oracle: tokens whose text can still become free text, the mark, and the object of `RATE`; far from the limit."""
    texts = [tokenizer.decode([i]) for i in range(ROWS)]
    before = "".join(texts[i] for i in token_ids)
    found = set()
    for token in set(range(ROWS)) - {END}:
        text = before + texts[token]
        _, mark, tail = text.partition("</meta>")
        if not mark or TAIL.fullmatch(tail, partial=True):
            found.add(token)
    if TAIL.fullmatch(before.partition("</meta>")[2]):
        return {END}
    if "</meta>" in before:  # special tokens are no text
        found -= {0, 1}
    return found


def test_what_is_allowed_is_what_can_still_become_such_a_text(tokenizer, rated):
    """Also by tokens that run over a border: of the mark, of a key, of a value."""
    made = rated
    ascii_only = [i for i in range(ROWS) if "\ufffd" not in tokenizer.decode([i])]
    draws, masks = random.Random(1), made.new_masks(1)
    checked = set()
    for number in range(30):
        walk, ids = Walk(made, 200), []
        reasoning = [draws.choice(ascii_only) for _ in range(number % 5)]
        written = [i for i in reasoning if i not in (END, 576)] + tokenizer("x</me</meta>").input_ids[: 1 + number % 12]
        while not walk.done:
            walk.fill(masks, 0)
            allowed = set(unpack_bits(masks[0]).nonzero()[:, 0].tolist())
            assert allowed & {*ascii_only, END} == allowed_by_text(tokenizer, ids) & {*ascii_only, END}
            checked.add(len(allowed))
            if len(ids) < len(written) and written[len(ids)] in allowed:
                token = written[len(ids)]
            else:
                token = 576 if 576 in allowed else draws.choice(sorted(allowed & {*ascii_only, END}))
            ids.append(token)
            assert walk.accept(token)
    assert len(checked) >= 5


def test_what_experts_write_is_allowed(tokenizer, structured):
    """`ExpertSFT` clones what structured outputs could have drawn, so that the two pull the same way."""
    draws = random.Random(2)
    for _ in range(50):
        text = tokenizer.decode(draw(structured, 100, draws.choice)[:-1], skip_special_tokens=True)
        if "\ufffd" in text:
            continue
        group = RolloutGroup(problem=Problem(id="1", problem="1+1", answer="2"))
        for correct in (True, False):
            group.solutions.append(_rollout("solution", "\\boxed{2}", [5] * draws.randint(1, 9), correct))
        text = f"<meta>{text}"
        group.metas.append(_rollout("meta", text, [5], False, QUANTITIES.read(text)))
        group.metas[0].rewards, group.metas[0].reward = {"notion": 1.0, "length": 0.0, "difficulty": 0.0}, 0.3
        found = QUANTITIES.expert(group)
        assert found is not None
        written = found[1].partition("</meta>")[2]
        matcher = structured.matcher()
        assert matcher.accept_string("x</meta>")
        assert matcher.accept_string(written), written
        assert matcher.is_terminated()


def _rollout(kind, text, ids, correct, prediction=None):
    completion = Completion(token_ids=ids, logprobs=[], finish_reason="stop")
    return Rollout(kind=kind, prompt_ids=[1], completion=completion, text=text, correct=correct, prediction=prediction)


def test_a_completion_of_another_sampler_is_refused(tokenizer, structured):
    with pytest.raises(ValueError, match=r"token 2 of a prediction is 2, which structured outputs do not allow there"):
        structured.allowed([5, 5, END], 48)


def test_a_schema_without_an_end_is_refused(tokenizer):
    endless = structure(RATE).schema.replace('"maximum": 3', '"minimum": 10')
    asked = dataclasses.replace(structure(RATE), schema=endless)
    assert Structured(asked, tokenizer, ROWS).reserve < 40  # a digit may be the last
    text = {"type": "object", "properties": {"x": {"type": "string", "minLength": 30000}}, "required": ["x"]}
    with pytest.raises(ValueError, match=r"not closed after 2000 tokens; expected a schema that ends"):
        Structured(dataclasses.replace(asked, schema=json.dumps(text)), tokenizer, ROWS)
    with pytest.raises(
        ValueError, match=r"(?s)xgrammar .* makes no grammar of the schema .*: change the quantity's `schema`"
    ):
        Structured(dataclasses.replace(asked, schema='{"type": "nonsense"}'), tokenizer, ROWS)


def test_rows_that_recur_are_kept_once(structured):
    ids = draw(structured, 48, random.Random(3).choice)
    rows = structured.allowed(ids, 48)
    packed = allowed_tokens([None, rows, None], [3, len(ids), 2])
    assert packed.index.tolist()[:3] == [*packed.index.tolist()[-2:], 0]
    assert len(packed.rows) < len(ids) + 1
    assert torch.equal(packed.rows.view(torch.int32)[packed.index][3:-2], rows)
    assert packed.rows.view(torch.int32)[0].eq(-1).all()
    assert allowed_tokens([None], [3]) is None


# -- the samplers ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def logits_of(policy, request, completion):
    """Those before each token, minus infinity where it was not allowed."""
    ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    return policy(ids).logits[0, len(request.prompt_ids) - 1 : -1].double()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_all_are_read_and_log_probabilities_are_constrained(sampler, policy, tokenizer, structured, temperature):
    requests = [
        dataclasses.replace(each, max_tokens=most)
        for most in (structured.reserve, 48, 100)
        for each in requests_of(tokenizer, structured.structure, 8)
    ]
    for request, completion in zip(
        requests, sampler.generate(requests, SamplingSettings(temperature=temperature)), strict=True
    ):
        assert completion.finish_reason == "stop"
        assert not read(QUANTITIES, tokenizer, completion.token_ids).failures
        allowed = unpack_bits(structured.allowed(completion.token_ids, request.max_tokens))[:, :ROWS]
        logits = logits_of(policy, request, completion).masked_fill(~allowed, -math.inf) / (temperature or 1.0)
        expected = logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, atol=1e-4, rtol=0)
        alone = allowed.sum(1) == 1
        assert alone[-1]
        assert torch.tensor(completion.logprobs)[alone].abs().max() == 0


def test_few_are_read_when_drawn_freely(sampler, tokenizer, structured):
    requests = requests_of(tokenizer, None, 32)
    drawn = sampler.generate(requests, SamplingSettings(temperature=2.0))
    read_well = [
        not QUANTITIES.read(tokenizer.decode(c.token_ids, skip_special_tokens=True) + "\u2026").failures for c in drawn
    ]
    assert sum(read_well) < 8


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7, top_p=0.8),
        SamplingSettings(temperature=1.3, top_k=5),
        SamplingSettings(temperature=1.5, min_p=0.1),
        SamplingSettings(temperature=0.8, top_k=20, top_p=0.7, min_p=0.02),
    ],
)
def test_the_structure_comes_before_temperature_and_truncation(sampler, policy, tokenizer, structured, tools, settings):
    requests = requests_of(tokenizer, structured.structure, 6)
    for request, completion in zip(requests, sampler.generate(requests, settings), strict=True):
        allowed = unpack_bits(structured.allowed(completion.token_ids, request.max_tokens))[:, :ROWS]
        logits = logits_of(policy, request, completion).masked_fill(~allowed, -math.inf)
        for token, row, logprob in zip(completion.token_ids, logits, completion.logprobs, strict=True):
            assert logprob == pytest.approx(tools.distribution(row, settings)[token].log().item(), abs=1e-4)


@cache
def enumerate_all(policy, structured, prompt, most, temperature, least):
    """Each completion of at least that probability, and its probability, by the policy's own forward pass."""
    found, open_ = {}, [((), 1.0)]
    while open_:
        ids, p = open_.pop()
        walk, masks = Walk(structured, most), structured.new_masks(1)
        for token in ids:
            assert walk.accept(token)
        if walk.done:
            found[ids] = p
            continue
        walk.fill(masks, 0)
        with torch.no_grad():
            logits = policy(torch.tensor([[*prompt, *ids]])).logits[0, -1].double()
        logits = logits.masked_fill(~unpack_bits(masks[0])[:ROWS], -math.inf)
        for token, q in enumerate((logits / temperature).softmax(-1).tolist()):
            if p * q >= least:
                open_.append(((*ids, token), p * q))
    return found


def test_frequencies_are_those_of_the_constrained_distribution(sampler, policy, tokenizer, rated):
    """Chi-square over whole completions, against enumeration. The limit closes the free text at once."""
    made, draws, temperature = rated, 3000, 2.0
    (request,) = requests_of(tokenizer, made.structure, 1, max_tokens=made.reserve)
    expected = enumerate_all(policy, made, tuple(request.prompt_ids), made.reserve, temperature, 15 / draws)
    assert len(expected) >= 4
    requests = [dataclasses.replace(request, seed=seed) for seed in range(draws)]
    counts = dict.fromkeys(expected, 0)
    for completion in sampler.generate(requests, SamplingSettings(temperature=temperature)):
        ids = tuple(completion.token_ids)
        counts[ids] = counts.get(ids, 0) + 1
        if ids in expected:
            assert sum(completion.logprobs) == pytest.approx(math.log(expected[ids]), abs=1e-3)
    observed = [counts[ids] for ids in expected]
    wanted = [p * draws for p in expected.values()]
    observed, wanted = [*observed, draws - sum(observed)], [*wanted, draws - sum(wanted)]
    chi_square = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True) if w > 0)
    assert chi_square < len(expected) + 4 * math.sqrt(2 * len(expected)) + 6


def test_same_seed_same_tokens_beside_others_with_and_without_structure(sampler, tokenizer, structured):
    asked = requests_of(tokenizer, structured.structure, 8)
    free = requests_of(tokenizer, None, 8)
    settings = SamplingSettings(temperature=1.2)
    alone = [c.token_ids for c in sampler.generate(asked, settings)]
    plain = [c.token_ids for c in sampler.generate(free, settings)]
    mixed = sampler.generate([r for pair in zip(free, asked, strict=True) for r in pair], settings)
    assert [list(c.token_ids) for c in mixed[1::2]] == [list(ids) for ids in alone]
    assert [list(c.token_ids) for c in mixed[::2]] == [list(ids) for ids in plain]
    unasked = [dataclasses.replace(r, logprobs=False) for r in asked]
    assert [list(c.token_ids) for c in sampler.generate(unasked, settings)] == [list(ids) for ids in alone]
    assert len({tuple(ids) for ids in alone}) > 4
    assert all(a != b for a, b in pairwise(alone))


def test_texts_that_end_completions_are_refused(sampler, tokenizer, structured):
    with pytest.raises(
        ValueError, match=r"stop is \['\}'\] and a request has a structure, which such a text could end"
    ):
        sampler.generate(requests_of(tokenizer, structured.structure, 1), SamplingSettings(stop=("}",)))


def test_a_copy_of_a_sampler_that_drew_them(sampler, tokenizer, structured):
    sampler.generate(requests_of(tokenizer, structured.structure, 1), SamplingSettings())
    twin = pickle.loads(pickle.dumps(sampler))
    with pytest.raises(RuntimeError, match=r"call setup\(policy"):
        twin.generate([], SamplingSettings())


def test_schemas_of_the_papers_quantities():
    members = json.loads(QUANTITIES.schema())["properties"]
    assert [*members] == ["math_notion", "pass_rate", "solution_length"]
    assert PassRate(16).schema(512) == {"type": "integer", "minimum": 0, "maximum": 16}
    assert SolutionLength().schema(512) == {"type": "integer", "minimum": 1, "maximum": 512}
    assert Notions().schema(512)["minItems"] == 1


def _half(rank, folder):
    """One of the two processes that share an engine; each has requests of its own."""
    from masa_lightning.sampling.vllm import VLLMSampler

    os.environ |= {"LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    tokenizer, policy = loading.load_tokenizer("tiny"), loading.load_model("tiny", "float32")
    sampler = VLLMSampler(2, kv_cache_gib=0.05)
    sampler.setup(policy, loading.model_path("tiny"), max_model_length=200, stop_token_ids=[END])
    made = Structured(structure(QUANTITIES), tokenizer, ROWS)
    requests = requests_of(tokenizer, made.structure, 3 + rank) + requests_of(tokenizer, None, 2)
    drawn = sampler.generate(requests, SamplingSettings(temperature=2.0))
    for request, completion in zip(requests, drawn, strict=True):
        logits = logits_of(policy, request, completion)
        if request.structure is not None:
            assert not read(QUANTITIES, tokenizer, completion.token_ids).failures
            allowed = unpack_bits(made.allowed(completion.token_ids, request.max_tokens))[:, :ROWS]
            logits = logits.masked_fill(~allowed, -math.inf)
        expected = (logits / 2.0).log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_two_processes_share_an_engine(tmp_path):
    pytest.importorskip("vllm")
    if installed_vllm() != "cpu":
        pytest.skip("needs a vLLM that is built for CPU")
    multiprocessing.spawn(_half, (tmp_path,), nprocs=2)
