"""A loss and a metric of your own, in a subclass: stay near what was drawn, and count how often solutions agree."""

from collections.abc import Sequence
from functools import partial

from lightning.pytorch import Trainer
from torch import Tensor

from masa_lightning import AdamW, ArithmeticDataModule, MASALightningModule, Optimization, RolloutProgressBar
from masa_lightning.distributed import share
from masa_lightning.types import Experience, RolloutGroup


class Near(MASALightningModule):
    def extra_loss(self, logp: Tensor, batch: Experience) -> Tensor:
        return 0.1 * (logp - batch.sampler_logp).square()  # [B, T]: a number a token

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        # With several processes each has the texts of its own groups, and shares what it finds in them.
        agree = share(groups, lambda group: len({r.text for r in group.solutions}) == 1, self.processes)
        return super().training_metrics(groups) | {"agree": sum(agree) / len(agree)}


if __name__ == "__main__":
    sizes = {"num_generations": 4, "num_meta_generations": 4}
    optimization = Optimization(optimizer=partial(AdamW, lr=2e-4), num_mini_batches=2)
    module = Near("tiny", optimization=optimization, **sizes)
    trainer = Trainer(max_steps=2, limit_val_batches=0, log_every_n_steps=1, callbacks=RolloutProgressBar())
    trainer.fit(module, ArithmeticDataModule(batch_size=8, train_size=16))
    for name in ("extra_loss", "agree"):
        print(f"{name} {trainer.callback_metrics[name].item():.6f}")
