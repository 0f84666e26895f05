"""What both samplers promise, and that they agree with each other and with a plain forward pass."""

import dataclasses
import math
import pickle

import pytest
import torch

from masa_lightning.protocols import Sampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest

KINDS = ["transformers", "vllm"]
GREEDY = SamplingSettings(temperature=0.0)


@pytest.fixture(scope="module")
def policy(tools):
    return tools.policy()


@pytest.fixture(scope="module", params=KINDS)
def sampler(request, policy, make_sampler):
    return make_sampler(request.param, policy)


def test_satisfies_the_protocol(sampler):
    assert isinstance(sampler, Sampler)
    sampler.sleep()
    sampler.wake()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_agree_with_a_forward_pass(sampler, policy, tools, temperature):
    requests = tools.requests()
    completions = sampler.generate(requests, SamplingSettings(temperature=temperature))
    assert tools.distance(policy, requests, completions) < 1e-4


def test_greedy_tokens_are_the_argmax(sampler, policy, tools):
    requests = tools.requests()
    for request, completion in zip(requests, sampler.generate(requests, GREEDY), strict=True):
        ids = torch.tensor([request.prompt_ids + completion.token_ids], device=policy.device)
        with torch.no_grad():
            best = policy(ids).logits[0, len(request.prompt_ids) - 1 : -1].argmax(-1)
        assert completion.token_ids == best.tolist()


def test_same_seed_same_tokens_in_any_batch(sampler, tools):
    requests = tools.requests()
    together = sampler.generate(requests, SamplingSettings())
    backwards = sampler.generate(requests[::-1], SamplingSettings())[::-1]
    alone = [sampler.generate([request], SamplingSettings())[0] for request in requests[:3]]
    assert [c.token_ids for c in together] == [c.token_ids for c in backwards]
    assert [c.token_ids for c in together[:3]] == [c.token_ids for c in alone]
    same_prompt = [SamplingRequest(prompt_ids=[9, 8], max_tokens=20, seed=seed) for seed in range(8)]
    assert len({tuple(c.token_ids) for c in sampler.generate(same_prompt, SamplingSettings())}) == 8


def test_the_same_tokens_without_logprobs(sampler, tools):
    requests = tools.requests()
    settings = SamplingSettings(temperature=1.2, top_p=0.9)
    expected = sampler.generate(requests, settings)
    mixed = [dataclasses.replace(r, logprobs=bool(i % 2)) for i, r in enumerate(requests)]
    none = [dataclasses.replace(r, logprobs=False) for r in requests]
    for asked in (mixed, none):
        completions = sampler.generate(asked, settings)
        assert [list(c.token_ids) for c in completions] == [list(c.token_ids) for c in expected]
        for request, completion in zip(asked, completions, strict=True):
            assert len(completion.logprobs) == (len(completion.token_ids) if request.logprobs else 0)


def test_limits_and_stop_tokens(sampler, tools):
    requests = [SamplingRequest(prompt_ids=[5 + i % 11], max_tokens=1 + i % 60, seed=i) for i in range(120)]
    completions = sampler.generate(requests, SamplingSettings(temperature=1.5))
    for request, completion in zip(requests, completions, strict=True):
        assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= request.max_tokens
        assert all(math.isfinite(logprob) for logprob in completion.logprobs)
        assert not set(completion.token_ids[:-1]) & set(tools.stop)
        if completion.finish_reason == "length":
            assert len(completion.token_ids) == request.max_tokens
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] in tools.stop)
    stopped = {c.token_ids[-1] for c in completions if c.finish_reason == "stop"}
    assert stopped == set(tools.stop)


