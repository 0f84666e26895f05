"""What each part of the meta reward adds to a metric."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from comparison.metrics import Metric, Results

PARTS: Final = ("notion", "difficulty", "length")


def shapley(value: Mapping[frozenset[str], float], parts: Sequence[str] = PARTS) -> dict[str, float]:
    r"""Shapley values (1953): what each part adds, on average over the orders in which parts are added.

    .. math::

        \phi_i = \sum_{S \not\ni i} \frac{|S|! (n - |S| - 1)!}{n!} (v(S \cup i) - v(S))

    Args:
        value: v of every subset of the parts.
        parts: Their names.

    >>> shapley({frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 0.0, frozenset("ab"): 3.0}, "ab")
    {'a': 2.0, 'b': 1.0}
    """
    n = math.factorial(len(parts))
    values = {}
    for part in parts:
        others = [p for p in parts if p != part]
        subsets = [frozenset(s) for k in range(len(parts)) for s in itertools.combinations(others, k)]
        weights = [math.factorial(len(s)) * math.factorial(len(parts) - len(s) - 1) / n for s in subsets]
        values[part] = math.fsum(w * (value[s | {part}] - value[s]) for s, w in zip(subsets, weights, strict=True))
    return values


def arm_of_parts(parts: Iterable[str]) -> str:
    """The arm whose meta reward has these parts.

    >>> arm_of_parts(["notion"]), arm_of_parts(["notion", "length"]), arm_of_parts([])
    ('notion_alone', 'without_difficulty', 'grpo')
    """
    left = set(parts)
    if len(left) == 1:
        return f"{left.pop()}_alone"
    missing = [part for part in PARTS if part not in left]
    return f"without_{missing[0]}" if len(missing) == 1 else "grpo" if missing else "masa"


def shapley_by_seed(results: Results, metric: Metric) -> dict[int, dict[str, float]]:
    """Shapley values of the meta reward's parts in a metric, of the seeds that have all eight arms."""
    subsets = [frozenset(s) for k in range(len(PARTS) + 1) for s in itertools.combinations(PARTS, k)]
    by_seed = {}
    for seed in results.get("masa", {}):
        runs = {s: results.get(arm_of_parts(s), {}).get(seed) for s in subsets}
        values = {s: v for s, run in runs.items() if run is not None and (v := metric(run)) is not None}
        if len(values) == len(subsets):
            by_seed[seed] = shapley(values)
    return by_seed
