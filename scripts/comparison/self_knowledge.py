"""Which kind of self-knowledge is better calibrated, predicted pass rates or stated confidences; and what each costs."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

from comparison.metrics import Result, Runs
from masa_lightning.functional.calibration import auroc, brier_score, expected_calibration_error, pearson
from masa_lightning.functional.confidence import CONFIDENCE
from masa_lightning.models.loading import load_tokenizer
from masa_lightning.report.records import Evaluated
from masa_lightning.report.statistics import Estimate

MEAN, BEFORE, AFTER, LESS = (
    "predicted before, mean",
    "predicted before, once",
    "stated after",
    "after less before, once",
)
METRICS: Final = ("Brier", "ECE", "AUROC", "r over problems")
DRAWS: Final = 1000
_TAG: Final = re.compile(rf"\s*<{CONFIDENCE}>[^<]{{0,40}}</{CONFIDENCE}>")


@dataclass(frozen=True, slots=True)
class Answers:
    """The solutions of a problem that state a confidence.

    Args:
        rates: Predicted pass rates of the problem, each in [0, 1]; none where nothing was predicted.
        pairs: Confidence and correctness (0 or 1) of each.
    """

    rates: Sequence[float]
    pairs: Sequence[tuple[float, float]]

    def said(self, kind: str) -> list[float]:
        """What is said of each, by one kind of self-knowledge."""
        if kind == AFTER:
            return [q for q, _ in self.pairs]
        return [fmean(self.rates) if kind == MEAN else self.rates[0]] * len(self.pairs)


def answers(tested: Evaluated) -> list[Answers]:
    """Problems with at least one solution that states a confidence."""
    rows = [(p.rates, p.compared.get(CONFIDENCE, [])) for p in tested.problems]
    return [Answers(rates, pairs) for rates, pairs in rows if pairs]


def calibrated(problems: Sequence[Answers], kind: str) -> dict[str, float]:
    """Metrics of one kind of self-knowledge, of the very same solutions.

    >>> calibrated([Answers([0.5], [(1.0, 1.0), (0.0, 0.0)])], BEFORE)["Brier"]
    0.25
    """
    said = [p.said(kind) for p in problems]
    stated = torch.tensor([q for each in said for q in each], dtype=torch.float64)
    right = torch.tensor([y for p in problems for _, y in p.pairs], dtype=torch.float64)
    means = (_means(said), _means([[y for _, y in p.pairs] for p in problems]))
    found = (
        brier_score(stated, right),
        expected_calibration_error(stated, right),
        auroc(stated, right),
        pearson(*means),
    )
    return dict(zip(METRICS, (each.item() for each in found), strict=True))


def estimates(seeds: Sequence[Sequence[Answers]], draws: int = DRAWS) -> dict[str, dict[str, Estimate]]:
    """Metrics by kind, means over seeds, with bootstrap intervals over the problems of each seed.

    Both kinds are of the same solutions, so that their difference is paired. It takes the trained models as they are.

    Args:
        seeds: Problems of each run.
        draws: Of the bootstrap.

    Returns:
        Of `MEAN`, `BEFORE` and `AFTER`, and of `LESS`, the difference of the last two; of `AFTER` alone where nothing is
        predicted.
    """
    both = [[p for p in seed if p.rates] for seed in seeds]
    kinds = (MEAN, BEFORE, AFTER) if all(both) and both else (AFTER,)
    seeds = [seed for seed in (both if len(kinds) > 1 else seeds) if seed]
    if not seeds:
        return {}
    rng = random.Random(0)
    drawn = [_of([rng.choices(seed, k=len(seed)) for seed in seeds], kinds) for _ in range(draws)]
    found: dict[str, dict[str, Estimate]] = {}
    for kind, values in _of(seeds, kinds).items():
        for metric, value in values.items():
            known = sorted(v for each in drawn if not math.isnan(v := each[kind][metric]))
            low, high = (known[int(share * (len(known) - 1))] if known else None for share in (0.025, 0.975))
            found.setdefault(kind, {})[metric] = Estimate(value, low, high, sum(map(len, seeds)))
    return found


def tokens_each(result: Result, kind: str) -> float | None:
    """Generated tokens of one statement: of a meta rollout, or of a solution's tag."""
    rollouts = [r for p in result.tested.problems for r in p.rollouts]
    if kind == BEFORE:
        lengths = [r["tokens"] for r in rollouts if r["kind"] == "meta"]
        return fmean(lengths) if lengths else None
    tags = [match[0] for r in rollouts if r["kind"] == "solution" and (match := _TAG.search(r["text"]))]
    return (
        fmean(_length(result.run.settings.get("model.init_args.model", "tiny"), tag) for tag in tags) if tags else None
    )


def share_of_tokens(result: Result, kind: str) -> float | None:
    """Share of all tokens generated in training that went into statements."""
    solutions, metas = (result.run.series(f"tokens/{name}") for name in ("solution", "meta"))
    everything = math.fsum([*solutions.values(), *metas.values()])
    if kind == BEFORE:
        return math.fsum(metas.values()) / everything if everything else None
    each = tokens_each(result, kind)
    lengths, stated = (result.run.series(tag) for tag in ("completions/mean_length", "confidence/parse_rate"))
    if each is None or not everything:
        return None
    return each * math.fsum(n / lengths[step] * stated.get(step, 0.0) for step, n in solutions.items()) / everything


def tested_on(runs: Runs, test: str | None) -> list[list[Answers]]:
    """Problems of each run: of its usual test, or of a further one by its name."""
    tests = [result.run if test is None else result.tests.get(test) for result in runs.values()]
    found = [next((e for e in reversed(run.evaluated) if e.stage == "test"), None) for run in tests if run is not None]
    return [rows for each in found if each is not None and (rows := answers(each))]


def _of(seeds: Sequence[Sequence[Answers]], kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    means = {}
    for kind in kinds:
        values = [calibrated(seed, kind) for seed in seeds]
        means[kind] = {metric: fmean(v[metric] for v in values) for metric in METRICS}
    if len(kinds) > 1:
        means[LESS] = {metric: means[AFTER][metric] - means[BEFORE][metric] for metric in METRICS}
    return means


def _means(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([fmean(row) for row in rows], dtype=torch.float64)


@lru_cache(maxsize=4096)
def _length(model: str, text: str) -> int:
    return len(_tokenizer(model)(text, add_special_tokens=False).input_ids)


@lru_cache(maxsize=4)
def _tokenizer(model: str):
    return load_tokenizer(model)
