"""The numbers of a page: means over seeds and steps with their intervals, predictions, reliability, controls, tokens."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from scipy import stats

import masa_lightning
from masa_lightning.callbacks._control import PredictionControl
from masa_lightning.report import curves, predictions, tables
from masa_lightning.report.contents import contents
from masa_lightning.report.records import Evaluated, ProblemRecord
from masa_lightning.report.runs import Arm, Run, arms, find_runs, load_runs


@pytest.fixture(scope="module")
def data(runs: Path) -> dict[str, Any]:
    return contents(load_runs(find_runs([runs])))


def made(scalars: dict[str, dict[int, float]], evaluated: list[Evaluated] | None = None, name: str = "a") -> Run:
    return Run(
        name=name, scalars=scalars, settings={}, settings_file="", evaluated=evaluated or [], benchmarks=[], notes=[]
    )


CHART = curves.Chart(title="", y="", lines=(("pass_rate", ""),))


def interval(values: list[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=fmean(values), scale=stats.sem(values))
    return float(low), float(high)


def test_a_line_of_one_run_is_of_means_over_steps() -> None:
    series = {step: (step * 37 % 11) / 11 for step in range(1, 101)}
    drawn = curves.draw(CHART, [Arm(label="a", runs=[made({"pass_rate": series})])])
    assert drawn is not None
    points = drawn["lines"][0]["points"]
    assert len(points) == 20
    values = [series[step] for step in range(6, 11)]
    assert points[1] == pytest.approx([8, fmean(values), *interval(values), 5], abs=1e-4)
    assert drawn["note"] == "n = 5 steps at each of 20 points; 95% interval over steps (Student's t)"
    assert drawn["lines"][0]["raw"] == [[step, pytest.approx(value, abs=1e-4)] for step, value in series.items()]


def test_a_line_of_seeds_is_of_means_over_them() -> None:
    series = [{step: seed + step / 100 for step in range(1, 101)} for seed in (0, 1, 5)]
    arm = Arm(label="a", runs=[made({"pass_rate": each}) for each in series])
    drawn = curves.draw(curves.Chart(title="", y="", lines=(("pass_rate", ""),), bounds=(0, None)), [arm])
    assert drawn is not None
    means = [fmean(each[step] for step in range(6, 11)) for each in series]
    low, high = interval(means)
    assert low < 0
    assert drawn["lines"][0]["points"][1] == pytest.approx([8, fmean(means), 0, high, 3], abs=1e-3)
    assert drawn["note"] == "n = 3 seeds at each of 20 points; 95% interval over seeds (Student's t)"


@pytest.mark.parametrize(("length", "ends"), [(22, [5, 10, 15, 22]), (25, [5, 10, 15, 20, 25])])
@pytest.mark.parametrize("every", [1, 10])
def test_the_last_steps_are_no_point_of_their_own(length: int, ends: list[int], every: int) -> None:
    """Of two steps an interval is huge."""
    series = {step * every: step / 100 for step in range(1, length + 1)}
    drawn = curves.draw(CHART, [Arm(label="a", runs=[made({"pass_rate": series})])])
    assert drawn is not None
    points = drawn["lines"][0]["points"]
    starts = [0, *ends]
    assert [point[4] for point in points] == [end - start for start, end in zip(starts, ends, strict=False)]
    assert [point[0] for point in points] == [
        every * (start + 1 + end) / 2 for start, end in zip(starts, ends, strict=False)
    ]


def test_a_chart_says_what_all_its_lines_rest_on() -> None:
    runs = [
        made({"pass_rate": {step: step / 100 for step in range(1, last)}}, name=name)
        for name, last in (("a", 31), ("b", 22), ("c", 8))
    ]
    drawn = curves.draw(CHART, [Arm(label=run.name, runs=[run]) for run in runs])
    assert drawn is not None
    assert (
        drawn["note"]
        == "n = 5 to 6 steps at each of 4 to 6 points; 95% interval over steps (Student's t) | n = 7 steps; no interval"
    )


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.1 + 0.2, 0.3]])
def test_values_that_are_equal_have_no_interval(values: list[float]) -> None:
    scalars = [{"pass_rate": {1: value}, "val/pass@1": {0: 0.5, 1: value}} for value in values]
    arm = Arm(label="a", runs=[made(each) for each in scalars])
    drawn = curves.draw(CHART, [arm])
    assert drawn is not None
    assert drawn["lines"][0]["points"][0][2:4] == [None, None]
    assert "no interval" in drawn["note"]
    assert "[" not in "".join(tables.overview([arm])["rows"][0])


def test_intervals_of_single_steps_are_over_problems() -> None:
    name = "calibration/pass_rate"
    scalars = {f"{name}/pearson": {1: 0.5, 2: 0.6}, f"{name}/count": {1: 30, 2: 30}}
    chart = curves.Chart(title="", y="", lines=((f"{name}/pearson", ""),))
    drawn = curves.draw(chart, [Arm(label="a", runs=[made(scalars)])])
    assert drawn is not None
    assert drawn["note"] == "n = 30 problems at each of 2 steps; 95% interval over problems (Fisher's)"
    assert drawn["lines"][0]["points"][0] == pytest.approx([1, 0.5, 0.170, 0.729, 30], abs=1e-3)  # Fisher's


def test_validations_have_the_interval_of_their_figures() -> None:
    run = made(
        {
            "val/pass@1": {0: 0.5, 9: 0.7},
            "val/pass@1_low": {0: 0.4, 9: 0.6},
            "val/pass@1_high": {0: 0.6, 9: 0.8},
            "val/calibration/pass_rate/count": {0: 30, 9: 30},
            "val/calibration/pass_rate/pearson": {9: 0.5},
            "val/calibration/pass_rate/predicted_mean": {9: 0.5},
            "val/calibration/pass_rate/predicted_std": {9: 0.1},
        }
    )
    assert curves.at_validation(run, "val/pass@1", 9) == (0.7, 0.6, 0.8, 0)  # that 30 have predictions says nothing
    run.evaluated = evaluations([0.5] * 40, [0.7] * 40)
    assert curves.at_validation(run, "val/pass@1", 9) == (0.7, 0.6, 0.8, 40)
    (chart,) = (
        curves.draw(chart, [Arm(label="a", runs=[run])])
        for chart in curves.charts([])
        if chart.title.startswith("Pass@1")
    )
    assert chart is not None
    assert chart["note"] == "n = 40 problems at each of 2 steps; 95% interval over problems (Wilson's)"
    r = curves.at_validation(run, "val/calibration/pass_rate/pearson", 9)
    assert (r.low, r.high) == pytest.approx((0.170, 0.729), abs=1e-3)  # Fisher's, of 30 pairs
    predicted = curves.at_validation(run, "val/calibration/pass_rate/predicted_mean", 9)
    assert predicted.high == pytest.approx(0.5 + stats.t.ppf(0.975, 29) * 0.1 / 30**0.5, abs=1e-4)


def test_what_came_out(data: dict[str, Any], runs: Path) -> None:
    overview = data["overview"]
    row = dict(zip(overview["head"], overview["rows"][0], strict=True))
    assert row[""] == "masa-0 (2 seeds)" and row["runs"] == "2" and row["training steps"] == "3"
    assert row["validated at"] == "0 and 3"
    assert row["pass@1, last"] == "0.333"  # both seeds had the same answers
    assert row["change"] == "+0.000"
    row = dict(zip(overview["head"], overview["rows"][1], strict=True))
    low, high = (load_runs([runs / "other"])[0].last(f"val/pass@1_{side}") for side in ("low", "high"))
    assert row["pass@1, last"] == f"0.333 [{low:.3f}, {high:.3f}]"
    (against,) = data["costs"]
    assert against["head"] == ["", "masa-0 (2 seeds)", "other", "change"]
    assert against["said"] == [
        "Solved: +0.000 on the same 4 problems: all differ by as much, so that no interval is known."
    ]
    assert against["unequal"] == ["Only runs of equal seeds are compared, without masa-1."]


def test_time_and_tokens_have_one_definition(data: dict[str, Any], runs: Path) -> None:
    """Of the table above all, of the comparison, and of what was logged."""
    overview, (against,) = data["overview"], data["costs"]
    row = dict(zip(overview["head"], overview["rows"][1], strict=True))
    compared = {name: after for name, _, after, _ in against["rows"]}
    seconds = float(compared["seconds in training"])
    (run,) = load_runs([runs / "other"])
    assert row["time in training"] == f"{seconds:.0f} s"
    assert seconds == pytest.approx(sum(run.series("timing_s/step").values()), abs=0.5)
    assert row["tokens generated"] == compared["tokens generated"]
    assert run.generated == sum(run.of_steps(("tokens/solution", "tokens/meta")))


def test_intervals_over_seeds_end_where_no_value_can_be() -> None:
    r, error = "val/calibration/pass_rate/pearson", "val/calibration/length/abs_rel_error"
    runs = [made({"val/pass@1": {0: p}, r: {0: p}, error: {0: p}, "tokens_total/solution": {1: p}}) for p in (0.1, 0.9)]
    arm = Arm(label="a", runs=runs)
    overview = tables.overview([arm])
    row = dict(zip(overview["head"], overview["rows"][0], strict=True))
    assert row["pass@1, last"] == "0.500 [0.000, 1.000]"
    assert row["r, last"] == "0.500 [-1.000, 1.000]"
    assert row["length error, last"] == "0.500 [0.000, 5.582]"
    assert tables.token_table([arm])["rows"][0][1] == "0 [0, 6]"


def test_cloning_takes_time() -> None:
    run = made({"timing_s/step": {1: 60.0, 2: 60.0}, "timing_s/sft": {2: 5.0}, "reward": {1: 0.0, 2: 0.0}})
    assert "2 min 5 s" in tables.overview([Arm(label="a", runs=[run])])["rows"][0]


def evaluations(*rates: list[float]) -> list[Evaluated]:
    """Validations with the pass rate of each problem."""
    return [
        Evaluated(
            stage="validate",
            step=step,
            problems=[
                ProblemRecord(source="", id=str(n), problem="", answer="", group_rate=rate)
                for n, rate in enumerate(of_step)
            ],
        )
        for step, of_step in enumerate(rates)
    ]


def test_a_change_of_one_run_is_over_its_problems() -> None:
    before, after = [0.0, 0.5, 0.25, 0.5], [0.5, 0.75, 1.0, 1.0]
    run = made({"val/pass@1": {0: 0.3, 5: 0.8}}, evaluations(before, after))
    low, high = interval([b - a for a, b in zip(before, after, strict=True)])
    overview = tables.overview([Arm(label="a", runs=[run])])
    assert f"+0.500 [{low:+.3f}, {high:+.3f}]" in overview["rows"][0]


def test_predictions_and_reliability(data: dict[str, Any]) -> None:
    panels = data["predictions"]
    assert [(p["arm"], p["when"], p["seeds"]) for p in panels] == [
        (0, "validation after 0 steps", 2), (0, "validation after 3 steps", 2),
        (1, "validation after 0 steps", 1), (1, "validation after 3 steps", 1),
    ]  # fmt: skip
    rate = panels[3]["rate"]
    assert rate["points"] == [[0.75, 0.0, 2], [0.75, 0.3333, 1], [0.75, 1.0, 1]]
    assert rate["r"] is None  # all predictions are the same
    assert rate["bias"][0] == pytest.approx(0.75 - 1 / 3, abs=1e-4)
    assert panels[0]["rate"]["problems"] == 8
    (bin_,) = panels[3]["reliability"]["points"]
    low, high = stats.binomtest(4, 12).proportion_ci(method="wilson")
    assert bin_[:2] == [0.75, pytest.approx(1 / 3, abs=1e-4)] and bin_[4] == 4
    assert bin_[2] < low and bin_[3] > high  # over 4 problems, not 12 rollouts


CONTROLS = [
    kind
    for name in masa_lightning.__all__
    if isinstance(kind := getattr(masa_lightning, name), type) and issubclass(kind, PredictionControl)
]


@pytest.mark.parametrize("control", CONTROLS)
def test_the_mode_of_each_control_is_known(control: type) -> None:
    run = made({f"controls/{control.name}/acted_share": {1: 0.5}})  # type: ignore[attr-defined]
    run.settings[f"trainer.callbacks.{control.__name__}.init_args.mode"] = "shadow"
    table = tables.control_table([Arm(label="a", runs=[run])])
    assert dict(zip(table["head"], table["rows"][0], strict=True))["mode"] == "shadow"


@pytest.mark.parametrize("control", CONTROLS)
def test_each_control_has_its_metrics_described(control: type) -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert f"controls/{control.name}" in page.read_text()  # type: ignore[attr-defined]


def test_the_mode_of_a_control_of_a_user_is_known() -> None:
    run = made({"controls/cut_gating/acted_share": {1: 0.5}, "controls/gating/acted_share": {1: 0.5}})
    for name, mode in (("PredictiveGating", "act"), ("MyCut", "shadow")):
        run.settings[f"trainer.callbacks.{name}.init_args.mode"] = mode
    modes = [row[2] for row in tables.control_table([Arm(label="a", runs=[run])])["rows"]]
    assert modes == ["shadow", "act"]  # the only one that is left
    run.settings["trainer.callbacks.Other.init_args.mode"] = "off"
    run.settings["trainer.callbacks.CutGating.init_args.mode"] = "act"
    assert tables.control_table([Arm(label="a", runs=[run])])["rows"][0][2] == "act"
    del run.settings["trainer.callbacks.CutGating.init_args.mode"]
    assert tables.control_table([Arm(label="a", runs=[run])])["rows"][0][2] == "\u2013"


def test_controls_and_tokens(data: dict[str, Any], runs: Path) -> None:
    loaded = load_runs([runs / "masa-0", runs / "masa-1"])
    controls = dict(zip(data["controls"]["head"], data["controls"]["rows"][0], strict=True))
    assert controls["control"] == "gating" and controls["mode"] == "shadow"
    assert controls["would act on"].startswith(f"{fmean(run.last('controls/gating/share') or 0 for run in loaded):.3f}")
    assert "gating: acted on" in [chart["title"] for chart in data["charts"]]
    tokens = {row[0]: row[1:] for row in data["tokens"]["rows"]}
    generated = [run.last("tokens_total/meta") or 0 for run in loaded]
    assert stdev(generated) == 0 and tokens["predictions, generated"][0].startswith(f"{generated[0]:,.0f}")
    assert data["bars"][0]["parts"][0] == [
        "solutions, generated",
        round(fmean(r.last("tokens_total/solution") or 0 for r in loaded)),
    ]
    against = next(chart for chart in data["charts"] if chart["x"].startswith("tokens generated"))
    steps = [point[0] for point in against["lines"][1]["points"]]
    assert steps == sorted(steps) and steps[0] == 0


def test_settings_that_differ_are_those_of_the_arms(data: dict[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in data["settings"]["differing"]["rows"]}
    assert rows["seed_everything"] == ["0, 1", "0"]
    assert rows["model.init_args.optimization.optimizer.init_args.lr"] == ["0.0001", "0.0"]


def test_benchmarks(run: Path) -> None:
    (run / "results.json").write_text(
        '{"benchmarks": [{"name": "aime24", "problems": 30, "left_out": 0, "metrics": {"pass@1": 0.5, "pass@1_low": 0.3, '
        '"pass@1_high": 0.7, "maj@8": 0.6, "calibration/pass_rate/pearson": null, "completions/mean_length": 812.4}}]}'
    )
    table = tables.benchmark_table(arms(load_runs([run])))
    assert table["rows"] == [["masa-0", "aime24", "30", "0.500 [0.300, 0.700]", "0.600", "\u2013", "812"]]


def test_no_panel_without_predictions() -> None:
    assert predictions.panels([Arm(label="a", runs=[made({})])]) == []
