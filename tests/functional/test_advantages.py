"""Group advantages against a plain loop over groups."""

from __future__ import annotations

import statistics
from math import isclose, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.functional.advantages import decoupled_advantages, group_advantages

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


# -- several rewards, each normalised apart ----------------------------------------------------------------------------

HOW = st.tuples(st.sampled_from(["group", "none", "batch"]), st.sampled_from(["mean", "leave-one-out"]))


@st.composite
def several(draw: st.DrawFn) -> tuple[list[list[float]], list[float], list[int]]:
    """Rewards [N][K], some of which have no spread in a group; weights [K]; groups [N]."""
    n, k = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    value = st.sampled_from([0.0, 1.0, 0.25, -3.0, 1e-3])
    rewards = draw(st.lists(st.lists(value, min_size=k, max_size=k), min_size=n, max_size=n))
    weights = draw(st.lists(st.sampled_from([0.0, 1.0, 0.5, -2.0, 7.0]), min_size=k, max_size=k).filter(any))
    return rewards, weights, draw(st.lists(st.sampled_from([0, 1, 5]), min_size=n, max_size=n))


def decoupled(rewards: list[list[float]], weights: list[float], group: list[int], how: tuple[str, str]) -> list[float]:
    table = torch.tensor(rewards, dtype=torch.float64)
    return decoupled_advantages(table, torch.tensor(weights), torch.tensor(group), *how).tolist()


def close(a: list[float], b: list[float]) -> bool:
    return all(isclose(x, y, rel_tol=1e-5, abs_tol=1e-8) for x, y in zip(a, b, strict=True))


@settings(max_examples=80, deadline=None)
@given(several(), HOW)
def test_several_rewards_equal_a_loop_over_them(
    case: tuple[list[list[float]], list[float], list[int]], how: tuple[str, str]
) -> None:
    rewards, weights, group = case
    apart = [oracle([row[k] for row in rewards], group, *how) for k in range(len(weights))]
    size = 1 if how[0] == "none" else sqrt(sum(w * w for w in weights))
    expected = [sum(w * own[i] for w, own in zip(weights, apart, strict=True)) / size for i in range(len(rewards))]
    assert close(decoupled(rewards, weights, group, how), expected)


@settings(max_examples=60, deadline=None)
@given(several(), HOW, st.randoms(use_true_random=False))
def test_what_several_rewards_do_not_depend_on(
    case: tuple[list[list[float]], list[float], list[int]], how: tuple[str, str], random: object
) -> None:
    rewards, weights, group = case
    before = decoupled(rewards, weights, group, how)
    order = list(range(len(weights)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert close(
        decoupled([[row[k] for k in order] for row in rewards], [weights[k] for k in order], group, how), before
    )
    nothing = [[*row, float(i)] for i, row in enumerate(rewards)]
    assert decoupled(nothing, [*weights, 0.0], group, how) == before  # of weight 0
    # Neither the unit of a reward nor that of all weights matters; groups of one keep their raw reward (as in verl).
    one = [group.count(g) == 1 for g in group]
    if how[0] != "none":
        wider = decoupled([[1000 * row[0] + 5, *row[1:]] for row in rewards], weights, group, how)
        kept = [(a, b) for a, b, alone in zip(before, wider, one, strict=True) if not alone]
        # The divisor has 1e-6 besides a deviation of at least 0.001 / 4, of one reward of 0.001 among 16.
        assert all(isclose(a, b, rel_tol=1e-2, abs_tol=3e-2) for a, b in kept)
        assert close(decoupled(rewards, [3 * w for w in weights], group, how), before)


@settings(max_examples=60, deadline=None)
@given(PAIRS, HOW)
def test_one_reward_alone_has_its_own_advantages(pairs: list[tuple[float, int]], how: tuple[str, str]) -> None:
    rewards, group = map(list, zip(*pairs, strict=True))
    alone = group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(group), *how).tolist()
    assert decoupled([[r] for r in rewards], [1.0], group, how) == alone
    assert close(
        decoupled([[r, 7.0] for r in rewards], [0.5, 0.0], group, how),
        [x * (0.5 if how[0] == "none" else 1) for x in alone],
    )


@settings(max_examples=40, deadline=None)
@given(several(), st.sampled_from(["mean", "leave-one-out"]))
def test_without_a_scale_it_is_the_sum_that_counts(
    case: tuple[list[list[float]], list[float], list[int]], baseline: str
) -> None:
    rewards, weights, group = case
    total = torch.tensor(
        [sum(w * r for w, r in zip(weights, row, strict=True)) for row in rewards], dtype=torch.float64
    )
    expected = group_advantages(total, torch.tensor(group), "none", baseline).tolist()  # type: ignore[arg-type]
    assert close(decoupled(rewards, weights, group, ("none", baseline)), expected)


def test_several_rewards_by_hand() -> None:
    """Two rewards of very different spread, one group in which one of them has none, and weights 1 and 2."""
    rewards = torch.tensor([[1.0, 0.02], [0.0, 0.01], [0.0, 0.0], [1.0, 0.5], [0.0, 0.5]], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1])
    a, b, c = 2 / sqrt(3), 1 / sqrt(3), 1 / sqrt(2)  # of 1, 0, 0 and of 1, 0; those of 0.02, 0.01, 0 are 1, 0, -1
    expected = [(a + 2) / sqrt(5), -b / sqrt(5), (-b - 2) / sqrt(5), c / sqrt(5), -c / sqrt(5)]
    found = decoupled_advantages(rewards, torch.tensor([1.0, 2.0]), group)
    assert found.tolist() == pytest.approx(expected, rel=1e-3)
    sums = group_advantages(rewards @ torch.tensor([1.0, 2.0], dtype=torch.float64), group)
    assert sums.tolist()[1:3] == pytest.approx([-b, -b], abs=0.03)  # where the sum hides the second reward
    # Two rewards that earn 1 in sum either way (GDPO's figure 2): they are told apart by their weights.
    same = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    assert group_advantages(same @ torch.tensor([1.0, 2.0]), torch.tensor([0, 0])).tolist() == [0, 0]
    told = decoupled_advantages(same, torch.tensor([1.0, 2.0]), torch.tensor([0, 0])).tolist()
    assert told == pytest.approx([-c / sqrt(5), c / sqrt(5)], rel=1e-4)


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([[1.0]], [0.0], "not all 0"),
        ([[1.0]], [float("nan")], "finite numbers"),
        ([[1.0]], [1.0, 2.0], r"weights \(2,\)"),
        ([[]], [], r"K >= 1"),
        ([1.0], [1.0], r"expected \[N, K\]"),
        ([[float("inf")]], [1.0], r"rewards\[0\] is inf"),
    ],
)
def test_refuses_of_several(rewards: list[object], weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoupled_advantages(torch.tensor(rewards), torch.tensor(weights), torch.zeros(len(rewards), dtype=torch.long))
