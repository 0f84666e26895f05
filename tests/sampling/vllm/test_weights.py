"""Copied hand-overs of a policy that changes, with an engine that is nothing but its weights."""

import copy

import pytest
import torch
from torch import nn

from masa_lightning.sampling.vllm.weights import HandOver


class Engine:
    """What `HandOver` needs of an engine."""

    def __init__(self, policy):
        self.model = copy.deepcopy(policy)
        self.model.packed_modules_mapping = {}
        self.model.load_weights = self.load_weights
        self.loads = 0

    def apply_model(self, function):
        return [function(self.model)]

    def load_weights(self, weights):
        self.loads += 1
        named = dict(self.model.named_parameters())
        for name, weight in weights:
            assert named[name].shape == weight.shape, name
            named[name].data.copy_(weight)
        return set(named)


def make_policy():
    return nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Sequential(nn.Linear(3, 3), nn.ReLU())})


def same(policy, engine):
    mine, theirs = dict(policy.named_parameters()), dict(engine.model.named_parameters())
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n].to(theirs[n]), theirs[n]) for n in mine)


def swap(policy):
    a, b = policy["a"], policy["b"]
    a.weight, b.weight = b.weight, a.weight


def rename(policy):
    for name, module in zip("ba", [policy.pop("a"), policy.pop("b")], strict=True):
        policy[name] = module
    policy["c"] = policy.pop("c")


CHANGES = {
    "an optimiser step": lambda p: p["a"].weight.data.add_(1),
    "another storage": lambda p: setattr(p["a"].weight, "data", p["a"].weight.data + 1),
    "another parameter": lambda p: setattr(p["a"], "weight", nn.Parameter(torch.randn(3, 3))),
    "another module": lambda p: p["c"].__setitem__(0, nn.Linear(3, 3)),
    "another parent": lambda p: p.__setitem__("c", nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
    "swapped parameters": swap,
    "renamed modules": rename,
    "another dtype": lambda p: p.bfloat16()["a"].weight.add_(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_copied_hand_over_follows_whatever_becomes_of_the_policy(change):
    policy = make_policy()
    engine = Engine(policy)
    hand_over = HandOver(engine, policy)
    for _ in range(2):
        with torch.no_grad():
            change(policy)
        assert not same(policy, engine)
        hand_over()
        assert same(policy, engine)
    assert engine.loads == 1


@pytest.mark.parametrize("shape", [(1, 3), (4, 3)])
def test_a_weight_of_another_shape_goes_to_the_engine_to_judge(shape):
    policy = make_policy()
    hand_over = HandOver(Engine(policy), policy)
    hand_over()
    policy["a"].weight.data = torch.randn(shape)
    with pytest.raises(AssertionError, match=r"a\.weight"):
        hand_over()


def test_an_added_parameter_is_not_overlooked():
    policy = make_policy()
    hand_over = HandOver(Engine(policy), policy)
    hand_over()
    policy["c"][1].weight = nn.Parameter(torch.randn(3))
    with pytest.raises(KeyError, match=r"c\.1\.weight"):
        hand_over()
