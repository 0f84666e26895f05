"""What was hoped for of the controls, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from comparison.metrics import (
    Cost,
    Metric,
    Result,
    Results,
    difference,
    estimate,
    gain_at_equal,
    gate_on_test,
    paired,
    relative_cost,
    sooner,
    thresholds,
)
from masa_lightning.report.statistics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A metric, and within which bounds it is wanted."""

    what: str
    found: Estimate | None
    least: float | None = None
    most: float | None = None
    digits: int = 3
    sign: bool = False
    percent: bool = False
    within: tuple[float, float] = (-float("inf"), float("inf"))
    """Where its values can be: intervals are shown cut there."""

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        low, high = (None if bound is None else self._said(bound) for bound in (self.least, self.most))
        if low and high:
            return f"{low} to {high}"
        return f"\u2265 {low}" if low else f"\u2264 {high}"

    @property
    def verdict(self) -> str:
        """Whether the whole interval meets it, the mean alone, or not even that."""
        if self.found is None:
            return "not measured"
        if not self._meets(self.found.value):
            return "no"
        return "yes" if self._meets(self.found.low) and self._meets(self.found.high) else "not shown"

    def _said(self, bound: float) -> str:
        return f"{bound:{'+' if self.sign and bound else ''}{'.0%' if self.percent else 'g'}}"

    def _meets(self, value: float | None) -> bool:
        low, high = (
            -float("inf") if self.least is None else self.least,
            float("inf") if self.most is None else self.most,
        )
        return value is not None and low <= value <= high


def goals(results: Results) -> list[Goal]:
    """All goals, with what was measured of them."""

    def of(arm: str, metric: Metric) -> Estimate | None:
        return estimate(results.get(arm, {}), metric)

    def pair(first: str, second: str, metric: Callable[[Result, Result], float | None]) -> Estimate | None:
        return paired(results.get(first, {}), results.get(second, {}), metric)

    def last(tag: str) -> Metric:
        return lambda result: result.run.last(tag)

    def gating(metric: str) -> Estimate | None:
        return of("efficient", lambda result: result.control("gating", metric))

    def gating_on_test(metric: str) -> Estimate | None:
        return of("efficient", lambda result: gate_on_test(result, **thresholds(result)).get(metric))

    def saved(other: str, cost: Cost) -> Estimate | None:
        return pair("efficient", other, relative_cost(cost, after_start=True))

    def gain(first: str, second: str) -> Estimate | None:
        return pair(first, second, difference(last("test/pass@1")))

    r = {kind: of("masa", last(f"test/calibration/{kind}/pearson")) for kind in ("pass_rate", "length")}
    lift = of("masa_hints", lambda result: result.acting_mean("hinting", "lift"))
    equal_tokens = pair("masa", "grpo", gain_at_equal("tokens"))
    notions = "MASA with notions weighted most"
    after, end = (
        "MASA-efficient against {} after the start",
        "to GRPO's last pass@1: MASA-efficient sooner by the factor",
    )
    acts, rule = "gating while it acts, by its audits", "the same rule on all test problems"
    return [
        Goal(
            what="correlation of predicted and actual pass rate, MASA", found=r["pass_rate"], least=0.9, within=(-1, 1)
        ),
        Goal(what="correlation of predicted and actual length, MASA", found=r["length"], least=0.95, within=(-1, 1)),
        Goal(what=f"{acts}: precision", found=gating("precision"), least=0.95, within=(0, 1)),
        Goal(what=f"{acts}: recall", found=gating("recall"), least=0.87, within=(0, 1)),
        Goal(
            what=f"{acts}: correct rollouts lost",
            found=gating("lost_correct"),
            most=0.01,
            digits=1,
            percent=True,
            within=(0, 1),
        ),
        Goal(what=f"{rule}: precision", found=gating_on_test("precision"), least=0.95, within=(0, 1)),
        Goal(what=f"{rule}: recall", found=gating_on_test("recall"), least=0.87, within=(0, 1)),
        Goal(
            what=f"{rule}: correct rollouts lost",
            found=gating_on_test("lost_correct"),
            most=0.01,
            digits=1,
            percent=True,
            within=(0, 1),
        ),
        Goal(
            what=f"{after.format('MASA')}: generated tokens",
            found=saved("masa", "tokens"),
            most=-0.45,
            digits=0,
            sign=True,
            percent=True,
        ),
        Goal(
            what=f"{after.format('MASA')}: seconds",
            found=saved("masa", "seconds"),
            most=-0.35,
            digits=0,
            sign=True,
            percent=True,
        ),
        Goal(
            what="pass@1, MASA-efficient less MASA", found=gain("efficient", "masa"), least=-0.01, most=0.01, sign=True
        ),
        Goal(
            what=f"{after.format('GRPO')}: generated tokens",
            found=saved("grpo", "tokens"),
            most=0,
            digits=0,
            sign=True,
            percent=True,
        ),
        Goal(
            what=f"{after.format('GRPO')}: seconds",
            found=saved("grpo", "seconds"),
            most=0,
            digits=0,
            sign=True,
            percent=True,
        ),
        Goal(what="pass@1, MASA-efficient less GRPO", found=gain("efficient", "grpo"), least=0, sign=True),
        Goal(what=f"seconds {end}", found=pair("efficient", "grpo", sooner("seconds")), least=1.28, digits=2),
        Goal(what=f"tokens {end}", found=pair("efficient", "grpo", sooner("tokens")), least=1.28, digits=2),
        Goal(what="lift of hints where they act", found=lift, least=0, sign=True),
        Goal(what="pass@1, MASA less GRPO, at equal steps", found=gain("masa", "grpo"), least=0, sign=True),
        Goal(what="pass@1, MASA less GRPO, at equal tokens (validation)", found=equal_tokens, least=0, sign=True),
        Goal(
            what=f"correlation of predicted and actual pass rate, {notions}",
            found=of("notion_most", last("test/calibration/pass_rate/pearson")),
            least=0.8,
            within=(-1, 1),
        ),
        Goal(
            what=f"pass@1, {notions} less GRPO, at equal steps", found=gain("notion_most", "grpo"), least=0, sign=True
        ),
        Goal(
            what=f"pass@1, {notions} less GRPO, at equal tokens (validation)",
            found=pair("notion_most", "grpo", gain_at_equal("tokens")),
            least=0,
            sign=True,
        ),
    ]
