"""More solutions where a vote is open, fewer where it is decided."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from masa_lightning.functional.controls import sample_count
from masa_lightning.types import RolloutGroup


class SampleAllocation(Callback):
    """Draws more solutions of problems that are predicted uncertain and fewer of the others, for `masa predict --solve`.

    On average over pass rates it is as many as without it (`functional.controls.sample_count`). Satisfies
    `protocols.RolloutControl`.

    Raises:
        ValueError: In training, where all problems get as many solutions: their advantages compare them.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to train."""
        if stage == "fit":
            raise ValueError(
                "SampleAllocation is a callback of `predict`, where solutions are voted on; expected none of it in `fit`: "
                "remove it, or use PredictiveGating to skip problems"
            )

    def acts(self, step: int) -> bool:
        return True

    def decide(
        self, groups: Sequence[RolloutGroup], *, step: int, key: str, budget: int, count: int, audit: bool
    ) -> None:
        for group in groups:
            rates = [r.prediction.rate for r in group.metas if r.prediction and r.prediction.rate is not None]
            group.num_solutions = sample_count(rates, count)

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """Nothing."""

    def metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """None: it does not train."""
        return {}
