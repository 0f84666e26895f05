"""Results -> a page of the docs: what holds and what does not, tables, pictures, and how all was measured."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from comparison import metrics as m
from comparison import tables
from comparison.pictures import draw_all
from comparison.runs import Arm
from masa_lightning.functional.markdown import table

PICTURES: Final = "pictures"
BY_HAND: Final = re.compile(r"<!-- by hand -->.*?<!-- end -->\n", re.DOTALL)
_ABOUT: Final = {
    "calibration": "Predicted and actual pass rate (above) and length (below) of each test problem (the paper's figure 2).",
    "progress": "Pass@1 of validation problems at equal steps, generated tokens and seconds.",
    "gating": (
        "Share of the problems gated, precision and recall over training (the paper's figure 4). The share that would be "
        "gated in shadow mode is over 20 steps, which makes it late and smooth."
    ),
    "alignment": "Predicted and actual means over training (the paper's figure 5).",
    "parts": (
        "Pass@1 with each set of the meta reward's parts, and, where all sets were run, what each part adds (the paper's "
        "figure 6 has shares)."
    ),
    "both_kinds": "Predicted before (left) and stated after (right), on the test problems of `masa_rlcr`.",
    "cost": "Generated tokens and seconds of each training step.",
}
_INTRO: Final = """\
Cells are means over seeds with 95% intervals (Student's t). A difference is of runs of one seed, which have the same
problems in the same order. [How it was measured](#how-it-was-measured) says what is compared, and how;
[Metrics](../metrics.md) what each metric is."""
_HOLDS: Final = """\
*Yes*: the whole interval meets the goal. *Not shown*: the mean does, the interval does not or is not known. *No*: the
mean does not."""
_AGAINST: Final = """\
First arm less second. What is said of an arm goes by the interval over seeds; *over problems* is a bootstrap over test
problems, for the trained models as they are: another seed may do otherwise.
*Sooner* is how many times sooner the first arm has the second's last validation pass@1 than the second first had it;
where it never has it, all that it cost stands for that. *Ever*: in how many of the seeds it has it."""
_CONTROLS: Final = """\
Metrics of the last step, which look back on 20 steps. In shadow mode every problem counts; where a control acts only
its audits do, so that metrics are rough there. Gating: *wanted* is the share of problems it would skip, *acted on* that
it did, from its first act on; *seen* are problems it would skip that were solved all the same. Cutoff: *wanted* is the
share of rollouts it would cut, *acted on* that of problems it gave a limit; *seen* are rollouts that went on past
theirs. Where all seeds are equal, as in 0.000, no interval is known: with audits of some 16 problems, 0 is no bound."""
_THRESHOLDS: Final = """\
The rule `fixed` on test problems, each of which is solved and predicted, so that no audit is needed. *Signal* is the
sum of p (1 - p)."""
_FOUND: Final = """\
Why recall is not higher: test problems whose solutions are all right or all wrong, by tier. Tiers can be read off the
text. Of the open tier some come out alike, by skill or by chance; these are predicted nearer to the middle."""
_PHASES: Final = """\
Why seconds fall less than tokens: a step of training, once `efficient` acts. The engine takes a turn for each token of
its longest rollout, which has a cost of its own on a model of this size; predictions that are acted on are drawn before
the solutions, so there should be more turns (they were not counted). And the update leaves out what has no advantage,
gated or not."""
_HINTS: Final = """\
Means, over the steps in which hints were given, of estimates that look back on 20 steps each: early steps count more
than once. Which problems get a hint is chance; *plain* are the others."""
_PARTS: Final = """\
Shapley values: what a part adds, on average over the orders in which parts are added to GRPO. In the paper notions
have 67%, the pass rate (difficulty) 23% and the length 8%. Where an interval has 0 in it, nothing is shown."""
_STRATEGIES: Final = """\
Whether notions were learned: of the strategies that the model was taught of an open problem one is right, and its name is a
notion. Before training on validation problems, after it on test problems; *r* is the correlation of the two shares over
problems."""
_LEFT_OUT: Final = """\
The cold start of the shipped model had all six kinds: two are left out of reinforcement learning alone."""
_SELF_KNOWLEDGE: Final = """\
*Predicted before*: the pass rate that meta rollouts predict of a problem, for each of its solutions; the mean of all of the
problem's, or the first one. *Stated after*: the confidence that the solution ends with (RLCR). All are of the same
solutions, those that state a confidence; *r* is of means of problems. Intervals are a paired bootstrap over test problems,
for the trained models as they are. *Read*: the share of meta rollouts, or of solutions, that say something that can be
read; one that runs into its limit states nothing. *Tokens each*: of one meta rollout, and of one tag."""
_MEASURED: Final = """\
* *Steps*: all arms take as many training steps and optimiser steps. Pass@1 is of the test problems, after the last
  step.
* *Tokens* are those drawn in training, solutions and predictions. *Seconds* are those in training steps and in
  `ExpertSFT`, without validations and start-up; other work on the machine makes them rough.
* *At equal tokens (seconds)*: pass@1 of the validation problems, linear between validations, at what the cheaper of
  the two runs cost in all.
* *After the start*: the same steps of both runs, from the first one in which a control of the first run changed
  something.
* The paper's shares of the meta reward's parts are of the variance that a regression explains, so only their order
  compares.
* Seeds differ in problems, order and draws. All runs start from the one shipped checkpoint, which is one draw itself.
"""


def write_page(results: m.Results, arms: Mapping[str, Arm], page: Path, command: str) -> None:
    """Writes the page and its pictures; what stands between ``<!-- by hand -->`` and ``<!-- end -->`` in it is kept.

    Args:
        results: Of `metrics.read_results`.
        arms: All that could have been run.
        page: Markdown file to write; the pictures go into `PICTURES` beside it.
        command: That made the runs and the page; a line each.
    """
    drawn = draw_all(results, page.parent / PICTURES)
    kept = BY_HAND.search(page.read_text(encoding="utf-8")) if page.is_file() else None
    page.write_text(text(results, arms, command, drawn, kept[0] if kept else ""), encoding="utf-8")


def text(
    results: m.Results, arms: Mapping[str, Arm], command: str, drawn: Sequence[str] = (), by_hand: str = ""
) -> str:
    """The page as markdown; sections without runs are left out."""
    known = [arm for name, arm in arms.items() if name in results]
    pictures = {name: f"![{_ABOUT[name]}]({PICTURES}/{name}.png)\n\n*{_ABOUT[name]}*" for name in drawn}
    left = [f"`{name}`" for name in arms if name not in results]
    rows = [[f"`{arm.name}`", str(len(results[arm.name])), arm.says] for arm in known]
    gains, controls, added = tables.gains(results, known), tables.controls(results), tables.parts(results)
    found, phases, strategies = tables.found(results), tables.phases(results), tables.strategies(results)
    sections = [
        ("What holds, and what does not", [tables.of_goals(results), _HOLDS]),
        ("Pass@1, predictions and cost", [tables.overview(results), pictures.get("progress")]),
        (
            "Against each other",
            [
                _AGAINST if gains else "",
                gains,
                tables.costs(results, known),
                pictures.get("cost"),
                _PHASES if phases else "",
                phases,
            ],
        ),
        ("How well predictions fit", [pictures.get("calibration"), pictures.get("alignment")]),
        (
            "Gating and cutoff",
            [
                _CONTROLS if controls else "",
                controls,
                pictures.get("gating"),
                _THRESHOLDS,
                tables.thresholds(results),
                _FOUND if found else "",
                found,
            ],
        ),
        ("Hints", [tables.hints(results), _HINTS]),
        (
            "Parts of the meta reward",
            [
                pictures.get("parts"),
                added,
                _PARTS if added else "",
                _STRATEGIES if strategies else "",
                strategies,
            ],
        ),
        ("Kinds of problems left out of training", [tables.further_tests(results, known), _LEFT_OUT]),
        (
            "Before or after: two kinds of self-knowledge",
            [tables.self_knowledge(results, known), _SELF_KNOWLEDGE, pictures.get("both_kinds")],
        ),
        (
            "The arms",
            [table(["arm", "seeds", "what it is"], rows), f"Without runs here: {', '.join(left)}." if left else None],
        ),
        ("How it was measured", [textwrap.indent(command, "    "), _MEASURED + _without_seconds(results)]),
    ]
    blocks = [
        "# What the controls are worth, on the embedded model",
        textwrap.fill(f"{_counts(results)} {_INTRO}", 118, break_on_hyphens=False),
        by_hand.strip(),
    ]
    for title, parts in sections:
        if parts[0]:
            blocks += [f"## {title}", *(part.strip("\n") for part in parts if part)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _without_seconds(results: m.Results) -> str:
    left = [f"`{name}`" for name, runs in results.items() if not all(result.is_timed for result in runs.values())]
    said = f"* No seconds are known of arms that shared the machine with other work: {', '.join(left)}."
    return textwrap.fill(said, 118, subsequent_indent="  ", break_on_hyphens=False) if left else ""


def _counts(results: m.Results) -> str:
    runs = [r for by_seed in results.values() for r in by_seed.values()]
    seeds = sorted({r.seed for r in runs})
    steps, problems = sorted({len(r.steps) for r in runs}), sorted({len(r.tested.problems) for r in runs})
    return (
        f"{len(runs)} runs of {len(results)} arms, seeds {', '.join(map(str, seeds))}; {_span(steps)} training steps and "
        f"{_span(problems)} test problems a run. Made by `scripts/compare.py`."
    )


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"
