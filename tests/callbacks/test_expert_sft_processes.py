"""Behaviour cloning in two trainer processes, under DDP and FSDP2: the same weights as in one, also after a resume."""

import warnings

import pytest
import torch
import two_processes
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from masa_lightning import ExpertSFT
from masa_lightning.models import loading
from masa_lightning.models.packing import pack
from masa_lightning.models.policy import Policy
from masa_lightning.models.sharding import shard

EXAMPLES = [([5, 6, 7], [8, 9, 1]), ([10], [11, 12, 13, 14, 1]), ([15, 16], [17, 1]), ([18] * 9, [19] * 7)]
# Of each process at each training step: equal shares, most on one, all on the other.
DEALT = [(EXAMPLES[:2], EXAMPLES[2:]), (EXAMPLES[:3], EXAMPLES[3:]), ([], EXAMPLES), (EXAMPLES[:1], [])]


class Foreign(LightningModule):
    """Somebody else's module: automatic optimisation of the whole policy, with rate 0, and examples to clone."""

    def __init__(self, checkpoint, sharded, together):
        super().__init__()
        self.checkpoint, self.sharded, self.together = checkpoint, sharded, together

    def configure_model(self):
        if hasattr(self, "policy"):
            return
        self.policy = Policy(loading.load_model(self.checkpoint, "float32"))
        if self.sharded:
            shard(self.policy, self.device_mesh)

    def training_step(self, batch, batch_idx):
        logp, _ = self.policy(pack([([5], [6, 7, 8])]))
        return logp.mean()

    def expert_examples(self, outputs):
        shares = DEALT[(self.trainer.global_step - 1) % len(DEALT)]
        return [e for share in shares for e in share] if self.together else shares[self.global_rank]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train(module, folder, steps, resume=None, **settings):
    """Trains, saves after the second step, and returns the weights."""
    warnings.filterwarnings("ignore")
    callback = ExpertSFT(batch_size=3, learning_rate=1e-3, weight_decay=0.1, max_tokens_per_micro_batch=8)
    saver = ModelCheckpoint(dirpath=folder, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "max_epochs": -1}
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=[callback, saver], **quiet, **settings)
    trainer.fit(module, DataLoader(range(64)), ckpt_path=resume)
    weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.policy.named_parameters()}
    return {name: p.detach().clone() for name, p in weights.items()}


def _work(rank, folder, checkpoint, strategy):
    def run(steps, resume=None):
        module = Foreign(checkpoint, strategy == "fsdp2", together=False)
        return train(module, folder / "two", steps, resume, strategy=two_processes.strategy(strategy), devices=2)

    whole = run(4)
    resumed = run(4, folder / "two" / "step=2.ckpt")
    if rank == 0:
        torch.save((whole, resumed), folder / "weights.pt")


@pytest.mark.parametrize("strategy", two_processes.STRATEGIES)
def test_two_processes_clone_as_one(tiny_checkpoint, tmp_path, strategy):
    two_processes.run(_work, tmp_path, str(tiny_checkpoint), strategy)
    whole, resumed = torch.load(tmp_path / "weights.pt")
    with warnings.catch_warnings():
        expected = train(Foreign(str(tiny_checkpoint), False, together=True), tmp_path / "one", 4)
    start = Policy(loading.load_model(str(tiny_checkpoint), "float32"))
    assert any(not torch.equal(p, expected[name]) for name, p in start.named_parameters())
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(resumed, whole, atol=0, rtol=0)
