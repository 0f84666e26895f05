"""An optimiser and a schedule of your own: override Lightning's `configure_optimizers`."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR

from masa_lightning import ArithmeticDataModule, MASALightningModule, RolloutProgressBar


class Cosine(MASALightningModule):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.RMSprop(self.parameters(), lr=self.learning_rate)
        schedule = CosineAnnealingLR(optimizer, T_max=4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


if __name__ == "__main__":
    sizes = {"num_generations": 4, "num_meta_generations": 4, "learning_rate": 2e-5}
    module = Cosine("tiny", **sizes)
    trainer = Trainer(max_steps=3, limit_val_batches=0, log_every_n_steps=1, callbacks=RolloutProgressBar())
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=24))
    print(f"learning_rate {trainer.callback_metrics['learning_rate'].item():.1e}, after it fell from 2.0e-05")
