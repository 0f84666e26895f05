"""A quantity of your own: how many steps, which are sentences here, a correct solution will have."""

from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, MASALightningModule, PassRate, PromptTemplates, Quantity
from masa_lightning.functional import Question, read_integer
from masa_lightning.metrics import ValueCalibration


class Steps(Quantity):
    key, unit, metric = "steps", "sentences", ValueCalibration

    def ask(self, budget):
        return Question("steps", "how many sentences a correct solution will have; an integer >= 1", "<integer>")

    def read(self, value):
        return read_integer(value, 1)

    def schema(self, budget):
        return {"type": "integer", "minimum": 1, "maximum": budget}

    def reward(self, predicted, group):
        return 1 / (1 + abs(predicted - self.truth(predicted, group))) if any(group.correct) else 0.0

    def truth(self, predicted, group):
        return round(self.actual(group))

    def compare(self, predicted, group, budget):
        return min(predicted, budget), self.actual(group)

    def actual(self, group):
        counts = [1 + rollout.text.count(". ") for rollout in group.solutions if rollout.correct]
        return sum(counts) / len(counts) if counts else float("nan")


if __name__ == "__main__":
    prompts = PromptTemplates(solution="{problem} Solve.", meta="{problem} Predict steps.")
    module = MASALightningModule("tiny", quantities=[PassRate(), Steps()], prompts=prompts)
    Trainer(max_epochs=1, limit_val_batches=0).fit(module, ArithmeticDataModule(batch_size=8, train_size=8))
