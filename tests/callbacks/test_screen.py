"""Tables by numbers made by hand, as they come out of a pipe of 80 columns."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from masa_lightning.callbacks import _screen
from masa_lightning.quantities import default_quantities, shown, shown_by_names

BEFORE = {
    "pass@1": 0.441, "pass@1_low": 0.382, "pass@1_high": 0.502,
    "calibration/pass_rate/pearson": 0.37, "calibration/pass_rate/count": 256.0, "calibration/pass_rate/mae": 0.36,
    "calibration/length/pearson": -0.54, "calibration/length/count": 200.0, "meta/reward": 0.2,
}  # fmt: skip
AFTER = BEFORE | {"pass@1": 0.52, "pass@1_low": 0.459, "pass@1_high": 0.58, "calibration/pass_rate/pearson": 0.69}
EVALUATION = AFTER | {
    "problems": 256.0, "pass@8": 0.81, "maj@8": 0.6, "maj_predicted@8": 0.61, "meta/parse_rate": 0.98,
    "completions/mean_length": 101.5, "completions/clipped_ratio": 0.01, "completions/ungraded_ratio": 0.0,
    "calibration/length/abs_rel_error": 0.2, "left_out": 0.0,
}  # fmt: skip


PAPER = shown(default_quantities())
BRIEF = _screen.brief_rows(PAPER)


def printed(*things: Any, width: int = 80, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, highlight=False)
    for thing in things:
        console.print(thing)
    stream.seek(0)
    lines = stream.read().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)
    return [line.rstrip() for line in lines]


def test_before_and_after() -> None:
    columns = {"before": BEFORE, "after": AFTER}
    assert printed(_screen.measured("256 held-out problems", columns, BRIEF)) == [
        "256 held-out problems                 before                 after  intervals",
        "pass@1                  0.441 [0.382, 0.502]  0.520 [0.459, 0.580]  overlap",
        "pass rate: correlation     0.37 [0.26, 0.47]     0.69 [0.62, 0.75]  apart",
        "pass rate: abs. error                  0.360                 0.360",
        "length: correlation     -0.54 [-0.63, -0.43]  -0.54 [-0.63, -0.43]  overlap",
        "meta reward                            0.200                 0.200",
    ]
    assert _screen.differences(columns, BRIEF) == [_screen.CHANCE]
    assert _screen.differences({"before": BEFORE, "after": AFTER | {"pass@1_low": 0.51}}, [_screen.PASS]) == []
    assert _screen.differences({"after": AFTER}, BRIEF) == []


def test_the_same_problems_say_more_than_two_intervals() -> None:
    """As `masa report`: it took 8 problems' gain for chance, for the problems differ more than that."""
    columns = {"before": BEFORE, "after": AFTER}
    gained = [0.0] * 248 + [1.0] * 8
    table = printed(_screen.measured("256 held-out problems", columns, BRIEF, gained))
    assert table[1] == "pass@1                  0.441 [0.382, 0.502]  0.520 [0.459, 0.580]"
    assert table[2].endswith("apart")
    said = printed(*_screen.differences(columns, [_screen.PASS], gained))
    assert said == ["pass@1 of the same problems: +0.031 [+0.010, +0.053], more than chance."]
    said = printed(*_screen.differences(columns, BRIEF, [0.25, -0.5] * 40))
    assert said == [
        "pass@1 of the same problems: -0.125 [-0.209, -0.041], more than chance.",
        _screen.CHANCE,
    ]
    said = printed(*_screen.differences(columns, [_screen.PASS], [-0.5, 0.5, 0.0]))
    assert said == ["pass@1 of the same problems: +0.000 [-1.242, +1.242], which may be chance."]
    [said] = _screen.differences(columns, [_screen.PASS], [0.0] * 8)  # no change at all is no certainty
    assert said == "pass@1 of the same problems: +0.000; all differ by as much, so that no interval is known."
    assert _screen.differences(columns, [_screen.PASS], [0.5]) == [_screen.CHANCE]  # one has no interval


