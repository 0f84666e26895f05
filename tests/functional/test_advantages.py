"""Group advantages against a plain loop over groups."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.functional.advantages import group_advantages

PAIRS = st.lists(
    st.tuples(st.floats(-5, 5, width=32), st.sampled_from([-3, 0, 1, 99, 10**12])), min_size=1, max_size=24
)


def oracle(rewards: list[float], group: list[int], scale: str, baseline: str) -> list[float]:
    out = []
    for i, (reward, own) in enumerate(zip(rewards, group, strict=True)):
        members = [r for r, g in zip(rewards, group, strict=True) if g == own]
        others = [r for j, (r, g) in enumerate(zip(rewards, group, strict=True)) if g == own and j != i]
        if not others and (scale == "group" or baseline == "leave-one-out"):
            out.append(reward)
            continue
        centred = reward - statistics.fmean(others if baseline == "leave-one-out" else members)
        if scale == "group":
            centred /= statistics.stdev(members) + 1e-6
        elif scale == "batch" and len(rewards) > 1:
            centred /= statistics.stdev(rewards) + 1e-6
        out.append(centred)
    return out


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(["group", "none", "batch"]), st.sampled_from(["mean", "leave-one-out"]))
def test_equals_a_loop_over_groups(pairs: list[tuple[float, int]], scale: str, baseline: str) -> None:
    rewards, group = map(list, zip(*pairs, strict=True))
    actual = group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(group), scale, baseline)
    expected = torch.tensor(oracle(rewards, group, scale, baseline), dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("baseline", ["mean", "leave-one-out"])
@pytest.mark.parametrize("scale", ["group", "none", "batch"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1, -0.7])
def test_equal_rewards_give_exactly_zero(scale: str, baseline: str, value: float, dtype: torch.dtype) -> None:
    for size in (2, 3, 7, 16, 49):
        rewards = torch.cat([torch.full((size,), value, dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)])
        group = torch.tensor([5] * size + [9, 9])
        advantages = group_advantages(rewards, group, scale, baseline)
        assert (advantages[:size] == 0).all()
        assert (advantages[size:] != 0).all()


def test_group_of_one() -> None:
    rewards, group = torch.tensor([0.25, 1.0, 0.0]), torch.tensor([4, 2, 2])
    assert group_advantages(rewards, group)[0] == 0.25
    assert group_advantages(rewards, group, "none", "leave-one-out")[0] == 0.25
    assert group_advantages(rewards, group, "batch", "leave-one-out")[0] == 0.25
    assert group_advantages(rewards, group, "none")[0] == 0
    assert group_advantages(rewards, group, "batch")[0] == 0
    assert group_advantages(torch.tensor([0.5]), torch.tensor([0]), "batch") == 0


def test_order_and_ids_do_not_matter() -> None:
    rewards, group = torch.rand(30, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([40, -7, 10**10, 3])[group]
    expected = group_advantages(rewards, group)
    torch.testing.assert_close(group_advantages(rewards[order], renamed[order]), expected[order])


def test_dtypes_and_emptiness() -> None:
    group = torch.tensor([0, 0])
    assert group_advantages(torch.tensor([0, 1]), group).dtype == torch.float32
    assert group_advantages(torch.tensor([0, 1], dtype=torch.bfloat16), group).dtype == torch.float32
    assert group_advantages(torch.tensor([0.0, 1.0], dtype=torch.float64), group).dtype == torch.float64
    assert group_advantages(torch.empty(0), torch.empty(0, dtype=torch.long)).shape == (0,)
    assert not group_advantages(torch.tensor([0.0, 1.0], requires_grad=True), group).requires_grad


@pytest.mark.parametrize(
    ("rewards", "group", "scale", "baseline", "message"),
    [
        ([1.0, float("nan")], [0, 0], "group", "mean", r"rewards\[1\] is nan"),
        ([1.0, 2.0], [0], "group", "mean", "equal shapes"),
        ([1.0], [0.0], "group", "mean", "integer ids"),
        ([1.0], [0], "std", "mean", "scale is 'std'"),
        ([1.0], [0], "none", "median", "baseline is 'median'"),
    ],
)
def test_refuses(rewards: list[float], group: list[float], scale: str, baseline: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.tensor(rewards), torch.tensor(group), scale, baseline)  # type: ignore[arg-type]
