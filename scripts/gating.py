#!/usr/bin/env python3
"""What predictive gating could do with a trained model: every threshold against what really happens, in one table.

    python scripts/gating.py RUN_DIR... [--problems 512] [--generations 64] [--predictions 16]

RUN_DIR is a run of scripts/compare.py. Its last checkpoint solves held-out problems many times and predicts them many
times (kept in RUN_DIR/gating.jsonl), so that the chance that a group of G rollouts has no variance, all right or all
wrong, is known for each problem far better than from one group. Printed as markdown: mean over the runs, and the range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from compare import cell

from masa_lightning.functional.controls import gate

TINY = Path(__file__).resolve().parents[1] / "configs" / "tiny.yaml"
MARGINS = (0.15, 0.1)  # predictions go in eighths: 1/8 is within the first alone
MAX_STDS = (0.1, 0.05, 0.025)
GROUPS = (8, 16)  # solution rollouts a group
PREDICTIONS = (8, 16)


@dataclass(frozen=True, slots=True)
class Observed:
    """One problem: parsed predicted pass rates, and how many of its solutions were right."""

    rates: list[float]
    correct: int
    solutions: int

    @property
    def pass_rate(self) -> float:
        return self.correct / self.solutions

    def zero_variance(self, size: int) -> float:
        """Unbiased estimate of the chance that `size` rollouts are all right or all wrong."""
        wrong = self.solutions - self.correct
        return (math.comb(self.correct, size) + math.comb(wrong, size)) / math.comb(self.solutions, size)


def observe(run: Path, problems: int, generations: int, predictions: int) -> list[Observed]:
    """Draws the rollouts of a run's last checkpoint, or reads those drawn before."""
    path = run / "gating.jsonl"
    if not path.exists():
        from masa_lightning.cli import main as masa  # slow to import, and not needed again

        last = run / "checkpoints" / "last.ckpt"
        if not last.exists():
            raise SystemExit(f"{run} has no checkpoints/last.ckpt; expected a folder that scripts/compare.py filled")
        evaluation = f"{{num_generations: {generations}, num_meta_generations: {predictions}}}"
        cli = masa(
            [
                *("predict", "--config", str(TINY), "--config", str(run / "arm.yaml")),
                *("--ckpt_path", str(last.resolve()), "--return_predictions", "true"),
                *("--trainer.callbacks", "[]", "--trainer.logger", "false"),
                *("--model.init_args.evaluation", evaluation),
                *(f"--data.init_args.test_size={problems}", "--data.init_args.val_batch_size=64"),
            ]
        )
        batches = cli.trainer.predict_loop.predictions
        lines = []
        for group in itertools.chain.from_iterable(batches):
            rates = [r.prediction.rate for r in group.metas if r.prediction and r.prediction.rate is not None]
            lines.append({"id": group.problem.id, "rates": rates, "correct": group.correct, "lengths": group.lengths})
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))
        part.replace(path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [Observed(r["rates"], sum(r["correct"]), len(r["correct"])) for r in records]


def gated(
    problems: Sequence[Observed], *, margin: float, max_std: float, predictions: int
) -> list[tuple[float, float, Observed]]:
    """Each problem with the shares of its blocks of `predictions` predictions that gate it as (hopeless, trivial)."""
    found = []
    for problem in problems:
        blocks = [problem.rates[i : i + predictions] for i in range(0, len(problem.rates), predictions)]
        whole = [block for block in blocks if len(block) >= predictions / 2] or [[]]
        verdicts = [gate(block, margin=margin, max_std=max_std) for block in whole]
        found.append((verdicts.count("hopeless") / len(whole), verdicts.count("trivial") / len(whole), problem))
    return found


def figures(found: Iterable[tuple[float, float, Observed]], size: int) -> dict[str, float]:
    """What those gates would do where a group has `size` solution rollouts."""
    found = list(found)
    share = {name: fmean(f[i] for f in found) for i, name in enumerate(("hopeless", "trivial"))}
    zero = fmean(p.zero_variance(size) for *_, p in found)
    hits = {n: fmean(f[i] * f[2].zero_variance(size) for f in found) for i, n in enumerate(("hopeless", "trivial"))}
    spread = [p.pass_rate * (1 - p.pass_rate) for *_, p in found]
    every, right = sum(share.values()), sum(p.pass_rate for *_, p in found)
    return {
        "hopeless": share["hopeless"],
        "precision of hopeless": _share(hits["hopeless"], share["hopeless"]),
        "trivial": share["trivial"],
        "precision of trivial": _share(hits["trivial"], share["trivial"]),
        "precision": _share(sum(hits.values()), every),
        "recall": _share(sum(hits.values()), zero),
        "correct lost": _share(sum(h * p.pass_rate for h, _, p in found), right),
        "variance lost": _share(sum((h + t) * s for (h, t, _), s in zip(found, spread, strict=True)), sum(spread)),
    }


def ceiling(problems: Sequence[Observed], size: int, precision: float = 0.9) -> tuple[float, float]:
    """Greatest recall at a precision by someone who knows every pass rate, and the share of problems gated then."""
    chances = sorted((p.zero_variance(size) for p in problems), reverse=True)
    sums = itertools.accumulate(chances)
    best = max(((hits, n) for n, hits in enumerate(sums, 1) if hits / n >= precision), default=(0.0, 0))
    return _share(best[0], sum(chances)), best[1] / len(chances)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--generations", type=int, default=64, help="solutions a problem")
    parser.add_argument("--predictions", type=int, default=max(PREDICTIONS), help="meta rollouts a problem")
    args = parser.parse_args()
    observed = [observe(run, args.problems, args.generations, args.predictions) for run in args.runs]

    sizes = ", ".join(
        f"G={size}: {cell([fmean(p.zero_variance(size) for p in run) for run in observed])}" for size in GROUPS
    )
    print(f"Groups without variance: {sizes}.")
    for size in GROUPS:
        recalls, shares = zip(*(ceiling(run, size) for run in observed), strict=True)
        print(f"With every pass rate known, precision 0.9, G={size}: recall {cell(recalls)}, share {cell(shares)}.")
    inside = [fmean(pstdev(p.rates) for p in run if p.rates) for run in observed]
    print(f"Standard deviation of the predictions of one problem: {cell(inside)}.\n")

    lines: list[str] = []
    for size, count, margin, max_std in itertools.product(GROUPS, PREDICTIONS, MARGINS, MAX_STDS):
        results = [figures(gated(run, margin=margin, max_std=max_std, predictions=count), size) for run in observed]
        if not lines:
            lines = [
                "| G | M | margin | max_std | " + " | ".join(results[0]) + " |",
                "|---" * (4 + len(results[0])) + "|",
            ]
        cells = [cell([r[name] for r in results]) for name in results[0]]
        lines.append(f"| {size} | {count} | {margin} | {max_std} | " + " | ".join(cells) + " |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
