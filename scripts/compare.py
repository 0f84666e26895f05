#!/usr/bin/env python3
"""Compare GRPO, MASA and MASA-efficient on the embedded model: several seeds each, the same problems, one table.

    python scripts/compare.py OUT_DIR [--seeds 0 1 2] [--arms grpo masa ...] [--jobs 2]

Every arm trains as configs/tiny.yaml says but for what is listed in ARMS, on the real vLLM, and is then tested on the
held-out problems. What is finished is not run again, so it can be stopped and started at any time. The table is printed
as markdown: mean over seeds, and the range in brackets. Gating and cutoff are scored in shadow mode where they do not act.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

from masa_lightning.report.scalars import Scalars, read_scalars

TINY = Path(__file__).resolve().parents[1] / "configs" / "tiny.yaml"
MAX_STD = 0.025  # of gated predictions; at the default, 0.1, more is gated and less of it rightly: scripts/gating.py
VAL_EVERY = 11  # training steps
START = 15  # training steps before the controls act
ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"model": {"num_meta_generations": 0}},
    "masa": {"controls": "shadow"},
    "masa_exponential": {
        "controls": "shadow",
        "model": {
            "difficulty_scoring": "exponential",
            "meta_reward_weights": {"length": 1, "difficulty": 1, "notion": 1},
        },
    },
    "masa_sft": {"controls": "shadow", "sft": True},
    "masa_controls": {"controls": "act"},
    "masa_efficient": {"controls": "act", "sft": True},
    # Twice the predictions: gating is right more often (docs/results/embedded_model.md), and they cost tokens.
    "masa_efficient_16": {"controls": "act", "sft": True, "model": {"num_meta_generations": 16}},
    # The model has never seen a hint: with the default template and guard, hints end after one step (pass rate 0.10 with,
    # 0.68 without). Here they are short, and go on, to see whether training on them helps.
    "masa_hints": {
        "hints": True,
        "sft": True,
        "model": {
            "prompts": {
                "solution": "Solve: {problem}",
                "meta": "Predict: {problem}",
                "hint": "{problem} ({notions})",
            }
        },
    },
}
TESTED = (
    ("pass@1", "pass@1"),
    ("pass rate: correlation", "calibration/pass_rate/pearson"),
    ("pass rate: absolute error", "calibration/pass_rate/mae"),
    ("pass rate: spread of predictions", "calibration/pass_rate/predicted_std"),
    ("length: correlation", "calibration/length/pearson"),
    ("predictions that parse", "meta/parse_rate"),
)
HINTED = ("hinted_pass_rate", "plain_pass_rate", "lift")
CONTROLLED = ("precision", "recall", "f1", "share", "acted_share", "lost_correct", "saved_tokens", "held_back")


def callbacks(arm: dict[str, Any]) -> list[dict[str, Any]]:
    """The callbacks of an arm, as YAML has them."""
    chosen: list[dict[str, Any]] = []
    if arm.get("sft"):
        settings = {"batch_size": 16, "learning_rate": 1e-4}
        chosen.append({"class_path": "masa_lightning.ExpertSFT", "init_args": settings})
    if mode := arm.get("controls"):
        settings = {"mode": mode, "start_step": START, "window": 20}
        chosen += [
            {"class_path": "masa_lightning.PredictiveGating", "init_args": {**settings, "max_std": MAX_STD}},
            {"class_path": "masa_lightning.EarlyCutoff", "init_args": settings},
        ]
    if arm.get("hints"):
        settings = {"start_step": START, "window": 20, "max_lost_correct": 1.0}  # half of the problems for comparison
        chosen.append({"class_path": "masa_lightning.NotionHinting", "init_args": settings})
    saver = {"dirpath": "checkpoints", "every_n_train_steps": 44, "save_last": True, "save_top_k": 0}
    return [*chosen, {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver}]


def run(out: Path, name: str, seed: int) -> Path:
    """Trains and tests an arm with a seed, as far as that is not done; returns its folder."""
    folder = out / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "seed_everything": seed,
        "trainer": {"callbacks": callbacks(ARMS[name]), "enable_progress_bar": False, "val_check_interval": VAL_EVERY},
        "model": {"init_args": ARMS[name].get("model", {})},
        "data": {"init_args": {"seed": seed}},
    }
    (folder / "arm.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, "-m", "masa_lightning.cli", "{}", "--config", str(TINY), "--config", "arm.yaml"]
    command += ["--trainer.logger.init_args.save_dir", "."]
    last_checkpoint = folder / "checkpoints" / "last.ckpt"
    for stage, arguments in (("fit", []), ("test", [])):
        if (folder / f"{stage}.done").exists():
            continue
        if last_checkpoint.exists():
            arguments = ["--ckpt_path", str(last_checkpoint.resolve())]
        words = [word.format(stage) for word in command] + ["--trainer.logger.init_args.name", stage, *arguments]
        with (folder / f"{stage}.log").open("ab") as log:
            code = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
        if code:
            raise SystemExit(f"{name}, seed {seed}: masa {stage} ended with status {code}; see {folder / stage}.log")
        (folder / f"{stage}.done").touch()
    return folder


def figures(folder: Path) -> dict[str, float]:
    """The rows of the table for one run."""
    (fit, _), (test, _) = read_scalars(folder / "fit"), read_scalars(folder / "test")
    values = {label: last(test, tag) for label, tag in TESTED}
    values |= {
        "generated tokens, thousands": (total(fit, "tokens/solution") + total(fit, "tokens/meta")) / 1000,
        "trained tokens, thousands": total(fit, "tokens/trained") / 1000 or math.nan,
        "cloned tokens, thousands": total(fit, "tokens/sft") / 1000,
        "seconds in steps": total(fit, "timing_s/step") + total(fit, "timing_s/sft"),
    }
    for control in ("gating", "cutoff"):
        for name in CONTROLLED:
            values[f"{control}: {name}"] = last(fit, f"controls/{control}/{name}", prefix="")
        values[f"{control}: tokens saved, thousands"] = saved(fit, control)
    values |= {f"hints: {name}": last(fit, f"controls/hinting/{name}", prefix="") for name in HINTED}
    return {label: math.nan if value is None else value for label, value in values.items()}


def last(scalars: Scalars, tag: str, prefix: str = "test/") -> float | None:
    """The last finite value of a tag; None if there is none."""
    steps = scalars.get(prefix + tag)
    return steps[max(steps)] if steps else None


def total(scalars: Scalars, tag: str) -> float:
    """The sum of a tag over all training steps."""
    return math.fsum(scalars.get(tag, {}).values())


def saved(fit: Scalars, control: str) -> float | None:
    """Tokens that a control saved in the whole run; None without the control."""
    return total(fit, f"tokens/saved_{control}") / 1000 if f"tokens/saved_{control}" in fit else None


def curve(folder: Path) -> list[tuple[float, float, float, float]]:
    """(training step, thousands of generated tokens, seconds, pass@1) at each validation of a run."""
    fit, _ = read_scalars(folder / "fit")
    costs = []
    for names in (("tokens/solution", "tokens/meta"), ("timing_s/step", "timing_s/sft")):
        by_step: dict[int, float] = {}
        for name in names:
            for step, value in fit.get(name, {}).items():
                by_step[step] = by_step.get(step, 0.0) + (0.0 if math.isnan(value) else value)
        costs.append(by_step)
    tokens, seconds = costs
    points = []
    for at, value in sorted(fit["val/pass@1"].items()):
        done = [step for step in tokens if step <= at]
        points.append((len(done), sum(tokens[s] for s in done) / 1000, sum(seconds[s] for s in done), value))
    return points


def curves(runs: dict[str, list[Path]]) -> str:
    """Markdown: one row a validation of an arm, means over seeds."""
    lines = ["| arm | step | generated tokens, thousands | seconds | pass@1 |", "|---|---|---|---|---|"]
    for name, folders in runs.items():
        # By step, because a run that was killed in its last validation lacks that one.
        by_step: dict[float, list[tuple[float, ...]]] = {}
        for folder in folders:
            for step, *point in curve(folder):
                by_step.setdefault(step, []).append(tuple(point))
        for step, points in by_step.items():
            tokens, seconds, values = zip(*points, strict=True)
            lines.append(f"| {name} | {step:.0f} | {fmean(tokens):.0f} | {fmean(seconds):.0f} | {cell(values)} |")
    return "\n".join(lines)


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: one row a figure, one column an arm."""
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for label in next(iter(results.values()))[0]:
        cells = [cell([run[label] for run in runs]) for runs in results.values()]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: Sequence[float]) -> str:
    """Mean and range of what is known."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    digits = 3 if max(map(abs, known)) < 10 else 0
    low, high, mean = (f"{value:.{digits}f}" for value in (min(known), max(known), fmean(known)))
    return f"{mean} [{low}, {high}]" if len(known) > 1 else mean


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", choices=list(ARMS), nargs="+", default=list(ARMS))
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at the same time; seconds are comparable with 1 alone"
    )
    args = parser.parse_args()

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if args.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ThreadPoolExecutor(args.jobs) as pool:
        # Seed by seed, so that a comparison that is stopped early has all arms of some seeds.
        runs = {(name, seed): pool.submit(run, args.out, name, seed) for seed in args.seeds for name in args.arms}
        folders = {name: [runs[name, seed].result() for seed in args.seeds] for name in args.arms}
    print(table({name: [figures(folder) for folder in these] for name, these in folders.items()}))
    print(f"\npass@1 on held-out problems during training:\n\n{curves(folders)}")


if __name__ == "__main__":
    main()
