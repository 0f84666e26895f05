"""Optimiser steps: clipping, skipping, stopping, and what is saved."""

import copy
import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from masa_lightning.callbacks.expert_sft import ExpertSFT
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.optimization import AdamW, decay_groups
from masa_lightning.modules.precision import lost_share
from masa_lightning.update.learner import Learner, are_finite


def weight(value=1.0, grad=None):
    p = nn.Parameter(torch.tensor([value, value]))
    if grad is not None:
        p.grad = torch.tensor(grad)
    return p


@pytest.mark.parametrize(("bound", "moved"), [(None, [3.0, 4.0]), (10.0, [3.0, 4.0]), (0.5, [0.3, 0.4])])
def test_clipping(bound, moved):
    p = weight(grad=[3.0, 4.0])
    learner = Learner(max_grad_norm=bound, max_skipped_steps=0)
    assert learner.step(torch.optim.SGD([p], lr=1.0), [p]) == pytest.approx(5.0)
    torch.testing.assert_close(p.detach(), 1 - torch.tensor(moved))
    assert p.grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_leaves_weights_moments_and_step_counts(bad):
    p, learner = weight(), Learner(max_grad_norm=1.0, max_skipped_steps=3)
    twin = weight()
    optimizer, other = (torch.optim.AdamW([x], lr=0.1, weight_decay=0.1) for x in (p, twin))
    for gradient in (1.0, bad, 2.0, bad, bad, bad, 0.5):
        p.grad = torch.tensor([gradient, 1.0])
        if math.isfinite(gradient):
            twin.grad = p.grad.clone()
            nn.utils.clip_grad_norm_([twin], 1.0)
            other.step()
            learner.step(optimizer, [p])
        else:
            with pytest.warns(UserWarning, match="this optimiser step is skipped, number . in a row; more than 3 end"):
                assert math.isnan(learner.step(optimizer, [p]))
        assert torch.equal(p, twin)
    for name, value in optimizer.state[p].items():
        assert torch.equal(value, other.state[twin][name]), name


@pytest.mark.filterwarnings("ignore:the gradient norm")
@pytest.mark.parametrize("most", [0, 1, 3])
def test_too_many_in_a_row(most):
    p, learner = weight(), Learner(max_grad_norm=1.0, max_skipped_steps=most, owner="ours")
    optimizer = torch.optim.SGD([p], lr=1.0)
    for _ in range(most):
        p.grad = torch.tensor([math.nan, 0.0])
        learner.step(optimizer, [p])
    p.grad = torch.tensor([math.nan, 0.0])
    message = (
        rf"gradient norm of ours was not finite in {most + 1} optimiser steps in a row.*max_skipped_steps = {most}"
    )
    with pytest.raises(RuntimeError, match=message):
        learner.step(optimizer, [p])
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("rate", [1e38, math.inf])
def test_a_step_that_breaks_the_weights(rate):
    p = weight(value=1e38, grad=[-3.0, -4.0])
    with pytest.raises(RuntimeError, match=r"made weights that are not finite, from a gradient of norm 5; .*ckpt_path"):
        Learner(max_grad_norm=None, max_skipped_steps=3).step(torch.optim.SGD([p], lr=rate), [p])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite(dtype):
    values = [torch.full((1000,), 6e4).to(dtype), torch.ones(3)]
    assert are_finite(values)
    assert are_finite([])
    for bad in (math.nan, math.inf, -math.inf):
        values[0][7] = bad
        assert not are_finite(values)


