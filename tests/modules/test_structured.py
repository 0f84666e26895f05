"""Structured outputs in runs of a random model, which never wrote a prediction that could be read."""

import copy
import importlib.util
import sys

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning import Evaluation, PassRate, PromptTemplates, Quantity, SamplingSettings, TransformersSampler
from masa_lightning.cli import main
from masa_lightning.functional import Question
from masa_lightning.models import tiny
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.sampling import structured
from masa_lightning.settings import Algorithm

KINDS = ["transformers", "vllm"]
ON = MetaSettings(structured_outputs=True)


def make_sampler(kind, engine_device):
    if kind == "transformers":
        return TransformersSampler()
    if engine_device != "cpu":
        pytest.skip("needs a vLLM that is built for CPU")
    from masa_lightning.sampling.vllm import VLLMSampler

    return VLLMSampler(kv_cache_gib=0.05, max_num_seqs=64)


def make(loop, sampler=None, meta=ON, **settings):
    defaults = {
        "sampler": sampler or TransformersSampler(),
        "max_completion_length": 80,
        "max_meta_length": 60,
        "quantities": [PassRate(3)],
        "meta": meta,
        "max_logp_difference": None,
        "evaluation": Evaluation(num_generations=2, num_meta_generations=3),
    }
    return loop.module(**(defaults | settings))


def parsed(groups):
    return [not r.prediction.failures and r.completion.finish_reason == "stop" for g in groups for r in g.metas]


@pytest.mark.parametrize("kind", KINDS)
def test_every_prediction_is_read_from_the_first_step(loop, kind, request):
    device = request.getfixturevalue("engine_device") if kind == "vllm" else "cpu"
    algorithm = Algorithm(kl_coef=0.1, entropy_coef=0.01, top_entropy_quantile=0.5)
    settings = {
        "model": str(tiny.PATH),
        "prompts": tiny.PROMPTS,
        "quantities": None,
        "sampling": SamplingSettings(temperature=2.0),  # at which the embedded model seldom writes an object
        "max_prompt_length": 64,
        "num_meta_generations": 4,
        "evaluation": Evaluation(num_generations=2, num_meta_generations=3, temperature=2.0),
    }
    more = {"algorithm": algorithm, "learning_rate": 1e-4}
    problems = loop.Problems(4, validation=2)
    recorder = loop.fit(make(loop, make_sampler(kind, device), **settings, **more), problems)
    assert len(recorder.metrics) == 2
    for groups, metrics in zip(recorder.groups, recorder.metrics, strict=True):
        assert all(parsed(groups))
        assert metrics["meta/parse_rate"] == 1
        assert metrics["sampling/sampling_logp_difference/max"] < 1e-4
        assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=1e-4)
    assert recorder.metrics[0]["kl"] == pytest.approx(0, abs=1e-6)  # that of the constrained distributions
    (validation,) = [m for _, m in recorder.logged if "val/meta/parse_rate" in m]
    assert validation["val/meta/parse_rate"] == 1
    free = loop.fit(make(loop, meta=MetaSettings(), **settings), loop.Problems(4))
    assert free.metrics[0]["meta/parse_rate"] < 0.3


def test_without_it_nothing_is_asked(loop):
    spy = loop.Spy()
    loop.fit(make(loop, spy, MetaSettings()), loop.Problems(2))
    assert all(request.structure is None for requests, _ in spy.calls for request in requests)
    spy = loop.Spy()
    module = make(loop, spy)
    loop.fit(module, loop.Problems(2))
    asked = [request for requests, _ in spy.calls for request in requests]
    assert {r.structure is None for r in asked if r.max_tokens == 60} == {False}
    assert {r.structure is None for r in asked if r.max_tokens != 60} == {True}
    assert module.session.structured["meta"].structure.ending == (1,)


