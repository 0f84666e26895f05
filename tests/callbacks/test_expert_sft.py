"""Behaviour cloning in phases: on a module of a few lines, and on the real loop."""

import copy
import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from masa_lightning import ExpertSFT
from masa_lightning.functional.parsing import parse_meta_prediction
from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.types import Decision

pytestmark = [  # of Lightning, about the module of a few lines
    pytest.mark.filterwarnings("ignore:Found .* in eval mode"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
EXAMPLES = [([5, 6, 7], [8, 9, 1]), ([10], [11, 12, 13, 14, 1]), ([15, 16], [17, 1]), ([18] * 9, [19] * 7)]


class Foreign(LightningModule):
    """Somebody else's module: automatic optimisation of one bias, and examples to clone."""

    def __init__(self, checkpoint, examples=EXAMPLES):
        super().__init__()
        self.policy = Policy(loading.load_model(str(checkpoint), "float32"))
        self.other = torch.nn.Parameter(torch.zeros(1))
        self.examples = examples

    def training_step(self, batch, batch_idx):
        return (self.other - 1).square().sum()

    def expert_examples(self, outputs):
        assert outputs["loss"] is not None
        return self.examples

    def configure_optimizers(self):
        return torch.optim.SGD([self.other], lr=0.1)


@pytest.fixture
def fit(loop):
    def fit(callback, steps=1, examples=EXAMPLES, saver=None, checkpoint=None):
        module, recorder = Foreign(loop.checkpoint, examples), loop.Recorder()
        recorder.on_train_batch_end = lambda *_: None
        extra = {"enable_checkpointing": True} if saver else {}
        callbacks = [c for c in (callback, saver) if c]
        trainer = loop.trainer(recorder, *callbacks, max_epochs=-1, max_steps=steps, **extra)
        trainer.fit(module, DataLoader(range(64)), ckpt_path=checkpoint)
        return module, [metrics for _, metrics in recorder.logged], trainer

    return fit


def materialised(model, examples):
    """Mean negative log-likelihood of the target tokens, row by row, from full logits."""
    total = count = 0
    for prompt, target in examples:
        ids = torch.tensor([prompt + target])
        logp = model(ids).logits[0].log_softmax(-1)
        total = total - sum(logp[len(prompt) - 1 + i, token] for i, token in enumerate(target))
        count += len(target)
    return total / count


# -- the step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 12, 10**6])
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_the_step_is_that_of_an_independent_adamw(loop, fit, budget, clip):
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1}
    callback = ExpertSFT(batch_size=4, max_grad_norm=clip, max_tokens_per_micro_batch=budget, **settings)
    module, logged, trainer = fit(callback, steps=3)
    model = loading.load_model(str(loop.checkpoint), "float32")
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    others = [p for name, p in model.named_parameters() if "norm" not in name]
    groups = [{"params": others, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for metrics in logged:
        optimizer.zero_grad()
        loss = materialised(model, EXAMPLES)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf"))
        optimizer.step()
        assert metrics["sft/loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert metrics["sft/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    for (name, expected), got in zip(model.named_parameters(), module.policy.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0, msg=name)
    assert trainer.global_step == 3
    assert module.other.item() == pytest.approx(1 - 0.8**3)  # the module's own training went on
    assert logged[-1]["sft/loss"] < logged[0]["sft/loss"]


def test_a_gradient_that_is_not_finite_is_skipped(loop, fit):
    class Broken(ExpertSFT):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            next(pl_module.policy.parameters()).register_hook(lambda grad: grad * float("nan"))

    with pytest.warns(UserWarning, match="gradient norm of ExpertSFT is nan: this optimiser step is skipped"):
        module, logged, _ = fit(Broken(batch_size=4, learning_rate=1.0))
    assert not loop.changed(loop.weights(), loop.weights(module))
    assert logged[0]["sft/grad_norm"] != logged[0]["sft/grad_norm"]


# -- when --------------------------------------------------------------------------------------------------------------


def used(logged):
    return [int(m["sft/examples"]) for m in logged], [int(m["sft/buffer"]) for m in logged]


def test_a_phase_as_soon_as_there_is_a_batch(fit):
    _, logged, _ = fit(ExpertSFT(batch_size=3), steps=3)
    assert used(logged) == ([3, 3, 6], [1, 2, 0])
    assert [m["tokens/sft"] for m in logged] == [3 + 5 + 2, 7 + 3 + 5, 2 + 7 + 17]
    assert logged[2]["tokens_total/sft"] == 3 * 17
    _, logged, _ = fit(ExpertSFT(batch_size=100), steps=3)
    assert used(logged) == ([0, 0, 0], [4, 8, 12])
    assert all(math.isnan(m["sft/loss"]) for m in logged)


def test_progress_is_told_to_the_end(loop):
    told = []

    class Listener(Callback):
        def on_phase_progress(self, phase, done, total):
            told.append((phase, done, total))

    trainer = loop.trainer(Listener(), ExpertSFT(batch_size=2), max_epochs=-1, max_steps=1)
    trainer.fit(Foreign(loop.checkpoint), DataLoader(range(64)))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (("sft", 0, 4), ("sft", 4, 4))


def test_a_phase_every_n_steps_uses_everything(fit):
    _, logged, _ = fit(ExpertSFT(batch_size=3, every_n_steps=2), steps=5)
    assert used(logged) == ([0, 8, 0, 8, 0], [4, 0, 4, 0, 4])
    _, logged, _ = fit(ExpertSFT(every_n_steps=1), steps=2, examples=[])
    assert used(logged) == ([0, 0], [0, 0])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_resuming_is_exact(loop, fit, tmp_path):
    def callback():
        return ExpertSFT(batch_size=3, learning_rate=1e-3, weight_decay=0.1)

    whole, _, _ = fit(callback(), steps=6)
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    fit(callback(), steps=5, saver=saver)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["callbacks"]
    state = next(state for name, state in saved.items() if "ExpertSFT" in name)
    assert len(state["buffer"]) == 4 * 4 % 3
    second = callback()
    resumed, logged, _ = fit(second, steps=6, checkpoint=tmp_path / "step=4.ckpt")
    assert len(logged) == 2
    assert not loop.changed(loop.weights(whole), loop.weights(resumed))
    assert second.tokens == 6 * 17
    third = callback()
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    assert {**third.state_dict(), "optimizer": 0} == {**second.state_dict(), "optimizer": 0}


# -- on the loop -------------------------------------------------------------------------------------------------------


def script(kind, text, index, call):
    if kind == "solution":
        return ("sum \\boxed{2}", "\\boxed{0}", "sums \\boxed{2}")[index] if text == "1+1" else "\\boxed{0}"
    return f'<meta>{index}</meta>{{"math_notion":["{("sum", "lemma")[index]}"],"pass_rate":0,"solution_length":99}}'


def test_experts_of_the_loop(loop):
    callback = ExpertSFT(batch_size=2, learning_rate=1e-3)
    module = loop.scripted(script)
    problems = [loop.problem("1+1"), loop.problem("2+2")]
    recorder = loop.fit(module, loop.Problems(problems, batch_size=2), callback, max_epochs=3)
    assert [m["sft/examples"] for m in recorder.metrics] == [0, 2, 0]
    prompt, target, weight = callback.buffer[0]
    assert weight == 1
    group = {g.problem.id: g for g in recorder.groups[-1]}["1+1"]
    assert prompt == group.metas[0].prompt_ids
    text = module.tokenizer.decode(target, skip_special_tokens=True)
    assert text.startswith("<meta>0</meta>")
    prediction = parse_meta_prediction(text)
    assert (prediction.pass_rate, prediction.notions) == (round(8 * 2 / 3), ("sum",))
    assert prediction.solution_length == round((group.lengths[0] + group.lengths[2]) / 2)
    assert target[-1] == module.tokenizer.eos_token_id
    assert target.count(module.tokenizer.eos_token_id) == 1
    group.decisions["hinting"] = Decision(wanted=True, acted=True)
    group.hint = ("sum",)
    assert module.expert_examples({"groups": [group]}) == []


def test_an_example_counts_for_its_weight(fit):
    """Twice the weight is the gradient of the example twice; one without a weight has 1, as in older checkpoints."""
    settings = {"learning_rate": 1e-3, "max_grad_norm": None}
    double = fit(ExpertSFT(batch_size=2, **settings), examples=[(*EXAMPLES[0], 2.0), (*EXAMPLES[1], 0.0)])
    plain = fit(ExpertSFT(batch_size=2, **settings), examples=EXAMPLES[:2])
    tokens = [len(target) for _, target in EXAMPLES[:2]]
    alone = fit(ExpertSFT(batch_size=1, **settings), examples=EXAMPLES[:1])
    assert double[1][0]["sft/loss"] == pytest.approx(2 * alone[1][0]["sft/loss"] * tokens[0] / sum(tokens), rel=1e-5)
    assert double[1][0]["sft/loss"] != pytest.approx(plain[1][0]["sft/loss"], rel=1e-3)
    callback = ExpertSFT()
    callback.load_state_dict(callback.state_dict() | {"buffer": [[[1], [2]]]})
    assert callback.buffer == [([1], [2], 1.0)]


def test_the_sampler_gets_the_cloned_weights(loop):
    """With a learning rate of 0 in the loop, only cloning changes what the next step draws."""

    def logprobs(*callbacks):
        module = loop.module(sampler=loop.Spy(), learning_rate=0.0)
        module.expert_examples = lambda outputs: EXAMPLES
        recorder = loop.fit(module, loop.Problems(4), *callbacks)
        return [[r.completion.logprobs for g in groups for r in g.rollouts] for groups in recorder.groups]

    plain, cloned = logprobs(), logprobs(ExpertSFT(batch_size=4, learning_rate=1e-2))
    assert cloned[0] == plain[0]
    assert cloned[1] != plain[1]


# -- settings ----------------------------------------------------------------------------------------------------------


def test_it_needs_examples(loop):
    with pytest.raises(TypeError, match="GRPOLightningModule lacks `policy` or `expert_examples`"):
        loop.fit(loop.module(GRPOLightningModule), loop.Problems(2), ExpertSFT())


def test_it_needs_predictions(loop):
    """It went on and cloned nothing."""
    with pytest.raises(ValueError, match="clones predictions, and num_meta_generations is 0"):
        loop.fit(loop.module(num_meta_generations=0), loop.Problems(4, 0), ExpertSFT(batch_size=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected >= 1"),
        ({"every_n_steps": 0}, "every_n_steps is 0"),
        ({"max_tokens_per_micro_batch": 0}, "max_tokens_per_micro_batch is 0"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; expected > 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ExpertSFT(**settings)


def test_a_plain_model_is_refused_with_what_wraps_it(loop):
    module = Foreign(loop.checkpoint)
    module.policy = module.policy.model
    with pytest.raises(TypeError, match=r"is a Qwen3ForCausalLM, .* expected a masa_lightning\.models\.policy\.Policy"):
        loop.trainer(ExpertSFT()).fit(module, DataLoader(range(2)))
