"""Prompts of your own. The embedded model knows these only; a pretrained one takes any words."""

from lightning.pytorch import Trainer

from masa_lightning import ArithmeticDataModule, MASALightningModule, PromptTemplates, RolloutProgressBar

PROMPTS = PromptTemplates(
    solution="{problem} Solve.",
    meta="{problem} Predict.",  # one that is new to the model has to ask for the JSON object: docs/method.md
    hint="{problem} ({notions})",
)

if __name__ == "__main__":
    sizes = {"num_generations": 4, "num_meta_generations": 4}
    module = MASALightningModule("tiny", prompts=PROMPTS, **sizes)
    trainer = Trainer(max_steps=2, limit_val_batches=0, log_every_n_steps=1, callbacks=RolloutProgressBar())
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=16))
    print(f"meta/parse_rate {trainer.callback_metrics['meta/parse_rate'].item():.3f}")
