"""GRPO and MASA in two processes, under DDP and FSDP2, take the very steps of one process with the same global batch.

And they write the same rollouts, of which each process has its own alone.
"""

import random
import warnings

import pytest
import torch
import two_processes
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from training_loop import Loop, Problems

from masa_lightning.callbacks.rollout_table import NAME, RolloutTable
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.settings import Algorithm
from masa_lightning.types import Completion, Problem


class Spread:
    """A reward that differs from rollout to rollout."""

    def __call__(self, problem: Problem, completions: list[str]) -> list[float]:
        return [len(set(text)) / 8 for text in completions]


class Dice:
    """A made-up sampler: tokens that depend on the request alone, whichever process asks. FSDP2 needs vLLM for real ones."""

    def setup(self, policy, model_path, *, max_model_length, stop_token_ids):
        self.stop = stop_token_ids[0]

    def generate(self, requests, settings, on_progress=None):
        completions = []
        for request in requests:
            dice = random.Random(str(request))
            ids = [dice.randrange(6, 104) for _ in range(dice.randint(1, request.max_tokens - 1))] + [self.stop]
            completions.append(Completion(token_ids=ids, logprobs=[-4.6] * len(ids), finish_reason="stop"))
        return completions

    def sync_weights(self): ...

    def sleep(self): ...

    def wake(self): ...


class WithSGD:
    """Steps that are the gradient: Adam would make rounding errors of small gradients large."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class InBuckets(Callback):
    """Counts, before each optimiser step, the pieces of memory that all gradients are in."""

    def __init__(self):
        self.pieces = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.parameters()]
        assert len(gradients) > 10
        self.pieces.append(len({g.untyped_storage().data_ptr() for g in gradients}))


class PlainGRPO(WithSGD, GRPOLightningModule): ...


class OneRollout(PlainGRPO):
    """Fewer than anybody may ask for: their advantages are their rewards."""

    def training_counts(self):
        return {"solution": 1}


class PlainMASA(WithSGD, MASALightningModule): ...


PROBLEMS = [Problem(id=str(i), problem=f"{i}+{i}" if i else "too long " * 9, answer=str(2 * i)) for i in range(8)]
# Batches of two, one of which has a problem that is too long; with one rollout each, a process is left without any.
EMPTY = {"kind": OneRollout, "batch_size": 2}
# Several optimiser steps and passes, a reference, and problems refilled.
WHOLE = {
    "kind": PlainMASA,
    "batch_size": 4,
    "num_iterations": 2,
    "num_mini_batches": 2,
    "max_tokens_per_micro_batch": 40,
    "algorithm": Algorithm(
        kl_coef=0.1,
        dynamic_sampling=True,
        max_refills=1,
        scale_rewards="batch",
        multi_objective_aggregation="normalize_per_value",
    ),
}
# What looks at all tokens of a step, or leaves some out: by their entropy, or by how far sampler and policy are apart.
LOSSES = {
    "kind": PlainMASA,
    "batch_size": 4,
    "num_iterations": 2,
    "max_tokens_per_micro_batch": 40,
    "algorithm": Algorithm(
        loss_type="sapo",
        kl_coef=0.1,
        kl_kind="k3+",
        entropy_coef=0.05,
        top_entropy_quantile=0.5,
        importance_sampling="sequence_mask",
        importance_sampling_clip_min=0.01,  # of the whole sequence, which `Dice` says is likelier than it is
        importance_sampling_clip_max=0.3,
        off_policy_mask_threshold=0.01,
    ),
}
CASES = {"empty": EMPTY, "whole": WHOLE, "losses": LOSSES}


def train(checkpoint, folder, settings, processes, **trainer):
    """Trains for two batches, and returns the weights, what was logged, and which of the rollouts this process has."""
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    settings = {
        "reward_functions": [Spread()],
        "max_grad_norm": None,
        "grader": loop.Grades(),
        "sampler": Dice(),
        "max_logp_difference": 1e9,  # compared all the same: what that takes leaves the training as it is
        **settings,
    }
    batch_size = settings.pop("batch_size")
    module = loop.module(settings.pop("kind"), **settings)
    data = Problems(train=PROBLEMS[: 2 * batch_size], batch_size=batch_size // processes)
    callbacks = [RolloutTable(every_n_steps=1, rows=6)]
    if isinstance(trainer.get("strategy"), DDPStrategy):
        callbacks.append(InBuckets())
    recorder = loop.fit(module, data, *callbacks, devices=processes, default_root_dir=folder, **trainer)
    for buckets in callbacks[1:]:  # a gradient is in memory once, from the first step on
        assert len(buckets.pieces) >= 2
        assert {*buckets.pieces} <= {1, 2}
    weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.policy.model.named_parameters()}
    here = [r.is_here for groups in recorder.groups for g in groups for r in g.rollouts]
    return {name: p.detach().clone() for name, p in weights.items()}, recorder.metrics, here


def _work(rank, folder, checkpoint, strategy):
    got = {
        name: train(checkpoint, folder / name, case, 2, strategy=two_processes.strategy(strategy))
        for name, case in CASES.items()
    }
    torch.save(got, folder / f"got-{rank}.pt")


@pytest.mark.parametrize("strategy", two_processes.STRATEGIES)
def test_two_processes_train_as_one(tiny_checkpoint, tmp_path, loop, strategy):
    two_processes.run(_work, tmp_path, tiny_checkpoint, strategy)
    before = loop.weights()
    first, second = (torch.load(tmp_path / f"got-{rank}.pt") for rank in range(2))
    for name, (got, logged, here) in first.items():
        with warnings.catch_warnings():
            expected, metrics, whole = train(tiny_checkpoint, tmp_path / "one" / name, CASES[name], 1)
        assert all(whole)
        assert [not each for each in here] == second[name][2]  # each rollout is in one of them
        assert name == "empty" or 0.3 * len(here) < sum(here) < 0.7 * len(here)
        written = [next((tmp_path / of / name).rglob(NAME)).read_text() for of in (".", "one")]
        assert written[0] == written[1] != "", name
        assert len(loop.changed(before, expected)) > 10, name
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
        assert len(logged) == len(metrics) == 2
        assert sorted(step["prompts/overlong"] for step in metrics)[-1] == 1, name
        for ours, theirs in zip(logged, metrics, strict=True):
            assert ours.keys() - theirs.keys() == {"balance/generated_tokens", "balance/trained_tokens"}
            for figure, value in theirs.items():
                if not figure.startswith(("timing_s/", "tokens_per_second")):
                    assert ours[figure] == pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True), (name, figure)


def _predict(rank, checkpoint, loader):
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    trainer = loop.trainer(strategy=two_processes.strategy("ddp"), devices=2)
    with pytest.raises(ValueError, match=r"processes have different numbers of batches, \[\[2\], \[1\]\]"):
        trainer.predict(loop.module(), loader)


def test_uneven_batches_of_a_foreign_loader_are_refused(tiny_checkpoint):
    """Lightning deals 5 problems out as 3 and 2: with two a batch one process would wait for the other for ever."""
    problems = [Problem(id=str(i), problem=f"{i}+1", answer=str(i + 1)) for i in range(5)]
    two_processes.run(_predict, tiny_checkpoint, DataLoader(problems, batch_size=2, collate_fn=list))
