"""Rewards of your own, a plain function and a class: one number a completion, added to its correctness."""

from collections.abc import Sequence

from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, MASALightningModule, RolloutProgressBar
from masa_lightning.types import Problem


def boxed(problem: Problem, completions: Sequence[str]) -> Sequence[float]:
    return [float("\\boxed{" in text) for text in completions]


class Brief:
    def __init__(self, limit: int = 200) -> None:
        self.limit = limit

    def __call__(self, problem: Problem, completions: Sequence[str]) -> Sequence[float]:
        return [max(0.0, 1 - len(text) / self.limit) for text in completions]


if __name__ == "__main__":
    sizes = {"num_generations": 4, "num_meta_generations": 4}
    rewards = {"reward_functions": [boxed, Brief()], "reward_weights": [0.1, 0.05]}
    module = MASALightningModule("tiny", **sizes, **rewards)
    trainer = Trainer(max_steps=2, limit_val_batches=0, log_every_n_steps=1, callbacks=RolloutProgressBar())
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=16))
    for name in ("rewards/boxed/mean", "rewards/Brief/mean", "reward"):
        print(f"{name} {trainer.callback_metrics[name].item():.3f}")
