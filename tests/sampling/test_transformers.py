"""What is special about sampling with the policy's own `generate`; see test_parity for the rest."""

import copy

import pytest
import torch
from torch import nn

from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import SamplingSettings


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_does_not_change_tokens(tools, batch_size):
    policy = tools.policy()
    requests = tools.requests(11)
    expected = tools.transformers(policy).generate(requests, SamplingSettings())
    got = tools.transformers(policy, batch_size).generate(requests, SamplingSettings())
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]


def test_follows_the_policy_without_a_hand_over(tools):
    policy = tools.policy()
    sampler = tools.transformers(policy)
    tools.change(policy)
    requests = tools.requests()
    assert tools.distance(policy, requests, sampler.generate(requests, SamplingSettings())) < 1e-4


def test_no_stop_token_at_all(tools):
    sampler = TransformersSampler()
    sampler.setup(tools.policy(), "unused", max_model_length=tools.length, stop_token_ids=[])
    requests = tools.requests(4)
    completions = sampler.generate(requests, SamplingSettings())
    assert [len(c.token_ids) for c in completions] == [r.max_tokens for r in requests]
    assert {c.finish_reason for c in completions} == {"length"}


def test_dropout_is_off_while_sampling(tools):
    policy = tools.policy()
    policy.model.embed_tokens.register_forward_hook(
        lambda module, args, out: nn.functional.dropout(out, 0.5, module.training)
    )
    policy.train()
    sampler = tools.transformers(policy)
    requests = tools.requests(3)
    completions = sampler.generate(requests, SamplingSettings())
    policy.eval()
    assert tools.distance(policy, requests, completions) < 1e-4


def test_a_failure_restores_the_policy(tools):
    policy = tools.policy().train()
    sampler = tools.transformers(policy)

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.generate(tools.requests(2), SamplingSettings(), fail)
    assert policy.training
    assert policy.generation_config.top_k == 1


def test_bad_settings_and_policies_are_refused():
    with pytest.raises(ValueError, match="batch_size is 0; expected >= 1"):
        TransformersSampler(0)
    with pytest.raises(TypeError, match="Linear without a generate method"):
        TransformersSampler().setup(nn.Linear(2, 2), "x", max_model_length=4, stop_token_ids=[1])


def test_copying_does_not_copy_the_policy(tools):
    twin = copy.deepcopy(tools.transformers(tools.policy()))
    with pytest.raises(RuntimeError, match="call setup"):
        twin.generate([], SamplingSettings())


def test_bfloat16_policy(tools):
    policy = tools.policy().to(torch.bfloat16)
    completions = tools.transformers(policy).generate(tools.requests(3), SamplingSettings())
    assert all(c.logprobs for c in completions)
