"""Results -> tables of markdown: means over seeds with their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from comparison import metrics as m
from comparison import self_knowledge as k
from comparison.goals import goals
from comparison.runs import Arm
from comparison.shapley import PARTS, arm_of_parts, shapley_by_seed
from masa_lightning.functional.markdown import table
from masa_lightning.report import statistics
from masa_lightning.report.statistics import Estimate

NONE: Final = "\u2013"
TESTED: Final = "test/pass@1"
THRESHOLDS: Final = ((0.1, 0.1), (0.1, 0.05), (0.1, 0.025), (0.05, 0.05))
"""margin and max_std of gating by the rule "fixed"."""
SHADOWED: Final = ("masa", "masa_sft", "efficient")
"""Arms whose cutoff in shadow mode is shown; the others' is about the same."""


def cell(
    found: Estimate | None,
    digits: int = 3,
    *,
    sign: bool = False,
    percent: bool = False,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """A mean with its interval, which is cut where no value can be."""
    if found is None:
        return NONE
    form, scale, unit = f"{'+' if sign else ''}.{digits}f", 100 if percent else 1, "%" if percent else ""
    said = f"{scale * found.value:{form}}{unit}"
    if found.low is None or found.high is None:
        return said
    return f"{said} [{scale * max(found.low, within[0]):{form}}, {scale * min(found.high, within[1]):{form}}]"


def share(found: Estimate | None, digits: int = 3) -> str:
    """A cell of what lies in 0..1."""
    return cell(found, digits, within=(0, 1))


def last(tag: str) -> m.Metric:
    """A scalar at its last step."""
    return lambda result: result.run.last(tag)


def of_goals(results: m.Results) -> str:
    """What holds, and what does not."""
    rows = []
    for goal in goals(results):
        said = cell(goal.found, goal.digits, sign=goal.sign, percent=goal.percent, within=goal.within)
        rows.append([goal.what, goal.wanted, said, NONE if goal.found is None else str(goal.found.n), goal.verdict])
    return table(["", "goal", "measured", "seeds", "holds"], rows)


def overview(results: m.Results) -> str:
    """Every arm by itself."""
    rate, r, amount = (0, 1), (-1, 1), (0, math.inf)
    columns: tuple[tuple[str, m.Metric, int, tuple[float, float]], ...] = (
        ("pass@1", last(TESTED), 3, rate),
        ("r, pass rate", last("test/calibration/pass_rate/pearson"), 2, r),
        ("error, pass rate", last("test/calibration/pass_rate/mae"), 3, rate),
        ("r, length", last("test/calibration/length/pearson"), 2, r),
        ("parsed", last("test/meta/parse_rate"), 2, rate),
        ("generated tokens, thousands", lambda result: (result.spent("tokens") or 0) / 1000, 0, amount),
        ("trained, thousands", lambda result: (result.run.last("tokens_total/trained") or 0) / 1000, 0, amount),
        ("seconds", lambda result: result.spent("seconds"), 0, amount),
    )
    rows = [
        [f"`{arm}`", str(len(runs)), *(cell(m.estimate(runs, f), d, within=w) for _, f, d, w in columns)]
        for arm, runs in results.items()
    ]
    return table(["arm", "seeds", *(label for label, *_ in columns)], rows)


def _pairs(results: m.Results, arms: Sequence[Arm]) -> list[tuple[str, m.Runs, m.Runs]]:
    return [
        (f"`{arm.name}` - `{other}`", results[arm.name], results[other])
        for arm in arms
        for other in arm.against
        if set(results[arm.name]) & set(results.get(other, {}))
    ]


def gains(results: m.Results, arms: Sequence[Arm]) -> str:
    """Pass@1 of arms against others, at equal steps, tokens and seconds; empty without a pair."""
    rows = []
    for label, one, two in _pairs(results, arms):
        metrics = (m.difference(last(TESTED)), m.gain_at_equal("tokens"), m.gain_at_equal("seconds"))
        steps, *others = (cell(m.paired(one, two, metric), sign=True) for metric in metrics)
        rows.append([label, str(len(set(one) & set(two))), steps, cell(m.over_problems(one, two), sign=True), *others])
    head = [
        "pass@1",
        "seeds",
        "equal steps, test",
        "the same, over problems",
        "equal tokens, validation",
        "equal seconds, validation",
    ]
    return table(head, rows) if rows else ""


def costs(results: m.Results, arms: Sequence[Arm]) -> str:
    """What arms cost against others; empty without a pair."""
    kinds: tuple[m.Cost, ...] = ("tokens", "seconds")
    rows = []
    for label, one, two in _pairs(results, arms):
        spent = [m.relative_cost(kind, after_start=after) for after in (False, True) for kind in kinds]
        cells = [cell(m.paired(one, two, metric), 0, sign=True, percent=True) for metric in spent]
        cells += [cell(m.paired(one, two, m.sooner(kind)), 2) for kind in kinds]
        had = [m.has_it(one[seed], two[seed]) for seed in one if seed in two]
        rows.append([label, str(len(had)), *cells, f"{sum(had):.0f}"])
    head = [
        "cost",
        "seeds",
        "tokens",
        "seconds",
        "tokens after the start",
        "seconds after the start",
        "sooner, tokens",
        "sooner, seconds",
        "ever",
    ]
    return table(head, rows) if rows else ""


def controls(results: m.Results) -> str:
    """What gating and cutoff did, or would have done; empty without either."""
    names = ("precision", "recall", "f1", "share", "lost_correct", "saved_tokens")
    rows = []
    for arm, runs in results.items():
        for control in (m.gate_of(runs), "cutoff"):
            if control is None or not any(r.run.series(f"controls/{control}/share") for r in runs.values()):
                continue
            acted = m.estimate(runs, lambda r, c=control: r.acting_mean(c, "acted_share"))
            metrics = [m.estimate(runs, lambda r, c=control, n=name: r.control(c, n)) for name in names]
            rest = [
                m.estimate(runs, lambda r, c=control, n=name: r.control(c, n)) for name in ("evidence", "held_back")
            ]
            if acted is None and control == "cutoff" and arm not in SHADOWED:
                continue
            said = "in shadow" if acted is None else share(acted, 2)
            rows.append(
                [
                    f"`{arm}`",
                    control,
                    said,
                    *map(share, metrics),
                    cell(rest[0], 0, within=(0, math.inf)),
                    share(rest[1], 2),
                ]
            )
    head = [
        "arm",
        "control",
        "acted on",
        "precision",
        "recall",
        "F1",
        "wanted",
        "correct lost",
        "tokens saved",
        "seen (n)",
        "held back",
    ]
    return table(head, rows) if rows else ""


def thresholds(results: m.Results) -> str:
    """The fixed rule of gating on the tested problems."""
    names = ("precision", "recall", "share", "lost_correct", "lost_signal")
    rows = []
    for arm in (name for name in ("masa", "masa_sft", "efficient") if name in results):
        for margin, max_std in THRESHOLDS:
            by_seed = [m.gate_on_test(r, max_std=max_std, margin=margin) for r in results[arm].values()]
            cells = [share(statistics.mean([v[name] for v in by_seed if name in v])) for name in names]
            rows.append([f"`{arm}`", f"{margin:g}", f"{max_std:g}", *cells])
    return table(["arm", "margin", "max_std", "precision", "recall", "gated", "correct lost", "signal lost"], rows)


def found(results: m.Results) -> str:
    """Which problems that teach nothing the fixed rule of each arm finds; empty without such an arm."""
    groups = (("trivial", 1.0), ("hopeless", 0.0), ("open", 1.0), ("open", 0.0))
    rows = []
    for arm in (name for name in ("masa", "efficient") if name in results):
        for tier, outcome in groups:
            by_seed = [m.found_on_test(r, tier, outcome, **m.thresholds(r)) for r in results[arm].values()]
            cells = [
                share(statistics.mean([v[name] for v in by_seed if name in v]), 2)
                for name in ("share", "predicted", "found")
            ]
            rows.append([f"`{arm}`", tier, "all right" if outcome else "all wrong", *cells])
    head = ["arm", "tier", "solutions", "of all that teach nothing", "predicted pass rate", "found"]
    return table(head, rows) if rows else ""


def phases(results: m.Results) -> str:
    """Seconds and tokens of a training step, of the steps in which `efficient` acts; empty without that arm."""
    starts = [r.start for r in results.get("efficient", {}).values() if r.start is not None]
    if not starts:
        return ""
    since = max(starts)
    tags = (
        "tokens/solution",
        "tokens/meta",
        *(f"timing_s/{name}" for name in ("generate", "logprobs", "update", "sft", "step")),
    )

    def mean_of(tag: str) -> m.Metric:
        def metric(result: m.Result) -> float | None:
            values = [v for step, v in result.run.series(tag).items() if step > result.steps[since - 1]]
            return fmean(values) if values else None

        return metric

    rows = []
    for arm in (name for name in ("grpo", "masa", "efficient") if name in results):
        digits = [0 if tag.startswith("tokens") else 2 for tag in tags]
        cells = [cell(m.estimate(results[arm], mean_of(tag)), d) for tag, d in zip(tags, digits, strict=True)]
        rows.append([f"`{arm}`", *cells])
    head = ["arm", "solution tokens", "meta tokens", "generate (s)", "log-probabilities", "update", "ExpertSFT", "step"]
    return table(head, rows)


def hints(results: m.Results) -> str:
    """What hints did; empty without a hint."""
    rows = []
    for arm, runs in results.items():
        names = ("hinted_pass_rate", "plain_pass_rate", "acted_share", "lift")
        metrics = [m.estimate(runs, lambda r, n=name: r.acting_mean("hinting", n)) for name in names]
        if metrics[0] is not None:
            end = m.estimate(runs, lambda r: r.control("hinting", "lift"))
            cells = [*map(share, metrics[:3]), cell(metrics[3], sign=True), cell(end, sign=True)]
            rows.append([f"`{arm}`", str(len(runs)), *cells])
    head = ["arm", "seeds", "pass rate, hinted", "pass rate, plain", "problems hinted", "lift", "lift, last window"]
    return table(head, rows) if rows else ""


def parts(results: m.Results) -> str:
    """Shapley values of the meta reward's parts; empty where no seed has all sets of them."""
    validated = "pass@1 of the validations, their mean"
    metrics: dict[str, m.Metric] = {
        "pass@1 of the test": last(TESTED),
        validated: lambda result: fmean([y for _, y in result.curve("steps")[1:]] or [float("nan")]),
    }
    rows = []
    for label, metric in metrics.items():
        if by_seed := shapley_by_seed(results, metric):
            found = [statistics.mean([values[part] for values in by_seed.values()]) for part in PARTS]
            rows.append([label, str(len(by_seed)), *(cell(value, 4, sign=True) for value in found)])
    return table(["what a part adds to", "seeds", *PARTS], rows) if rows else ""


def strategies(results: m.Results) -> str:
    """Whether notions were learned, of the arms that differ in the parts of the meta reward; empty without any of them."""
    sets = (s for size in range(len(PARTS) + 1) for s in itertools.combinations(PARTS, size))
    arms = [arm for arm in map(arm_of_parts, sets) if arm in results]
    before = {seed: r.run.evaluated for seed, r in (results[arms[0]].items() if arms else ())}
    untrained = {seed: e for seed, each in before.items() for e in each if (e.stage, e.step) == ("validate", 0)}
    lines = [("before training", untrained)]
    lines += [(f"`{arm}`", {seed: r.tested for seed, r in results[arm].items()}) for arm in arms]
    rows = []
    for label, by_seed in lines:
        known = [found for evaluated in by_seed.values() if (found := m.right_strategies(evaluated))]
        if known:
            found = [statistics.mean([seed[name] for seed in known if name in seed]) for name in ("named", "used", "r")]
            cells = [share(found[0], 2), share(found[1], 2), cell(found[2], 2, within=(-1, 1))]
            rows.append([label, str(len(known)), *cells])
    head = ["arm", "seeds", "predictions that name it", "solutions that use it", "r, over problems"]
    return table(head, rows) if rows else ""


def further_tests(results: m.Results, arms: Sequence[Arm]) -> str:
    """Tests on other problems, beside the usual one, and their paired differences; empty without any."""
    metrics = {
        "pass@1": (TESTED, 3, 0),
        "r, pass rate": ("test/calibration/pass_rate/pearson", 2, -1),
        "error, pass rate": ("test/calibration/pass_rate/mae", 3, 0),
        "r, length": ("test/calibration/length/pearson", 2, -1),
    }

    def of(test: str | None, tag: str) -> m.Metric:
        return lambda result: _tested(result, test, tag)

    rows = []
    tested = [arm for arm in arms if arm.tests]
    for test in dict.fromkeys((None, *(test for arm in tested for test in arm.tests))):
        said = "kinds of training" if test is None else test
        for arm in tested:
            found = [m.estimate(results[arm.name], of(test, tag)) for tag, *_ in metrics.values()]
            cells = [
                cell(one, digits, within=(least, 1))
                for one, (_, digits, least) in zip(found, metrics.values(), strict=True)
            ]
            rows.append([f"`{arm.name}`", said, str(found[0].n if found[0] else 0), *cells])
        for label, one, two in _pairs(results, tested):
            pairs = [m.paired(one, two, m.difference(of(test, tag))) for tag, *_ in metrics.values()]
            cells = [
                cell(pair, digits, sign=True, within=(least - 1, 1 - least))
                for pair, (_, digits, least) in zip(pairs, metrics.values(), strict=True)
            ]
            rows.append([label, said, str(pairs[0].n if pairs[0] else 0), *cells])
    return table(["arm", "tested on", "seeds", *metrics], rows) if rows else ""


def _tested(result: m.Result, test: str | None, tag: str) -> float | None:
    """What the usual test found, or a further one by its name."""
    run = result.run if test is None else result.tests.get(test)
    return None if run is None else run.last(tag)


def self_knowledge(results: m.Results, arms: Sequence[Arm]) -> str:
    """Predicted pass rates beside stated confidences, of the same solutions, and what each costs; empty without any."""
    rows = []
    for arm in arms:
        runs = results[arm.name]
        for test in (None, *arm.tests):
            said = "kinds of training" if test is None and arm.tests else test or "all"
            for kind, found in k.estimates(k.tested_on(runs, test)).items():
                sign = kind == k.LESS
                within = {"sign": sign, "within": (-1, 1) if sign else (0, 1)}
                cells = [cell(found[name], **within) for name in k.METRICS[:-1]]
                cells.append(cell(found[k.METRICS[-1]], 2, sign=sign))
                tag = {k.AFTER: "test/confidence/parse_rate", k.LESS: ""}.get(kind, "test/meta/parse_rate")
                read = m.estimate(runs, lambda r, test=test, tag=tag: _tested(r, test, tag))
                cost = [NONE, NONE]
                if kind in (k.BEFORE, k.AFTER) and test is None:
                    each = m.estimate(runs, lambda r, kind=kind: k.tokens_each(r, kind))
                    part = m.estimate(runs, lambda r, kind=kind: k.share_of_tokens(r, kind))
                    cost = [cell(each, 1), cell(part, 0, percent=True)]
                rows.append([f"`{arm.name}`", said, str(len(runs)), kind, *cells, share(read, 2), *cost])
    head = [
        "arm",
        "tested on",
        "seeds",
        "self-knowledge",
        *k.METRICS,
        "read",
        "tokens each",
        "of the tokens of training",
    ]
    return table(head, rows) if rows else ""
