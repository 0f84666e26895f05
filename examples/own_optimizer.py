"""An optimiser and a schedule of your own: any class of torch's or like them, or a function that makes one."""

from functools import partial

from lightning.pytorch import Trainer
from torch.optim import RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR

from masa_lightning import ArithmeticDataModule, MASALightningModule, Optimization, RolloutProgressBar

if __name__ == "__main__":
    optimization = Optimization(optimizer=partial(RMSprop, lr=2e-5), lr_scheduler=partial(CosineAnnealingLR, T_max=4))
    module = MASALightningModule("tiny", num_generations=4, num_meta_generations=4, optimization=optimization)
    trainer = Trainer(max_steps=3, limit_val_batches=0, log_every_n_steps=1, callbacks=RolloutProgressBar())
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=24))
    print(f"learning_rate {trainer.callback_metrics['learning_rate'].item():.1e}, after it fell from 2.0e-05")
