"""Limits, the optimiser step and the reference, on a tiny random model."""

import copy
import math
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import FSDPStrategy

from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import Algorithm


def test_longer_than_the_context(loop, monkeypatch):
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("the weights were loaded"))
    module = loop.module(GRPOLightningModule, max_prompt_length=200, max_completion_length=57)
    message = (
        r"max_prompt_length 200 \+ max_completion_length 57 = 257 tokens, but model .* was made for 256; lower one"
    )
    with pytest.raises(ValueError, match=message):
        loop.fit(module, loop.Problems(2))


def test_all_of_the_context_may_be_used(loop):
    module = loop.scripted(loop.boxes(1, 2, 3), GRPOLightningModule, max_prompt_length=200, max_completion_length=56)
    loop.fit(module, loop.Problems(2))
    assert module.sampler.max_model_length == 256


@pytest.mark.parametrize("bound", [1e-3, None])
def test_gradient_clipping(loop, bound):
    before = loop.weights()
    module = loop.scripted(loop.boxes(2, 3, 4), loop.SGD, max_grad_norm=bound, learning_rate=1.0)
    recorder = loop.fit(module, loop.Problems([loop.problem("a")], batch_size=1))
    moved = torch.stack([(value - before[name]).norm() for name, value in loop.weights(module).items()]).norm().item()
    norm = recorder.metrics[0]["grad_norm"]
    assert norm > 1e-2
    assert moved == pytest.approx(norm if bound is None else bound, rel=1e-2)


def test_a_gradient_that_is_not_finite_is_skipped(loop):
    module = loop.module(loop.Diverging, sampler=loop.Scripted(loop.boxes(2, 3, 4)), max_completion_length=20)
    module.bad = lambda steps: steps == 1
    recorder = loop.Recorder()
    weights = [loop.weights()]
    recorder.on_train_batch_end = lambda *_: weights.append(loop.weights(module))
    data = loop.Problems([loop.problem(str(i)) for i in range(6)])
    trainer = loop.trainer(recorder, limit_val_batches=0)
    with pytest.warns(UserWarning, match="the gradient norm is nan: this optimiser step is skipped"):
        trainer.fit(module, data)
    assert [m["skipped_updates"] for m in recorder.metrics] == [0, 1, 0]
    assert loop.changed(weights[0], weights[1])
    assert not loop.changed(weights[1], weights[2])
    assert loop.changed(weights[2], weights[3])
    assert all(value.isfinite().all() for value in weights[3].values())
    assert math.isnan(recorder.metrics[1]["grad_norm"])
    assert recorder.metrics[2]["grad_norm"] > 0
    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {2}


@pytest.mark.parametrize(("warmup", "expected"), [(0, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (3, [1 / 3, 2 / 3, 1, 1])])
def test_warm_up(loop, warmup, expected):
    module = loop.module(GRPOLightningModule, warmup_steps=warmup, num_mini_batches=2, learning_rate=0.01)
    recorder = loop.fit(module, loop.Problems(4))
    assert recorder.rates == pytest.approx([0.01 * e for e in expected])
    assert recorder.metrics[-1]["learning_rate"] == pytest.approx(0.01)


def test_the_reference_stays_what_it_was_and_out_of_checkpoints(loop, tmp_path):
    module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, algorithm=Algorithm(kl_coef=0.5))
    recorder = loop.fit(
        module,
        loop.Problems([loop.problem(name) for name in "abcd"]),
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    before = loop.weights()
    (reference,) = module._reference
    assert not loop.changed(before, dict(reference.model.named_parameters()))
    assert not any(p.requires_grad for p in reference.parameters())
    assert loop.changed(before, loop.weights(module))
    assert recorder.metrics[0]["kl"] == 0
    assert recorder.metrics[1]["kl"] > 1e-4
    recorder.trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    expected = {f"policy.model.{name}" for name in loading.load_model(str(loop.checkpoint), "float32").state_dict()}
    assert set(checkpoint["state_dict"]) == expected
    tied = 1  # the output layer is the embedding
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == len(expected) - tied


def test_no_reference_without_a_kl_term(loop):
    module = loop.module(GRPOLightningModule)
    recorder = loop.fit(module, loop.Problems(2))
    assert module._reference == []
    assert "kl" not in recorder.metrics[0]


def test_gradient_checkpointing_is_on_while_training_and_dropout_is_not(loop, monkeypatch):
    passes = []
    load = loading.load_model

    def load_and_watch(*args, **kwargs):
        model = load(*args, **kwargs)
        model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        return model

    monkeypatch.setattr(loading, "load_model", load_and_watch)
    counts = []
    for on in (False, True):
        passes.clear()
        module = loop.scripted(loop.boxes(2, 3, 4), GRPOLightningModule, gradient_checkpointing=on)
        loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("b")]))
        counts.append(sum(passes))
        assert not module.policy.model.model.layers[0].self_attn.training
    assert counts == [1, 2]


