"""What ends a completion besides the tokens of `setup`: the settings' tokens and texts, the same in both samplers."""

import dataclasses

import pytest
from conftest import installed_vllm

from masa_lightning.functional.stopping import before_stop
from masa_lightning.models import loading
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest

KINDS = ["transformers", "vllm"]
PROBLEMS = ["2 + 3 = ?", "17 + 25 = ?", "Compute 12 * 3.", "9 - 4 = ?", "8 * 7 = ?", "30 - 11 + 2 = ?"]


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("tiny")


def set_up(kind, model_path, stop_token_ids=(2,)):
    device = "cpu"
    if kind == "vllm":
        device = installed_vllm()
        if not device:
            pytest.skip("vLLM is not installed, or finds no device that it runs on")
        from masa_lightning.sampling.vllm import VLLMSampler

        sampler = VLLMSampler(kv_cache_gib=0.05, max_num_seqs=32)
    else:
        from masa_lightning.sampling.transformers import TransformersSampler

        sampler = TransformersSampler()
    policy = loading.load_model("tiny", "float32").to(device)
    sampler.setup(policy, model_path, max_model_length=160, stop_token_ids=stop_token_ids)
    return sampler


@pytest.fixture(scope="module", params=KINDS)
def sampler(request):
    return set_up(request.param, loading.model_path("tiny"))


@pytest.fixture(scope="module")
def requests(tokenizer):
    chats = [[{"role": "user", "content": text}] for text in PROBLEMS]
    texts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
    return [
        SamplingRequest(prompt_ids=tokenizer(text, add_special_tokens=False).input_ids, max_tokens=48 - i, seed=i)
        for i, text in enumerate(texts)
    ]


def cut(tokenizer, completion, stops, token_ids=()):
    """An oracle: the fewest tokens whose text has a stop in it, or whose last is a stop token."""
    ids = completion.token_ids
    for n in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:n], skip_special_tokens=True)
        if ids[n - 1] in token_ids or any(stop in text for stop in stops):
            return ids[:n], "stop"
    return ids, completion.finish_reason


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_stop_strings(sampler, requests, tokenizer, temperature):
    settings = SamplingSettings(temperature=temperature)
    plain = sampler.generate(requests, settings)
    texts = tokenizer.batch_decode([c.token_ids for c in plain], skip_special_tokens=True)
    middle = [text[len(text) // 2 :][:3] for text in texts]  # within tokens and across
    stopped = 0
    for stop in ([middle[0]], [middle[1], "xyzzy"], middle[2:4], ["}"], [" "], ["xyzzy"]):
        got = sampler.generate(requests, dataclasses.replace(settings, stop=stop))
        for completion, whole in zip(got, plain, strict=True):
            ids, reason = cut(tokenizer, whole, stop)
            assert (list(completion.token_ids), completion.finish_reason) == (ids, reason)
            assert completion.logprobs == pytest.approx(whole.logprobs[: len(ids)], abs=1e-4)
            stopped += len(ids) < len(whole.token_ids)
            text = before_stop(tokenizer.decode(ids, skip_special_tokens=True), stop)
            assert not any(s in text for s in stop)
    assert stopped > 6


def test_a_stop_string_in_the_last_token_that_there_may_be_is_no_cut(sampler, requests, tokenizer):
    greedy = SamplingSettings(temperature=0.0)
    (whole,) = sampler.generate(requests[:1], greedy)
    last = tokenizer.decode(whole.token_ids[:3])[-1]
    count = len(cut(tokenizer, whole, [last])[0])
    request = dataclasses.replace(requests[0], max_tokens=count)
    for stop, reason in (([], "length"), ([last], "stop")):
        (completion,) = sampler.generate([request], dataclasses.replace(greedy, stop=stop))
        assert (len(completion.token_ids), completion.finish_reason) == (count, reason)


def test_more_stop_tokens(sampler, requests, tokenizer):
    greedy = SamplingSettings(temperature=0.0)
    plain = sampler.generate(requests, greedy)
    token = plain[0].token_ids[3]
    got = sampler.generate(requests, dataclasses.replace(greedy, stop_token_ids=[token]))
    expected = [cut(tokenizer, whole, [], [token]) for whole in plain]
    assert [(list(c.token_ids), c.finish_reason) for c in got] == expected
    assert len(got[0].token_ids) <= 4
    again = sampler.generate(requests, greedy)  # they are those of one call
    assert [list(c.token_ids) for c in again] == [list(c.token_ids) for c in plain]


@pytest.mark.parametrize("kind", KINDS)
def test_stop_strings_need_a_tokenizer(kind, requests, tmp_path):
    model = loading.load_model("tiny", "float32")
    model.save_pretrained(tmp_path)
    sampler = set_up(kind, str(tmp_path))
    assert sampler.generate(requests[:1], SamplingSettings())
    with pytest.raises(ValueError, match=r"stop strings need the text .*Use stop_token_ids"):
        sampler.generate(requests[:1], SamplingSettings(stop=["x"]))
    assert sampler.generate(requests[:1], SamplingSettings())
