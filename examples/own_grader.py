"""A grader of your own: here the last number of a solution counts, in a box or not."""

import re
from collections.abc import Sequence

from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, MASALightningModule, RolloutProgressBar
from masa_lightning.types import Problem


class LastNumber:
    """True, False, or None where there is nothing to judge: it counts as wrong, and is counted."""

    def grade(self, problems: Sequence[Problem], completions: Sequence[str], on_progress=None) -> list[bool | None]:
        numbers = [re.findall(r"-?\d+", text) for text in completions]
        return [found[-1] == p.answer if found else None for p, found in zip(problems, numbers, strict=True)]

    def close(self) -> None:
        """Nothing to free."""


if __name__ == "__main__":
    sizes = {"num_generations": 4, "num_meta_generations": 4}
    module = MASALightningModule("tiny", grader=LastNumber(), **sizes)
    trainer = Trainer(max_steps=2, limit_val_batches=0, log_every_n_steps=1, callbacks=RolloutProgressBar())
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=16))
    for name in ("pass_rate", "completions/ungraded_ratio"):
        print(f"{name} {trainer.callback_metrics[name].item():.3f}")
