"""When the guards of the controls speak, by simulation: the table of docs/masa_efficient.md.

    python scripts/guards.py

Each run has 300 steps of 32 problems with 8 rollouts, and a control that acts from the first step on. Gating skips 13 of
them as hopeless and 6 as trivial; the cutoff limits all of them, and rollouts run past it one by one or a whole problem at
once; hints reach half of the problems.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from masa_lightning import EarlyCutoff, NotionHinting, PredictiveGating
from masa_lightning.functional.guards import LossGuard

PROBLEMS, ROLLOUTS, STEPS = 32, 8, 300
RATIOS = (0.5, 0.8, 1.0, 2.0, 3.0)

Floats = NDArray[np.float64]
Step = tuple[Floats, float, float]  # gains of problems; their least and their greatest value
Loss = Callable[[float, float, float, np.random.Generator], Step]


def gating(loss: float, limit: float, share: float, rng: np.random.Generator) -> Step:
    """A step's evidence where skipping loses the share `loss` of the correct rollouts."""
    kind = rng.choice(3, PROBLEMS, p=[0.4, 0.2, 0.4])  # hopeless, trivial, open
    rate = loss * 0.4 / (0.4 * (1 - loss))  # of those gated as hopeless: some go well, most not at all
    rates = np.select(
        [kind == 0, kind == 1], [rng.beta(0.5, 0.5 * (1 - rate) / rate, PROBLEMS), 1.0], rng.random(PROBLEMS)
    )
    correct = rng.binomial(ROLLOUTS, rates)
    weight = np.where(kind == 2, 1.0, (rng.random(PROBLEMS) < share) / share)
    most = ROLLOUTS / share
    return weight * (correct * (kind == 0) - limit * correct), -limit * most, (1 - limit) * most


def cutoff(loss: float, limit: float, share: float, rng: np.random.Generator) -> Step:
    """The same where a limit on tokens does."""
    correct = rng.binomial(ROLLOUTS, rng.random(PROBLEMS))
    chance = rng.beta(0.3, 0.3 * (1 - loss) / loss, PROBLEMS)  # of a rollout to be too long, by problem
    lost = rng.binomial(correct, chance)
    longer = lost + rng.binomial(ROLLOUTS - correct, chance) > 0  # else an audit stands for itself
    weight = np.where(longer, (rng.random(PROBLEMS) < share) / share, 1.0)
    most = ROLLOUTS / share
    return weight * (lost - limit * correct), -limit * most, (1 - limit) * most


def hinting(loss: float, limit: float, share: float, rng: np.random.Generator) -> Step:
    """The same where hints lower the pass rate by the share `loss`."""
    plain = rng.random(PROBLEMS) < share
    correct = rng.binomial(ROLLOUTS, np.where(plain, 1, 1 - loss) * rng.random(PROBLEMS))
    gains = np.where(plain, (1 - limit) * correct / share, -correct / (1 - share))
    return gains, -ROLLOUTS / (1 - share), (1 - limit) * ROLLOUTS / share


CONTROLS = {
    "gating": (gating, PredictiveGating()),
    "cutoff": (cutoff, EarlyCutoff()),
    "hinting": (hinting, NotionHinting()),
}


def held_back_at(name: str, ratio: float, *, runs: int, seed: int = 0, steps: int = STEPS) -> Floats:
    """The step at which the guard holds a control back, of each run; infinite where it does not.

    Args:
        name: Of the control.
        ratio: True loss over its limit.
        runs: How many.
        seed: Of the first.
        steps: Of a run.
    """
    loss, control = CONTROLS[name]
    limit, found = control.max_lost_correct, np.full(runs, np.inf)
    for run in range(runs):
        rng, guard = np.random.default_rng([seed, run]), LossGuard()
        for step in range(1, steps + 1):
            gains, least, greatest = loss(ratio * limit, limit, control.audit_share, rng)
            if guard.look(gains[gains != 0].tolist(), least=least, greatest=greatest):
                found[run] = step
                break
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    print(
        "| control | limit | true loss / limit | held back within 300 steps | half of the runs at step | 95 of 100 at step |"
    )
    print("|---|---|---|---|---|---|")
    for name, (_, control) in CONTROLS.items():
        for ratio in RATIOS:
            found = held_back_at(name, ratio, runs=runs)
            steps = [np.sort(found)[int(share * runs)] for share in (0.5, 0.95)]
            shown = ["never" if np.isinf(step) else f"{step:.0f}" for step in steps]
            row = [name, f"{control.max_lost_correct:.0%}", f"{ratio}", f"{np.isfinite(found).mean():.1%}", *shown]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
