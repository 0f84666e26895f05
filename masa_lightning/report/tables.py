"""The tables of a report: what came out, what the controls did, where the tokens went, which settings differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from masa_lightning.functional.intervals import paired_differences
from masa_lightning.quantities import ShownQuantity
from masa_lightning.report import statistics
from masa_lightning.report.curves import at_validation
from masa_lightning.report.quantities import predicted
from masa_lightning.report.runs import Arm, asked_alike
from masa_lightning.report.settings import Flat, differing
from masa_lightning.report.statistics import Estimate
from masa_lightning.report.text import NONE, span

Table = dict[str, Any]
"""``head``, ``rows`` of texts, and for each row the number of its arm, or none."""

PURPOSES: Final = (
    ("solution", "solutions, generated"),
    ("meta", "predictions, generated"),
    ("prompt", "prompts of solutions"),
    ("meta_prompt", "prompts of predictions"),
    ("sft", "cloned (expert SFT)"),
    ("trained", "trained on"),
)
_CONTROL: Final = re.compile(r"controls/(\w{1,40})/(?:acted_share|share|lift|evidence)")
_MODE: Final = re.compile(r"trainer\.callbacks\.(\w+)\.init_args\.mode")
_BOUNDS: Final = (
    (re.compile("(pearson|lift)$"), (-1.0, 1.0)),
    (re.compile("(pass@1|maj|share|precision|recall|lost_correct|saved_tokens|held_back)$"), (0.0, 1.0)),
    (re.compile("(error|mae|evidence|length)$|^tokens_total/"), (0.0, None)),
)
_CLASSES: Final = {
    "gating": "PredictiveGating",
    "cutoff": "EarlyCutoff",
    "hinting": "NotionHinting",
    "history": "HistoryGating",
}


def overview(arms: Sequence[Arm]) -> Table:
    """One line an arm: held-out pass@1 before and after, how well it predicts itself, and what that cost."""
    head = ["", "runs", "training steps", "validated at", "pass@1, first validation", "pass@1, last", "change"]
    quantities = predicted(arms)
    main, others = quantities[:1], [(q, _error(q, arms)) for q in quantities[1:]]
    for q in main:
        head += [f"r of {q.words}s, first", "r, last", "bias, last"]
    head += [f"{q.words} {'r' if metric == 'pearson' else 'error'}, last" for q, metric in others]
    of_tests = ["test/pass@1", *(q.tag("pearson", "test/") for q in main)]
    head += ["pass@1 of the test", *("r of the test" for _ in main), "tokens generated", "time in training"]
    rows = []
    for arm in arms:
        first, last = _validation_steps(arm)
        tokens = [t for run in arm.runs if (t := run.generated) is not None]
        seconds = [s for run in arm.runs if (s := run.seconds) is not None]
        rows.append(
            [
                arm.label,
                str(len(arm.runs)),
                span([run.steps for run in arm.runs if run.steps]),
                _moments(first, last, any(run.series("val/pass@1") for run in arm.runs)),
                _cell(_evaluated(arm, "val/pass@1", first)) if last else NONE,
                _cell(_evaluated(arm, "val/pass@1", last or first)),
                _change(arm),
                *(cell for q in main for cell in _of_main(q, arm, first, last)),
                *(_cell(_evaluated(arm, q.tag(metric, "val/"), last or first)) for q, metric in others),
                *(_cell(last_evaluated(arm, tag)) for tag in of_tests),
                f"{fmean(tokens):,.0f}" if tokens else NONE,
                _duration(fmean(seconds)) if seconds else NONE,
            ]
        )
    trivial = (NONE, "1")  # one run, as of each arm
    kept = [0, *(index for index in range(1, len(head)) if any(row[index] not in trivial for row in rows))]
    return {
        "head": [head[p] for p in kept],
        "rows": [[row[p] for p in kept] for row in rows],
        "arms": [*range(len(arms))],
    }


def _of_main(quantity: ShownQuantity, arm: Arm, first: Sequence[int], last: Sequence[int]) -> list[str]:
    r, bias = quantity.tag("pearson", "val/"), quantity.tag("bias", "val/")
    return [
        _cell(_evaluated(arm, r, first)) if last else NONE,
        _cell(_evaluated(arm, r, last or first)),
        _cell(_evaluated(arm, bias, last or first), sign=True),
    ]


def _error(quantity: ShownQuantity, arms: Sequence[Arm]) -> str:
    """The metric that says how far predictions are off, as far as any was logged."""
    logged = {tag for arm in arms for run in arm.runs for tag in run.scalars}
    return next((m for m in ("abs_rel_error", "mae") if quantity.tag(m, "val/") in logged), "pearson")


def controls(arms: Sequence[Arm]) -> list[str]:
    """Names of the controls that any run logged."""
    names = {m[1] for arm in arms for run in arm.runs for tag in run.scalars if (m := _CONTROL.fullmatch(tag))}
    return sorted(names)[:12]


def control_table(arms: Sequence[Arm]) -> Table:
    """What each control did, by its last metrics, which look back on a window of steps, and what it saved in all."""
    columns = (
        ("acted on", "acted_share"),
        ("would act on", "share"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("right solutions lost", "lost_correct"),
        ("tokens saved, share", "saved_tokens"),
        ("lift", "lift"),
        ("seen in full (n)", "evidence"),
        ("held back", "held_back"),
    )
    head = ["", "control", "mode", *(title for title, _ in columns), "tokens saved in all", "tokens of audits"]
    rows, owners = [], []
    for number, arm in enumerate(arms):
        for name in controls([arm]):
            stem = f"controls/{name}/"
            cells = [_cell(_last(arm, stem + metric), digits=0 if metric == "evidence" else 3) for _, metric in columns]
            totals = [_cell(_last(arm, f"tokens_total/{kind}_{name}"), digits=0) for kind in ("saved", "audit")]
            rows.append([arm.label, name, _mode(arm, name), *cells, *totals])
            owners.append(number)
    return {"head": head, "rows": rows, "arms": owners}


def token_table(arms: Sequence[Arm]) -> Table:
    """Tokens of training by what they were for, in all."""
    names = [*PURPOSES]
    for tag in sorted({tag for arm in arms for run in arm.runs for tag in run.scalars}):
        match = re.fullmatch(r"tokens_total/(saved|audit)_(\w{1,40})", tag)
        if match:
            names.append((f"{match[1]}_{match[2]}", f"{'saved by' if match[1] == 'saved' else 'audits of'} {match[2]}"))
    rows = []
    for name, title in names:
        cells = [_cell(_last(arm, f"tokens_total/{name}"), digits=0) for arm in arms]
        if any(cell != NONE for cell in cells):
            rows.append([title, *cells])
    return {"head": ["tokens", *(arm.label for arm in arms)], "rows": rows, "arms": []}


def token_bars(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Generated, read and cloned tokens of each arm, means over its seeds."""
    bars = []
    for number, arm in enumerate(arms):
        parts = [(title, _last(arm, f"tokens_total/{name}")) for name, title in PURPOSES if name != "trained"]
        known = [[title, round(estimate.value)] for title, estimate in parts if estimate is not None]
        if known:
            bars.append({"arm": number, "parts": known})
    return bars


