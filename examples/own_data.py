"""Train on problems of your own: any loader of `list[Problem]` will do."""

from functools import partial
from random import Random

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from masa_lightning import AdamW, MASALightningModule, Optimization, RolloutProgressBar
from masa_lightning.types import Problem


class Remainders(LightningDataModule):
    def train_dataloader(self):
        rng = Random(0)
        pairs = [(rng.randint(100, 999), rng.randint(3, 9)) for _ in range(64)]
        problems = [Problem(id=f"{a}/{b}", problem=f"Compute {a} mod {b}.", answer=str(a % b)) for a, b in pairs]
        return DataLoader(problems, batch_size=8, shuffle=True, collate_fn=list)


if __name__ == "__main__":
    optimization = Optimization(optimizer=partial(AdamW, lr=2e-4))
    module = MASALightningModule("tiny", num_generations=4, num_meta_generations=4, optimization=optimization)
    less = {"enable_model_summary": False, "enable_checkpointing": False}  # no table of layers; the last line saves
    trainer = Trainer(max_steps=3, log_every_n_steps=1, callbacks=RolloutProgressBar(), **less)
    trainer.fit(module, datamodule=Remainders())
    trainer.save_checkpoint("remainders.ckpt")