def test_what_was_not_measured_has_no_line() -> None:
    grpo = {"pass@1": 0.5, "pass@1_low": 0.4, "pass@1_high": 0.6, "meta/reward": math.nan}
    assert printed(_screen.measured("4 problems", {"before": grpo, "after": grpo}, BRIEF)) == [
        "4 problems                before                 after  intervals",
        "pass@1      0.500 [0.400, 0.600]  0.500 [0.400, 0.600]  overlap",
    ]
    line = printed(_screen.measured("4 problems", {"before": {}, "after": grpo}, BRIEF))[1]
    assert line == "pass@1           -  0.500 [0.400, 0.600]"


def test_one_evaluation() -> None:
    assert printed(_screen.measured("256 problems", {"test": EVALUATION}, _screen.rows_of(EVALUATION, PAPER))) == [
        "256 problems                            test",
        "pass@1                  0.520 [0.459, 0.580]",
        "pass@8                                 0.810",
        "majority of 8                          0.600",
        "by predicted rate                      0.610",
        "predictions that parse                 0.980",
        "pass rate: correlation     0.69 [0.62, 0.75]",
        "pass rate: abs. error                  0.360",
        "length: correlation     -0.54 [-0.63, -0.43]",
        "length: rel. error                      0.20",
        "meta reward                            0.200",
        "tokens a solution                        102",
        "cut off at the limit                   0.010",
    ]
    metrics = EVALUATION | {"left_out": 3.0}
    assert "prompts too long" in "\n".join(
        printed(_screen.measured("x", {"test": metrics}, _screen.rows_of(metrics, PAPER)))
    )


@pytest.mark.parametrize("width", [60, 80, 140])
def test_benchmarks(width: int) -> None:
    rows = {"math500": EVALUATION, "aime24": EVALUATION | {"pass@1": math.nan}, "x" * 40: EVALUATION}
    lines = printed(*_screen.benchmarks(rows, width, PAPER), width=width)
    heads = [line for line in lines if line.startswith("benchmark")]
    assert heads[0].split()[:3] == ["benchmark", "n", "pass@1"]
    assert heads[1].split()[:5] == ["benchmark", "rate", "r", "error", "parse"]
    line = next(line for line in lines if line.startswith("math500"))
    assert "256  0.520 [0.459, 0.580]" in line
    assert ("0.610" in line) == (width > 60)  # left out where there is no room, and whole where there is
    assert any(line.split()[:3] == ["aime24", "256", "-"] for line in lines)


def test_a_pipe_without_unicode() -> None:
    assert printed(_screen.measured("256 problems", {"before": BEFORE, "test": EVALUATION}, BRIEF), encoding="ascii")


def test_a_benchmark_alone_is_a_column() -> None:
    (table,) = _screen.evaluated({"math500": EVALUATION}, 80, PAPER)
    assert printed(table)[0] == "256 problems                         math500"
    assert len(_screen.evaluated({"math500": EVALUATION, "aime24": EVALUATION}, 80, PAPER)) == 2


def test_another_quantity_has_its_rows_and_columns() -> None:
    (steps,) = shown_by_names(["val/calibration/proof_steps/pearson"], PAPER)
    metrics = EVALUATION | {"calibration/proof_steps/pearson": 0.5, "calibration/proof_steps/abs_rel_error": 0.25}
    table = printed(_screen.measured("x", {"test": metrics}, _screen.rows_of(metrics, [steps])))
    assert [line for line in table if "steps" in line] == [
        "proof steps: correlation                  0.50",
        "proof steps: rel. error                   0.25",
    ]
    assert not [line for line in table if "pass rate:" in line]
    heads = printed(*_screen.benchmarks({"a": metrics, "b": metrics}, 80, [PAPER[0], steps]))
    assert heads[3].split() == ["benchmark", "rate", "r", "error", "parse", "meta", "steps", "r", "error"]
