"""Skip the solution rollouts of problems whose own past says that they would teach nothing: a gate without predictions."""

from __future__ import annotations

import math

from lightning.pytorch import LightningModule, Trainer

from masa_lightning.callbacks._control import Mode
from masa_lightning.callbacks._past import Past
from masa_lightning.callbacks.gating import UNKNOWN, GatingControl, risk_gate
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.types import RolloutGroup


class HistoryGating(GatingControl):
    """Draws no solution rollouts for problems that were hopeless or trivial when they were solved before.

    What predictions have to beat: it costs no tokens, and knows nothing of a problem before the second epoch. The pass
    rate of a problem has a Beta(1, 1) prior and its own past rollouts, discounted each time it is solved (MoPPS, arXiv
    2507.04632; GRESO, arXiv 2506.02177, skips by the same past). What such a past means is learned, and problems are
    gated, by the rule "risk" of `PredictiveGating`, with its audits, limits and metrics, under
    ``controls/history/...``; ``known_share`` is the share of the step's problems with a past. It needs no meta
    rollouts.

    Args:
        mode: "off", "shadow" (decide and be scored, change nothing) or "act".
        start_step: Training steps before it acts.
        discount: Of the past, each time a problem is solved again, in [0, 1]; 1 forgets nothing.
        max_problems: Problems that are remembered; those that were solved longest ago are forgotten first, >= 1.
        max_lost_signal: No more than this share of what GRPO could have learned is lost over the run, in [0, 1).
        max_lost_correct: No more than this share of the correct rollouts is lost over the run, in [0, 1).
        confidence: Probability that both limits hold, at all steps at once, in (0, 1).
        window: Training steps that the metrics look back on, and that the rule learns from.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> HistoryGating().acts(step=0)  # it has seen nothing yet
        False
    """

    name = "history"
    reads = ""
    steered = True

    def __init__(
        self,
        mode: Mode = "act",
        start_step: int = 0,
        discount: float = 0.5,
        max_problems: int = 200_000,
        max_lost_signal: float = 0.05,
        max_lost_correct: float = 0.05,
        confidence: float = 0.9,
        window: int = 50,
    ) -> None:
        super().__init__(mode, start_step, 0.05, max_lost_correct, window, 1)
        self.risk = risk_gate(max_lost_signal, max_lost_correct, confidence, window)
        self.past = Past(discount, max_problems)

    def wants(self, group: RolloutGroup, budget: int) -> None:
        """Nothing for a problem alone: the rule decides over a whole step."""

    def scores(self, group: RolloutGroup) -> tuple[float, float]:
        past = self.past.known(group) if self.past is not None else None
        if past is None:
            return UNKNOWN
        right, wrong = (1 + count for count in past)
        mean = right / (right + wrong)
        spread = math.sqrt(mean * (1 - mean) / (right + wrong + 1))
        return mean + spread, mean - spread

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses modules without controls, and `masa predict`, where no problem has a past.

        Raises:
            TypeError: If the module is no `MASALightningModule`.
            ValueError: In `masa predict`.
        """
        if self.mode == "off" or stage not in ("fit", "predict"):
            return
        if not isinstance(pl_module, MASALightningModule):
            raise TypeError(
                f"HistoryGating is asked by a MASALightningModule alone, and the module is a {type(pl_module).__name__}; "
                "expected a MASALightningModule, for GRPO with num_meta_generations: 0, or remove the callback"
            )
        if stage == "predict":
            raise ValueError(
                "HistoryGating gates by what training saw of a problem, and predict has seen none; expected mode: off, or "
                "remove the callback"
            )