def benchmark_table(arms: Sequence[Arm]) -> Table:
    """Pass@1 and more of each benchmark, of `BenchmarkReport`."""
    known = {name for arm in arms for run in arm.runs for b in run.benchmarks for name in b["metrics"]}
    quantities = [q for n, q in enumerate(predicted(arms)) if n == 0 or q.tag("pearson") in known]
    shown = [("pass@1", 3), ("maj", 3), *((q.tag("pearson"), 2) for q in quantities), ("completions/mean_length", 0)]
    rows, owners = [], []
    for number, arm in enumerate(arms):
        names = dict.fromkeys(b["name"] for run in arm.runs for b in run.benchmarks)
        for name in names:
            found = [b for run in arm.runs for b in run.benchmarks if b["name"] == name]
            cells = [_benchmark(found, metric, digits) for metric, digits in shown]
            rows.append([arm.label, name, span([b["problems"] for b in found]), *cells])
            owners.append(number)
    head = ["", "benchmark", "problems", "pass@1", "vote", *(f"r of the {q.words}" for q in quantities)]
    head.append("tokens a solution")
    return {"head": head, "rows": rows, "arms": owners}


def settings_tables(arms: Sequence[Arm]) -> dict[str, Table]:
    """The settings that differ between runs, and all of them."""
    known = [run for arm in arms for run in arm.runs if run.settings]
    runs, alike = [run.settings for run in known], asked_alike(known)
    names = [name for name in differing(runs) if name not in alike][:200] if len(runs) > 1 else []
    everything = list(dict.fromkeys(name for flat in runs for name in flat))[:600]
    head = ["setting", *(arm.label for arm in arms)]
    return {
        key: {"head": head, "rows": [[n, *(_setting(arm, n) for arm in arms)] for n in chosen], "arms": []}
        for key, chosen in (("differing", names), ("all", everything))
    }