def test_strategies_that_flatten_weights_are_refused(loop):
    module = loop.module()
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())  # Lightning makes trainers with it on CUDA only
    with pytest.raises(ValueError, match=r"the strategy is FSDPStrategy.*ModelParallelStrategy \(FSDP2\)"):
        module.setup("fit")


def test_tokens_without_a_row_in_the_embedding(loop, monkeypatch, tmp_path):
    """As when someone calls `add_tokens` and saves the tokenizer, and the model as it was."""
    tokenizer = loading.load_tokenizer(str(loop.checkpoint))
    tokenizer.add_tokens(["<think>", "</think>", "<a>", "<b>"])  # the embedding has rows for three more
    folder = shutil.copytree(loop.checkpoint, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(ValueError, match=r"gives 1 tokens .* 104 rows .*'<b>' is 104"):
        loop.fit(loop.module(GRPOLightningModule, model=str(folder)), loop.Problems(2))


def test_a_prompt_with_a_token_without_a_row(loop, tmp_path):
    tokenizer = loading.load_tokenizer(str(loop.checkpoint))
    tokenizer.add_tokens(["<x>", "<y>", "<z>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>", "<image>"]})
    folder = shutil.copytree(loop.checkpoint, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    module = loop.module(GRPOLightningModule, model=str(folder))
    loop.fit(module, loop.Problems([loop.problem("1+1")], batch_size=1))
    asked = len(module.sampler.calls)
    with pytest.raises(ValueError, match="'<image>' is 104"):
        loop.fit(module, loop.Problems([loop.problem("1<image>")], batch_size=1))
    assert len(module.sampler.calls) == asked


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_load_from_checkpoint(loop, tmp_path, lora):
    """Outside a Trainer; what it makes can be evaluated and trained."""
    module = loop.module(GRPOLightningModule, sampler=TransformersSampler(), lora=lora)
    loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(tmp_path / "one.ckpt")
    given = {"model": module.model_name, "lora": lora, "max_prompt_length": 16, "max_completion_length": 8}
    loaded = GRPOLightningModule.load_from_checkpoint(
        tmp_path / "one.ckpt", sampler=TransformersSampler(), prompts=module.prompts, **given
    )
    assert not loop.changed(loop.weights(module), loop.weights(loaded))
    loop.trainer().validate(loaded, loop.Problems(2, 2), verbose=False)
    loop.fit(loaded, loop.Problems(2))
    assert not loaded.automatic_optimization


def spread(problem, completions):
    return [len(set(text)) / 10 for text in completions]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_a_copy_of_a_fitted_module_trains_by_itself(loop, lora, copied):
    """Its sampler draws from its own policy: the guard compares them."""
    if lora is not None:
        pytest.importorskip("peft")
    settings = {"reward_functions": [spread], "lora": lora, "algorithm": Algorithm(kl_coef=0.1)}
    module = loop.module(GRPOLightningModule, sampler=TransformersSampler(), **settings)
    loop.fit(module, loop.Problems(4))
    before = loop.weights(module)
    twin = copied(module)
    recorder = loop.fit(twin, loop.Problems(4))
    assert not loop.changed(before, loop.weights(module))
    assert loop.changed(before, loop.weights(twin))
    assert recorder.metrics[0]["sampling/sampling_logp_difference/max"] < 1e-3
    trained = loop.weights(twin)
    loop.fit(module, loop.Problems(4))
    assert not loop.changed(trained, loop.weights(twin))


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"gradient_clip_val": 0.5}, r"expected max_grad_norm=0\.5 of the module"),
        ({"accumulate_grad_batches": 4}, r"over 4 batches.*expected a larger batch_size"),
        ({"val_check_interval": 0}, r"val_check_interval of the Trainer is 0; expected >= 1.*limit_val_batches=0"),
        ({"callbacks": [GradientAccumulationScheduler({0: 1, 3: 2})]}, r"over 2 batches.*max_tokens_per_micro_batch"),
    ],
)
def test_what_lightning_does_to_gradients_is_a_setting_of_the_module(loop, settings, remedy):
    trainer = loop.trainer(*settings.pop("callbacks", []), **settings)
    module = loop.module(GRPOLightningModule)
    with pytest.raises(ValueError, match=remedy):
        trainer.fit(module, loop.Problems(2))
    assert module.policy is None  # before any weights


def test_a_sampler_is_closed_at_the_end_of_each_stage_and_set_up_anew(loop):
    """So that its memory is back, and the next stage goes on with the policy as it is."""

    class Closable(TransformersSampler):
        events: list[str] = []  # noqa: RUF012

        def setup(self, policy, *args, **kwargs):
            self.events.append("setup")
            super().setup(policy, *args, **kwargs)

        def close(self):
            self.events.append("close")
            self._policy = None

    module = loop.module(sampler=Closable())
    recorder = loop.fit(module, loop.Problems(4, validation=2))
    again = loop.fit(module, loop.Problems(4))
    again.trainer.test(module, loop.Problems(2, validation=2), verbose=False)
    assert Closable.events == ["setup", "close"] * 3
    assert recorder.metrics
    assert again.metrics
