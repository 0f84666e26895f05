"""A quantity of your own: how many steps, which are sentences here, a correct solution will have."""

from statistics import fmean

from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, ExpertSFT, MASALightningModule, PassRate, PromptTemplates, Quantity
from masa_lightning.functional.parsing import read_integer
from masa_lightning.functional.prompts import Question
from masa_lightning.metrics import LengthCalibration


class Steps(Quantity):
    key, unit = "steps", "sentences"

    def ask(self, budget):
        return Question(
            "steps", "how many sentences a correct solution of yours will have; an integer >= 1", "<integer>"
        )

    def read(self, value):
        return read_integer(value, 1)

    def reward(self, predicted, group):
        return 1 / (1 + abs(predicted - fmean(steps))) if (steps := of_correct(group)) else 0.0

    def truth(self, predicted, group):
        return round(fmean(of_correct(group)))

    def metric(self, **settings):
        return LengthCalibration(**settings)

    def compare(self, predicted, group, budget):
        return (min(predicted, budget), fmean(steps), min(steps), max(steps)) if (steps := of_correct(group)) else None


def of_correct(group):
    return [1 + rollout.text.count(". ") for rollout in group.solutions if rollout.correct]


if __name__ == "__main__":
    prompts = PromptTemplates(solution="Solve: {problem}", meta="Predict steps: {problem}")
    sizes = {"num_generations": 4, "num_meta_generations": 4, "learning_rate": 2e-4}
    module = MASALightningModule("tiny", quantities=[PassRate(), Steps()], prompts=prompts, **sizes)
    teacher = ExpertSFT(batch_size=2, every_n_steps=1, learning_rate=1e-3)
    trainer = Trainer(max_steps=2, limit_val_batches=0, log_every_n_steps=1, callbacks=[teacher])
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=16))
    for name in ("sft/examples", "meta/rewards/steps/mean"):  # a model that never heard of steps learns it from experts
        print(f"{name} {trainer.callback_metrics[name].item():.3f}")