def test_predictions_alone(loop):
    """Twice: the second time nothing is compiled again."""
    module = make(loop)
    problems = [loop.problem("1+1"), loop.problem("2+2")]
    loader = torch.utils.data.DataLoader(problems, batch_size=2, collate_fn=list)
    (batch,) = loop.trainer().predict(module, loader)
    assert len(parsed(batch["groups"])) == 6
    assert all(parsed(batch["groups"]))
    compiled = module.session.structured["meta"]
    (again,) = loop.trainer().predict(module, loader)
    assert [r.text for g in again["groups"] for r in g.metas] == [r.text for g in batch["groups"] for r in g.metas]
    assert module.session.structured["meta"] is compiled


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_equals_an_undisturbed_one(loop, tmp_path):
    def run(steps, folder, checkpoint=None):
        module, recorder = make(loop, num_meta_generations=3), loop.Recorder()
        saver = ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = loop.trainer(
            recorder, saver, max_steps=steps, max_epochs=-1, enable_checkpointing=True, limit_val_batches=0
        )
        trainer.fit(module, loop.Problems(4), ckpt_path=checkpoint)
        return loop.weights(module), recorder

    whole, first = run(3, tmp_path / "whole")
    run(1, tmp_path / "parts")
    resumed, second = run(3, tmp_path / "parts", tmp_path / "parts" / "step=1.ckpt")
    assert loop.changed(whole, resumed) == set()
    texts = [[r.text for g in groups for r in g.metas] for groups in (first.groups[-1], second.groups[-1])]
    assert texts[0] == texts[1]


def test_the_command(tmp_path, monkeypatch):
    """As a user has it: two training steps of the embedded model."""
    monkeypatch.setattr(sys, "argv", ["masa"])
    main(
        "fit --config tiny --model.meta.structured_outputs true --trainer.max_steps 2 --trainer.limit_val_batches 0 "
        "--data.batch_size 4 --data.train_size 8 --model.optimization.num_mini_batches 1 "
        f"--trainer.logger.init_args.save_dir {tmp_path}".split()
    )
    assert [*tmp_path.rglob("last.ckpt")]


# -- what cannot be ----------------------------------------------------------------------------------------------------


class Steps(Quantity):
    key = "steps"

    def ask(self, budget):
        return Question("steps", "how many steps", "<integer>")

    def read(self, value):
        return value

    def reward(self, predicted, group):
        return 0.0

    def truth(self, predicted, group):
        return 1


def test_a_quantity_without_a_schema_is_refused(loop):
    with pytest.raises(ValueError, match=r"the quantity 'steps' \(Steps\) has the schema None, .* give Steps a method"):
        make(loop, quantities=[PassRate(3), Steps()], prompts=PromptTemplates(meta="{problem}: {json}"))


def test_a_sampler_that_does_not_heed_it_is_refused(loop):
    with pytest.raises(
        ValueError, match=r"the sampler a ScriptedSampler, which does not say that it heeds .*: use VLLM"
    ):
        make(loop, loop.Scripted(lambda *_: ""))


def test_xgrammar_is_asked_for(loop, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "xgrammar" else find(name, *_))
    with pytest.raises(
        ImportError, match=r"needs the package 'xgrammar', which is not installed; .* pip install xgrammar"
    ):
        make(loop)
    make(loop, meta=MetaSettings())


def test_an_xgrammar_with_dead_ends_is_refused(loop, monkeypatch):
    monkeypatch.setattr(structured, "version", lambda name: "0.2.7")
    with pytest.raises(ImportError, match=r"needs xgrammar 0\.2\.8, which vLLM 0\.32 brings, and 0\.2\.7 is installed"):
        make(loop)
    make(loop, meta=MetaSettings())


def test_it_is_true_or_false():
    with pytest.raises(ValueError, match=r"structured_outputs is 'json'; expected False or True"):
        MetaSettings(structured_outputs="json")


def test_predictions_that_nobody_draws_are_refused(loop):
    with pytest.raises(ValueError, match=r"evaluation\.num_meta_generations are 0, so that nothing is drawn under it"):
        make(loop, num_meta_generations=0, evaluation=Evaluation(num_meta_generations=0))
    make(loop, num_meta_generations=0, evaluation=Evaluation(num_meta_generations=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_meta_length": 44}, r"max_meta_length is 44 with meta\.structured_outputs; expected at least 45 tokens"),
        ({"sampling": SamplingSettings(stop=("#",))}, r"completions are ended by .*'#'; expected tokens alone"),
    ],
)
def test_what_leaves_no_room_is_refused_before_anything_is_drawn(loop, settings, message):
    spy = loop.Spy()
    with pytest.raises(ValueError, match=message):
        loop.fit(make(loop, spy, **settings), loop.Problems(2))
    assert not spy.calls


def test_a_copy_of_a_module_that_drew_them(loop):
    module = make(loop)
    loop.fit(module, loop.Problems(2))
    twin = copy.deepcopy(module)
    assert twin.session.structured == {}
    assert isinstance(twin, MASALightningModule)
    assert torch.equal(next(twin.parameters()), next(module.parameters()))