def test_norms_and_biases_are_not_decayed():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, vocab_size=32, tie_word_embeddings=False))
    model.lm_head.weight.requires_grad_(False)
    named = [*model.named_parameters(), ("experts.down_proj_bias", nn.Parameter(torch.zeros(2, 3)))]
    decayed, rest = decay_groups(named)
    assert rest["weight_decay"] == 0.0
    for kind in (AdamW, torch.optim.SGD):
        groups = kind([dict(decayed), dict(rest)], lr=0.1, weight_decay=0.1).param_groups
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    names = {id(p): name for name, p in named}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in rest["params"])
    assert not any("norm" in names[id(p)] or "bias" in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(named) - 1
    assert "model.embed_tokens.weight" in {names[id(p)] for p in decayed["params"]}
    assert len(decay_groups(named[:1])) == 1


def test_gradients_that_buckets_hold_stay_as_zeros():
    p, learner = weight(grad=[3.0, 4.0]), Learner(max_grad_norm=None, max_skipped_steps=1)
    learner.keeps_gradients, held = True, p.grad
    optimizer = torch.optim.SGD([p], lr=1.0, momentum=0.9)
    learner.step(optimizer, [p])
    assert p.grad is held
    assert p.grad.tolist() == [0.0, 0.0]
    p.grad[0] = math.nan
    with pytest.warns(UserWarning, match="this optimiser step is skipped"):
        learner.step(optimizer, [p])
    assert p.tolist() == [-2.0, -3.0]  # nor does momentum move them


@pytest.mark.parametrize("saved", [True, None])
@pytest.mark.parametrize("here", [True, None])
def test_a_state_of_one_kernel_goes_on_with_the_other(saved, here):
    """As where a run of a GPU, whose kernel is fused, is resumed on a CPU, and the reverse; a CPU has both."""
    p, twin = weight(), weight()
    optimizer, other = (AdamW([x], lr=0.1, weight_decay=0.1) for x in (p, twin))
    assert [group["fused"] for group in optimizer.param_groups] == [None]  # on a CPU
    optimizer.param_groups[0]["fused"], other.param_groups[0]["fused"] = saved, here
    for _ in range(2):
        p.grad = torch.tensor([3.0, 4.0])
        optimizer.step()
    with torch.no_grad():
        twin.copy_(p)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [(group["fused"], group["lr"]) for group in other.param_groups] == [(here, 0.1)]
    for x, each in ((p, optimizer), (twin, other)):
        x.grad = torch.tensor([-1.0, 2.0])
        each.step()
    torch.testing.assert_close(twin, p)


@pytest.mark.parametrize(
    ("dtype", "step", "lost"),
    [("bfloat16", 1e-6, 1.0), ("bfloat16", 1e-3, 0.0), ("float32", 1e-6, 0.0), ("float32", 1e-10, 1.0)],
)
def test_steps_that_are_rounded_away(dtype, step, lost):
    weights = [torch.full((4, 4), 0.02, dtype=getattr(torch, dtype))]
    assert lost_share(weights, step) == lost
    p = weights[0].clone().requires_grad_()
    p.grad = torch.ones_like(p)
    torch.optim.AdamW([p], lr=step, weight_decay=0.0).step()
    assert torch.equal(p, weights[0]) is (lost == 1.0)


def test_bfloat16_at_the_usual_rate_is_warned_of(loop):
    module = loop.module(GRPOLightningModule, dtype="bfloat16", learning_rate=1e-6)
    with pytest.warns(
        UserWarning, match=r"100% of the weights are too large for steps of learning rate 1e-06 .* bfloat16"
    ):
        loop.trainer(max_steps=1, limit_val_batches=0).fit(module, loop.Problems(2))


# -- in a run ----------------------------------------------------------------------------------------------------------


def diverging(loop, since, **settings):
    """Gradients are NaN after some training steps."""
    sampler = loop.Scripted(loop.boxes(2, 3, 4))
    module = loop.module(loop.Diverging, sampler=sampler, max_completion_length=20, **settings)
    module.bad = lambda steps: steps >= since
    return module


@pytest.mark.filterwarnings("ignore:the gradient norm is")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_stops_and_keeps_its_last_good_checkpoint(loop, tmp_path):
    module = diverging(loop, 2, max_skipped_steps=1)
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_last=True, filename="one")
    data = loop.Problems([loop.problem(str(i)) for i in range(20)])
    with pytest.raises(RuntimeError, match=r"in 2 optimiser steps in a row, lastly nan"):
        loop.fit(module, data, saver, enable_checkpointing=True)
    assert module.run_state.rollout_steps == 3  # two good ones, and one that was skipped
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["masa"]["skipped_in_a_row"] == 1
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    # The count goes on in a resumed run.
    again = diverging(loop, 0, max_skipped_steps=1)
    with pytest.raises(RuntimeError, match=r"in 2 optimiser steps in a row"):
        trainer = loop.trainer(limit_val_batches=0)
        trainer.fit(again, data, ckpt_path=tmp_path / "last.ckpt")
    assert again.run_state.rollout_steps == 3


def test_weights_that_are_not_finite_are_never_saved(loop, tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_last=True, filename="one")
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, learning_rate=1e-3)
    problems = [loop.problem(str(i)) for i in range(8)]
    recorder = loop.fit(module, loop.Problems(problems), saver, enable_checkpointing=True, max_steps=2)
    good = (tmp_path / "last.ckpt").read_bytes()
    with torch.no_grad():
        next(module.policy.parameters()).view(-1)[3] = math.inf
    for path in tmp_path.glob("*.ckpt"):
        with pytest.raises(RuntimeError, match="the weights are not finite, so no checkpoint of them is written"):
            recorder.trainer.save_checkpoint(path)
    assert (tmp_path / "last.ckpt").read_bytes() == good
    saver = ModelCheckpoint(dirpath=tmp_path / "broken", every_n_train_steps=1, save_last=True, filename="one")
    broken = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="made weights that are not finite"):
        loop.fit(broken, loop.Problems(problems), saver, enable_checkpointing=True, max_steps=4)
    for path in tmp_path.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_a_broken_model_is_refused_before_anything_is_drawn(loop, tmp_path):
    from masa_lightning.models import loading

    model = loading.load_model(str(loop.checkpoint), "float32")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    model.save_pretrained(tmp_path)
    loading.load_tokenizer(str(loop.checkpoint)).save_pretrained(tmp_path)
    module = loop.module(model=str(tmp_path))
    with pytest.raises(ValueError, match="has weights that are not finite"):
        loop.fit(module, loop.Problems(2))
    assert module.sampler.calls == []


@pytest.mark.filterwarnings("ignore:the gradient norm of ExpertSFT is nan")
def test_expert_sft_stops_too(loop):
    """And the module's own counter, whose steps are fine, does not hide it."""

    class Broken(ExpertSFT):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            step = self._learner.step

            def stepped(optimizer, parameters):
                parameters = list(parameters)
                parameters[0].grad = torch.full_like(parameters[0], math.nan)
                return step(optimizer, parameters)

            self._learner.step = stepped

    module = loop.module(sampler=loop.Spy(), learning_rate=1e-4)
    module.expert_examples = lambda outputs: [([5, 6], [7, 1])]
    callback = Broken(batch_size=1, max_skipped_steps=2)
    recorder = loop.Recorder()
    with pytest.raises(RuntimeError, match="gradient norm of ExpertSFT was not finite in 3 optimiser steps in a row"):
        loop.trainer(recorder, callback, limit_val_batches=0).fit(module, loop.Problems(12))
    assert [m["sft/skipped_updates"] for m in recorder.metrics] == [1.0, 1.0]
    assert callback.state_dict()["skipped_in_a_row"] == 3