def test_refuses_what_cannot_be_served_before_anything_is_drawn(sampler, tools):
    good = SamplingRequest(prompt_ids=[5] * 10, max_tokens=tools.length - 10, seed=0)
    assert len(sampler.generate([good], SamplingSettings())) == 1
    long = SamplingRequest(prompt_ids=[5] * 11, max_tokens=tools.length - 10, seed=0)
    with pytest.raises(
        ValueError, match=r"request 1 has a prompt of 11 tokens and max_tokens=86, 97 .* max_model_length=96"
    ):
        sampler.generate([good, long], SamplingSettings())
    with pytest.raises(ValueError, match="prompt of request 0 is empty"):
        sampler.generate([SamplingRequest(prompt_ids=[], max_tokens=4, seed=0)], SamplingSettings())
    with pytest.raises(ValueError, match="max_tokens of request 0 is 0"):
        sampler.generate([SamplingRequest(prompt_ids=[4], max_tokens=0, seed=0)], SamplingSettings())
    assert sampler.generate([], SamplingSettings()) == []


def test_leaves_random_state_training_mode_and_gradients_alone(sampler, policy, tools):
    policy.train()
    policy.model.layers[0].eval()
    before = [module.training for module in policy.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    sampler.sync_weights()
    sampler.generate(tools.requests(4), SamplingSettings())
    assert torch.equal(state, torch.get_rng_state())
    assert before == [module.training for module in policy.modules()]
    assert torch.is_grad_enabled()
    assert policy.generation_config.top_k == 1
    policy.eval()


@pytest.mark.parametrize("inference", [False, True])
def test_works_inside_training_and_validation_steps(sampler, policy, tools, inference):
    requests = tools.requests(4)
    with (
        torch.inference_mode(inference),
        torch.autocast("cpu", torch.bfloat16, enabled=type(sampler).__name__ == "VLLMSampler"),
    ):
        sampler.sync_weights()
        completions = sampler.generate(requests, GREEDY)
    assert tools.distance(policy, requests, completions) < 1e-4


def test_each_completion_is_told_once_as_it_is_returned(sampler, tools):
    requests, told = tools.requests(), []
    sampler.on_completion = lambda *each: told.append(each)
    completions = sampler.generate(requests, SamplingSettings())
    sampler.on_completion = None
    completion_of = {id(request): completion for request, completion in told}
    assert len(told) == len(completion_of) == len(requests)
    assert all(completion_of[id(r)] is c for r, c in zip(requests, completions, strict=True))


def test_progress_ends_at_the_total(sampler, tools):
    calls = []
    sampler.generate(tools.requests(7), SamplingSettings(), lambda done, total: calls.append((done, total)))
    assert calls[-1] == (7, 7)
    assert calls == sorted(set(calls))


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=0.7, top_p=0.8),
        SamplingSettings(temperature=1.3, top_k=5),
        SamplingSettings(min_p=0.1),
        SamplingSettings(temperature=0.8, top_k=20, top_p=0.7, min_p=0.02),
    ],
)
def test_frequencies_and_logprobs_match_the_settings(sampler, policy, tools, settings):
    draws, prompt = 3000, [17, 30, 60]
    requests = [SamplingRequest(prompt_ids=prompt, max_tokens=1, seed=seed) for seed in range(draws)]
    with torch.no_grad():
        expected = tools.distribution(
            policy(torch.tensor([prompt], device=policy.device)).logits[0, -1].double().cpu(), settings
        )
    counts = torch.zeros_like(expected)
    for completion in sampler.generate(requests, settings):
        (token,) = completion.token_ids
        counts[token] += 1
        assert completion.logprobs[0] == pytest.approx(expected[token].log().item(), abs=1e-4)
    common = expected * draws >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]]) * draws
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    degrees = len(wanted) - 1
    chi_square = ((observed - wanted) ** 2 / wanted).sum().item()
    assert degrees >= 2
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_the_settings_travels_without_the_policy(kind):
    if kind == "vllm":
        from masa_lightning.sampling.vllm import VLLMSampler as Sampler
    else:
        from masa_lightning.sampling.transformers import TransformersSampler as Sampler
    twin = pickle.loads(pickle.dumps(Sampler()))
    with pytest.raises(RuntimeError, match=r"call setup\(policy"):
        twin.generate([], SamplingSettings())
