"""A quantity of your own: how many steps, which are sentences here, a correct solution will have."""

from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, MASALightningModule, PassRate, PromptTemplates, Quantity
from masa_lightning.functional import Question, read_integer
from masa_lightning.metrics import ValueCalibration


class Steps(Quantity):
    key, unit, metric = "steps", "sentences", ValueCalibration

    def ask(self, budget):
        return Question(
            "steps", "how many sentences a correct solution of yours will have; an integer >= 1", "<integer>"
        )

    def read(self, value):
        return read_integer(value, 1)

    def reward(self, predicted, group):
        return 1 / (1 + abs(predicted - self.truth(predicted, group))) if any(group.correct) else 0.0

    def truth(self, predicted, group):
        counts = self.counts(group)
        return round(sum(counts) / len(counts))

    def compare(self, predicted, group, budget):
        counts = self.counts(group) or [float("nan")]
        return min(predicted, budget), sum(counts) / len(counts)

    def counts(self, group):
        return [1 + rollout.text.count(". ") for rollout in group.solutions if rollout.correct]


if __name__ == "__main__":
    prompts = PromptTemplates(solution="{problem} Solve.", meta="{problem} Predict steps.")
    module = MASALightningModule("tiny", quantities=[PassRate(), Steps()], prompts=prompts)
    Trainer(max_epochs=1, limit_val_batches=0).fit(module, ArithmeticDataModule(batch_size=8, train_size=8))
