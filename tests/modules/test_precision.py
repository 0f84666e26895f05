"""What precisions and dtypes a module trains with, on a tiny random model."""

import pytest
import torch
from conftest import make_tiny_checkpoint
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision

from masa_lightning.callbacks.expert_sft import ExpertSFT
from masa_lightning.models import loading
from masa_lightning.settings import Algorithm, Evaluation


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("long"), context=1300)


def steps(before, after):
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_long_completions_under_autocast(loop, long_checkpoint, kl_coef):
    """1,200 tokens, one of them with attention of its own: the update is that of float32, as far as bfloat16 goes."""

    def answer(kind, text, index, call):
        words = "ab" * 600 if index == 0 else "cd " * 10 + f"\\boxed{{{index}}}"
        return (words, "length") if index == 0 else words

    moved = {}
    for precision in ("bf16-mixed", "32-true"):
        module = loop.scripted(
            answer,
            loop.SGD,
            model=str(long_checkpoint),
            max_completion_length=1200,
            learning_rate=0.1,
            algorithm=Algorithm(kl_coef=kl_coef, aggregation="seq-mean-token-mean"),
            num_iterations=2,
        )
        problems = [loop.problem("1+1"), loop.problem("1+2", answer="1")]
        recorder = loop.fit(module, loop.Problems(problems), precision=precision)
        assert max(r.length for g in recorder.groups[0] for r in g.rollouts) == 1200
        assert module.policy.model.dtype == torch.float32
        start = dict(loading.load_model(str(long_checkpoint), "float32").named_parameters())
        moved[precision] = steps(start, dict(module.policy.model.named_parameters())).detach()
    difference = moved["bf16-mixed"] - moved["32-true"]
    assert moved["32-true"].norm() > 1e-3
    assert difference.norm() < 0.1 * moved["32-true"].norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rollouts_of_transformers_under_autocast(loop, dtype):
    recorder = loop.fit(loop.module(dtype=dtype), loop.Problems(4), precision="bf16-mixed")
    for metrics in recorder.metrics:
        assert metrics["sampling/sampling_logp_difference/max"] < 0.1


@pytest.mark.parametrize("wanted", [False, True])
def test_the_head_in_float32_is_a_setting(loop, wanted):
    """The reference of the KL term has the same."""
    module = loop.module(float32_head=wanted, algorithm=Algorithm(kl_coef=0.1))
    (metrics,) = loop.fit(module, loop.Problems(2), precision="bf16-mixed").metrics
    assert [p.head_dtype for p in (module.policy, *module._reference)] == [torch.float32 if wanted else None] * 2
    assert metrics["sampling/sampling_logp_difference/max"] < 0.1


@pytest.mark.parametrize(("precision", "expected"), [("bf16-mixed", torch.bfloat16), ("32-true", None)])
def test_a_sampler_is_set_up_under_the_autocast_of_training(loop, monkeypatch, precision, expected):
    """From which an engine on a GPU has its dtype."""
    module, seen = loop.module(), []
    monkeypatch.setattr(
        type(module.sampler),
        "setup",
        lambda self, policy, *args, **kwargs: (
            seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
            or super(type(self), self).setup(policy, *args, **kwargs)
        ),
    )
    loop.fit(module, loop.Problems(2), precision=precision)
    assert seen == [expected]


def settings_of(precision):
    """On a CPU a Trainer makes bf16-mixed of 16-mixed, and says so."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu")]} if precision == "16-mixed" else {"precision": precision}


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "64-true"])
@pytest.mark.parametrize("run", ["fit", "validate", "predict"])
def test_refused_precisions(loop, monkeypatch, precision, run):
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    module = loop.module()
    trainer = loop.trainer(**settings_of(precision))
    message = rf"precision is '{precision}'; expected one of '32-true', .*, because .*'bf16-mixed' on a GPU"
    with pytest.raises(ValueError, match=message):
        getattr(trainer, run)(module, loop.Problems(2, validation=2))


def test_true_bfloat16_goes_with_such_weights_alone(loop):
    """With them: test_grpo.py, test_bf16_weights_do_not_round_rewards_or_log_probabilities."""
    with pytest.raises(
        ValueError, match="precision is 'bf16-true' and the module's dtype 'float32'; expected dtype 'bf"
    ):
        loop.fit(loop.module(), loop.Problems(2), precision="bf16-true")


@pytest.mark.parametrize("settings", [{}, {"num_meta_generations": 0}])
def test_float16_is_refused_for_training(loop, monkeypatch, settings):
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(ValueError, match=r"dtype is float16, .*; expected 'float32' .* or 'bfloat16' for training"):
        loop.fit(loop.module(dtype="float16", **settings), loop.Problems(2))


def test_float16_is_evaluated(loop):
    module = loop.module(dtype="float16", evaluation=Evaluation(num_generations=2, num_meta_generations=1))
    (metrics,) = loop.trainer().validate(module, loop.Problems(2, validation=2), verbose=False)
    assert metrics["val/pass_rate"] >= 0
    assert module.policy.model.dtype == torch.float16


@pytest.mark.filterwarnings("ignore:.*returned `None`", "ignore:.*does not have many workers")
@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "64-true"])
def test_expert_sft_refuses_them_with_any_module(loop, precision):
    class Foreign(LightningModule):
        policy = None

        def expert_examples(self, outputs):
            return []

        def training_step(self, batch, batch_idx): ...

        def configure_optimizers(self): ...

    with pytest.raises(ValueError, match=f"precision is '{precision}'"):
        loop.trainer(ExpertSFT(), **settings_of(precision)).fit(Foreign(), torch.utils.data.DataLoader(range(2)))