def _setting(arm: Arm, name: str) -> str:
    values = list(dict.fromkeys(run.settings.get(name, NONE) for run in arm.runs))
    text = ", ".join(values)
    return text if len(text) <= 300 else f"{text[:300]} [...]"


def _benchmark(found: Sequence[dict[str, Any]], metric: str, digits: int) -> str:
    values = []
    for each in found:
        metrics = each["metrics"]
        key = next((k for k in metrics if k.startswith("maj@")), "") if metric == "maj" else metric
        if key in metrics:
            values.append(
                Estimate(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"), each["problems"])
            )
    one = values[0] if len(values) == 1 else statistics.mean([v.value for v in values])
    return _cell(one and one.within(*_bounds(metric)), digits=digits)


def _mode(arm: Arm, control: str) -> str:
    return ", ".join(dict.fromkeys(_mode_of(run.settings, control) for run in arm.runs))


def _mode_of(settings: Flat, control: str) -> str:
    """The mode of a control; one of a user is the callback with a mode whose class has its name, or the only one."""
    modes = {m[1]: value for name, value in settings.items() if (m := _MODE.fullmatch(name))}
    if control in _CLASSES:
        return modes.get(_CLASSES[control], NONE)
    own = [name for name in modes if name not in _CLASSES.values()]
    named = [name for name in own if control.replace("_", "").lower() in name.lower()]
    return modes[(named or own)[0]] if len(named or own) == 1 else NONE


def _moments(first: Sequence[int], last: Sequence[int], known: bool) -> str:
    return NONE if not known else f"{span(first)} and {span(last)}" if last else span(first)


def _last(arm: Arm, tag: str) -> Estimate | None:
    found = statistics.mean([value for run in arm.runs if (value := run.last(tag)) is not None])
    return found and found.within(*_bounds(tag))


def last_evaluated(arm: Arm, tag: str) -> Estimate | None:
    """A metric of the last validations or tests."""
    return _evaluated(arm, tag, [max(run.series(tag), default=0) for run in arm.runs])


def _validation_steps(arm: Arm) -> tuple[list[int], list[int]]:
    """Steps of the first and the last validation of each run; no last ones where all runs have one alone."""
    series = [run.series("val/pass@1") for run in arm.runs]
    first, last = [min(s, default=0) for s in series], [max(s, default=0) for s in series]
    return first, last if first != last else []


def _evaluated(arm: Arm, tag: str, steps: Sequence[int]) -> Estimate | None:
    pairs = [(run, step) for run, step in zip(arm.runs, steps, strict=True) if step in run.series(tag)]
    if len(pairs) == 1:
        return at_validation(pairs[0][0], tag, pairs[0][1])
    found = statistics.mean([run.series(tag)[step] for run, step in pairs])
    return found and found.within(*_bounds(tag))


def _bounds(tag: str) -> tuple[float | None, float | None]:
    """What a metric cannot leave: Student's interval over seeds knows nothing of it."""
    return next((bounds for pattern, bounds in _BOUNDS if pattern.search(tag)), (None, None))


def _change(arm: Arm) -> str:
    """The difference of pass@1: over seeds, or of one run over the problems that both validations have."""
    if why := next((run.unlike for run in arm.runs if run.unlike), ""):
        return f"not measured alike: {why}"
    if len(arm.runs) > 1:
        series = [s for run in arm.runs if len(s := run.series("val/pass@1")) > 1]
        difference = statistics.mean([s[max(s)] - s[min(s)] for s in series])
    else:
        validations = arm.runs[0].of_stage("validate")
        first, last = (validations[index].rates if len(validations) > 1 else {} for index in (0, -1))
        difference = statistics.mean(paired_differences(first, last))
    if difference is None:
        return NONE
    text = _cell(difference, sign=True)
    if difference.low is None or difference.high is None:
        return text
    return f"{text}{', may be chance' if difference.low <= 0 <= difference.high else ''}"


def _cell(estimate: Estimate | None, *, digits: int = 3, sign: bool = False) -> str:
    if estimate is None:
        return NONE
    form = f"{'+' if sign else ''},.{digits}f"
    text = f"{estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
