"""ReferenceSync: the mixture by hand, resuming, and what it refuses."""

import copy

import pytest
import torch
import two_processes
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.distributed.tensor import DTensor

from masa_lightning import Algorithm, LoRA, ReferenceSync
from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.models.sharding import shard
from masa_lightning.modules.grpo import GRPOLightningModule


class Weights(Callback):
    """Keeps the policy and, beside, what the reference was in each step's update."""

    def __init__(self):
        self.policies, self.references = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.references.append(copy.deepcopy([*module.reference.parameters()]))

    def on_train_batch_end(self, trainer, module, *_):
        self.policies.append(copy.deepcopy([*module.policy.parameters()]))


def module_of(loop, **settings):
    # One of two answers is right, so that every step changes the policy.
    algorithm = Algorithm(kl_coef=0.1)
    return loop.scripted(
        loop.boxes(0, 1), GRPOLightningModule, algorithm=algorithm, learning_rate=1e-2, num_generations=2, **settings
    )


def test_the_reference_is_mixed_with_the_policy_every_n_steps(loop):
    kept, module = Weights(), module_of(loop)
    recorder = loop.fit(module, loop.Problems(10), kept, ReferenceSync(every_n_steps=2, mixup_alpha=0.25))
    assert len(kept.policies) == 5
    expected = [p.detach() for p in loading.load_model(str(loop.checkpoint), "float32").parameters()]
    for step, (policy, reference) in enumerate(zip(kept.policies, kept.references, strict=True), 1):
        for found, right in zip(reference, expected, strict=True):
            torch.testing.assert_close(found.detach(), right, atol=1e-6, rtol=0)
        if step % 2 == 0:
            expected = [0.25 * p.detach() + 0.75 * r for p, r in zip(policy, expected, strict=True)]
    moved = max((a - b).abs().max().item() for a, b in zip(kept.references[4], kept.references[0], strict=True))
    assert moved > 1e-3
    assert recorder.metrics[0]["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_mixture_of_one_is_the_policy_and_the_kl_begins_anew(loop):
    kept, module = Weights(), module_of(loop)
    recorder = loop.fit(module, loop.Problems(6), kept, ReferenceSync(every_n_steps=1, mixup_alpha=1.0))
    torch.testing.assert_close(kept.references[2], kept.policies[1], atol=0, rtol=0)
    assert [m["kl"] for m in recorder.metrics] == pytest.approx([0.0] * 3, abs=1e-6)
    without = loop.fit(module_of(loop), loop.Problems(6))
    assert without.metrics[2]["kl"] > 1e-4


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_resumed_run_has_the_same_reference(loop, tmp_path, when):
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = Weights()
    loop.fit(module_of(loop), loop.Problems(8), whole, saver, ReferenceSync(2, 0.5), enable_checkpointing=True)
    file = tmp_path / f"step={when}.ckpt"
    saved = torch.load(file, weights_only=True)["callbacks"]["ReferenceSync"]
    assert (saved["steps"], saved["reference"] is None) == (when, when < 2)
    rest, resumed = Weights(), ReferenceSync(2, 0.5)
    trainer = loop.trainer(rest, resumed, limit_val_batches=0)
    trainer.fit(module_of(loop), loop.Problems(8), ckpt_path=str(file))
    assert len(rest.policies) == 4 - when
    torch.testing.assert_close(rest.references, whole.references[when:], atol=0, rtol=0)
    torch.testing.assert_close(rest.policies, whole.policies[when:], atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_reference_that_has_moved_is_kept_by_a_run_that_moves_it_later(loop, tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    whole = Weights()
    loop.fit(module_of(loop), loop.Problems(6), whole, saver, ReferenceSync(2, 0.5), enable_checkpointing=True)
    later, rest = ReferenceSync(100, 0.5), Weights()
    with pytest.warns(UserWarning, match="every_n_steps was 2, is 100"):
        trainer = loop.trainer(later, rest, limit_val_batches=0)
        trainer.fit(module_of(loop), loop.Problems(6), ckpt_path=str(tmp_path / "step=2.ckpt"))
    torch.testing.assert_close(rest.references[0], whole.references[2], atol=0, rtol=0)
    kept = later.state_dict()["reference"]
    kept = [kept[name] for name, _ in trainer.lightning_module.reference.named_parameters()]
    torch.testing.assert_close(kept, [p.detach() for p in rest.references[0]], atol=0, rtol=0)


def test_what_cannot_be_moved_is_refused(loop):
    with pytest.raises(ValueError, match="there is none: kl_coef is 0; raise"):
        loop.fit(loop.scripted(loop.boxes(1), GRPOLightningModule), loop.Problems(2), ReferenceSync())
    with pytest.raises(ValueError, match="reference of a LoRA run"):
        loop.fit(module_of(loop, lora=LoRA()), loop.Problems(2), ReferenceSync())
    with pytest.raises(TypeError, match="no reference in LightningModule"):
        ReferenceSync().on_fit_start(None, LightningModule())
    for wrong in ({"every_n_steps": 0}, {"every_n_steps": 1.5}, {"mixup_alpha": 0.0}, {"mixup_alpha": 1.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ReferenceSync(**wrong)


class _Pair(LightningModule):
    """A policy and a reference, sharded."""

    def __init__(self, policy, reference):
        super().__init__()
        self.policy, self.references = policy, [reference]

    @property
    def reference(self):
        return self.references[0]


def _work(rank, folder, checkpoint):
    """Mixes shards, saves them whole, and takes them up again in another reference."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))

    def loaded(factor):
        policy = Policy(loading.load_model(checkpoint, "float32"))
        with torch.no_grad():
            for p in policy.parameters():
                p.mul_(factor)
        shard(policy, mesh)
        return policy

    sync, pair = ReferenceSync(1, 0.25), _Pair(loaded(3.0), loaded(1.0))
    sync.on_train_start(None, pair)
    sync.on_train_batch_end(None, pair, None, None, 0)
    state = sync.state_dict()
    if rank == 0:
        torch.save(state, folder / "state.pt")
    torch.distributed.barrier()
    again, other = ReferenceSync(1, 0.25), _Pair(loaded(3.0), loaded(1.0))
    again.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    again.on_train_start(None, other)
    for mine, theirs in zip(pair.reference.parameters(), other.reference.parameters(), strict=True):
        assert isinstance(mine, DTensor)
        torch.testing.assert_close(mine.to_local(), theirs.to_local(), atol=0, rtol=0)


def test_shards_are_mixed_saved_whole_and_taken_up_again(tiny_checkpoint, tmp_path):
    two_processes.run(_work, tmp_path, str(tiny_checkpoint))
    found = torch.load(tmp_path / "state.pt")["reference"]
    start = dict(Policy(loading.load_model(str(tiny_checkpoint), "float32")).named_parameters())
    for name, weight in start.items():
        torch.testing.assert_close(found[name], 1.5 * weight.detach(), atol=1e-6, rtol=1e-6)
