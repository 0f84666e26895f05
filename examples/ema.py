"""A moving average of the weights, by Lightning's callback: training draws from the policy, validation from the average."""

from functools import partial

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from masa_lightning import (
    AdamW,
    ArithmeticDataModule,
    MASALightningModule,
    Optimization,
    RolloutProgressBar,
    VLLMSampler,
)
from masa_lightning.models.tiny import PROMPTS

if __name__ == "__main__":
    sizes = {"max_prompt_length": 64, "max_completion_length": 64, "num_generations": 4, "num_meta_generations": 4}
    optimization = Optimization(optimizer=partial(AdamW, lr=2e-4))
    module = MASALightningModule("tiny", VLLMSampler(), prompts=PROMPTS, optimization=optimization, **sizes)
    callbacks = [EMAWeightAveraging(decay=0.9), RolloutProgressBar()]
    trainer = Trainer(max_steps=4, val_check_interval=2, callbacks=callbacks, log_every_n_steps=1)
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=32, validation_size=8))
    trainer.save_checkpoint("average.ckpt")
    print(f"val/pass@1 {trainer.callback_metrics['val/pass@1'].item():.3f} of the averaged weights")
