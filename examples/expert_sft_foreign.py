"""`ExpertSFT` in a LightningModule that is not of this package, whose model is a plain one of transformers."""

from lightning.pytorch import LightningModule, Trainer
from torch.optim import SGD
from torch.utils.data import DataLoader

from masa_lightning import ExpertSFT
from masa_lightning.models.loading import load_model, load_tokenizer  # AutoModelForCausalLM will do as well
from masa_lightning.models.policy import Policy


class Yours(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer, self.model = load_tokenizer("tiny"), load_model("tiny", "float32")
        self.policy = Policy(self.model)  # what ExpertSFT trains: the same weights

    def training_step(self, batch: list[str], batch_idx: int):
        ids = self.tokenizer(batch, return_tensors="pt", padding=True).input_ids
        return self.model(input_ids=ids, labels=ids).loss

    def expert_examples(self, outputs):  # after each training step: prompts and what to answer, in tokens
        prompt, target = (self.tokenizer(text).input_ids for text in ("Compute 1+1. Solve.", "\\boxed{2}"))
        return [(prompt, [*target, self.tokenizer.eos_token_id])] * 4

    def configure_optimizers(self):
        return SGD(self.model.parameters(), lr=1e-3)


if __name__ == "__main__":
    trainer = Trainer(max_epochs=1, callbacks=ExpertSFT(batch_size=8, learning_rate=1e-3), log_every_n_steps=1)
    trainer.fit(Yours(), DataLoader(["Compute 2+2.", "Compute 3+4."] * 8, batch_size=2))
    for name in ("sft/loss", "tokens_total/sft"):
        print(f"{name} {trainer.callback_metrics[name].item():.3f}")
