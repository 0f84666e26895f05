"""A run whose sampler does not draw from its policy stops, wherever the two are compared, and no other run does."""

import copy
import functools
import gc
import math
import sys
from types import SimpleNamespace

import pytest
import torch
import two_processes

from masa_lightning import cli
from masa_lightning.distributed import Processes
from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.parity import ParityGuard, claim, probe_requests
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion

FOREIGN = "the sampler does not draw from the policy"


def break_engine(sampler, factor=1.5):
    """Changes one weight of a real engine, of which the policy's, should they be shared, become a copy."""

    def scale(model):
        model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.data * factor, requires_grad=False)

    sampler.llm.apply_model(scale)


@pytest.fixture
def vllm_sampler():
    pytest.importorskip("vllm")
    from masa_lightning.sampling.vllm import VLLMSampler

    class Breaking(VLLMSampler):
        """The real one, whose engine loses a weight after a number of hand-overs; the first is that of `setup`."""

        def __init__(self, after=None, **settings):
            super().__init__(**{"kv_cache_gib": 0.02, "max_num_seqs": 64} | settings)
            self.after, self.hand_overs = after, 0

        def setup(self, *args, **kwargs):
            super().setup(*args, **kwargs)
            self._handed_over()

        def sync_weights(self):
            super().sync_weights()
            self._handed_over()

        def _handed_over(self):
            self.hand_overs += 1
            if self.hand_overs == self.after:
                break_engine(self)

    return Breaking


class Spread:
    """A reward that differs from rollout to rollout."""

    def __call__(self, problem, completions):
        return [len(set(text)) / 8 for text in completions]


def guarded(loop, sampler, kind=GRPOLightningModule, **settings):
    """A module that compares, of the embedded model where the engine is vLLM's: it cannot serve heads of 16."""
    if not isinstance(sampler, (TransformersSampler, Foreign)):
        settings = {"model": "tiny", "max_prompt_length": 64} | settings
    return loop.module(kind, sampler=sampler, grader=loop.Grades(), **{"max_logp_difference": None} | settings)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("after", "when", "steps"),
    [(1, "at the start of stage 'train'", 0), (3, "after the first update", 1), (4, "in training step 3", 2)],
)
def test_a_broken_weight_of_the_engine_stops_the_training(loop, vllm_sampler, share, after, when, steps):
    module = guarded(loop, vllm_sampler(after, share_weights=share))
    recorder = loop.Recorder()
    with pytest.raises(RuntimeError, match=f"{FOREIGN} {when}: over .* expected a mean of at most 0.001, 0.1 for one"):
        loop.trainer(recorder, limit_val_batches=0).fit(module, loop.Problems(8))
    assert module.sampler.shares_weights == share
    assert module.sampler.hand_overs == after
    assert len(recorder.groups) == module.run_state.rollout_steps == steps


def test_no_weight_is_changed_in_the_step_that_is_stopped(loop, vllm_sampler):
    module = guarded(loop, vllm_sampler(4))
    recorder = loop.Recorder()
    recorder.on_train_batch_end = lambda *_: weights.append(loop.weights(module))
    weights = []
    with pytest.raises(RuntimeError, match=FOREIGN):
        loop.trainer(recorder, limit_val_batches=0).fit(module, loop.Problems(8))
    assert len(weights) == 2
    assert not loop.changed(weights[-1], loop.weights(module))


def test_weights_that_are_not_handed_over_stop_the_training(loop, vllm_sampler, monkeypatch):
    module = guarded(loop, vllm_sampler(share_weights=False), reward_functions=[Spread()])
    monkeypatch.setattr(module.sampler, "sync_weights", lambda: None)
    with pytest.raises(RuntimeError, match=f"{FOREIGN} after the first update"):
        loop.fit(module, loop.Problems(8))


def test_a_broken_weight_of_the_engine_stops_a_validation(loop, vllm_sampler):
    module = guarded(loop, vllm_sampler(1))
    with pytest.raises(RuntimeError, match=f"{FOREIGN} at the start of stage 'validate'"):
        loop.trainer().validate(module, loop.Problems(2, 2), verbose=False)


def test_each_evaluation_compares_anew(loop, vllm_sampler):
    """After truncated training steps, which are not compared, and with a sampler that has long been ready."""
    module = guarded(loop, vllm_sampler(6), sampling=SamplingSettings(top_k=50))
    recorder = loop.Recorder()  # hand-overs: of `setup`, two steps, a validation, a step, and the broken one
    with pytest.raises(RuntimeError, match=f"{FOREIGN} at the start of stage 'validate'"):
        loop.trainer(recorder, val_check_interval=2).fit(module, loop.Problems(8, 2))
    assert module.run_state.rollout_steps == 4
    assert any("val/pass@1" in metrics for _, metrics in recorder.logged)


@pytest.mark.parametrize("command", ["test", "predict"])
def test_the_commands_stop(vllm_sampler, monkeypatch, tmp_path, command):
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.chdir(tmp_path)
    sampler = vllm_sampler.__mro__[1]
    setup = sampler.setup

    @functools.wraps(setup)
    def broken_setup(self, *args, **kwargs):
        setup(self, *args, **kwargs)
        break_engine(self)

    monkeypatch.setattr(sampler, "setup", broken_setup)
    (tmp_path / "rows.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer": "3"}\n')
    arguments = [command, "--model", "masa_lightning.MASALightningModule", "--model.model", "tiny"]
    arguments += ["--model.sampler", "masa_lightning.VLLMSampler", "--model.sampler.kv_cache_gib", "0.02"]
    arguments += ["--model.max_prompt_length", "64", "--model.max_completion_length", "8"]
    arguments += ["--model.prompts", '{"solution": "{problem}", "meta": "{problem}"}']
    arguments += [
        "--data",
        "masa_lightning.MathDataModule",
        "--data.train",
        "rows.jsonl",
        "--data.validation_size",
        "1",
    ]
    arguments += ["--data.batch_size", "1", "--data.val_batch_size", "1", "--data.test", "rows.jsonl"]
    arguments += ["--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.num_sanity_val_steps", "0"]
    with pytest.raises(RuntimeError, match=f"{FOREIGN} at the start of stage '{command}'"):
        cli.main(arguments)


@pytest.mark.parametrize(
    ("settings", "engine", "trainer"),
    [
        ({}, {}, {}),
        ({"dtype": "bfloat16"}, {}, {}),
        ({}, {"dtype": "bfloat16"}, {}),
        ({}, {}, {"precision": "bf16-mixed"}),
        ({"dtype": "bfloat16"}, {}, {"precision": "bf16-true"}),
    ],
)
def test_rounding_passes(loop, vllm_sampler, settings, engine, trainer):
    module = guarded(loop, vllm_sampler(**engine), **settings)
    recorder = loop.fit(module, loop.Problems(6), **trainer)
    assert len(recorder.metrics) == 3
    assert module.session.guard.limit == (0.15 if settings or engine or trainer else 0.001)


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_the_training_is_the_same_with_and_without(loop, vllm_sampler, kind):
    def train(limit):
        torch.manual_seed(3)
        sampler = vllm_sampler() if kind == "vllm" else TransformersSampler()
        module = guarded(loop, sampler, max_logp_difference=limit, reward_functions=[Spread()])
        recorder = loop.fit(module, loop.Problems(6, 2), val_check_interval=1)
        tokens = [[list(r.completion.token_ids) for g in groups for r in g.rollouts] for groups in recorder.groups]
        return tokens, loop.weights(module), torch.get_rng_state()

    tokens, weights, state = train(None)
    others, other_weights, other_state = train(math.inf)
    assert tokens == others
    assert not loop.changed(weights, other_weights)
    assert torch.equal(state, other_state)


# -- the comparison by itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def make(tiny_checkpoint):
    """A guard of a small policy; of a real TransformersSampler unless asked otherwise."""

    def make(sampler=None, limit=None, precision="32-true", dtype="float32", engine=None):
        model = loading.load_model(str(tiny_checkpoint), dtype)
        if sampler is None:
            sampler = TransformersSampler()
            sampler.setup(model, "unused", max_model_length=64, stop_token_ids=[1])
        if engine is not None:
            sampler.dtype = engine
        return ParityGuard(sampler, Policy(model), Processes(0, 1), limit=limit, model="a model", precision=precision)

    return make


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, 0.001),
        ({"engine": "float32"}, 0.001),
        ({"engine": "float"}, 0.001),
        ({"engine": "auto"}, 0.15),
        ({"engine": "bfloat16"}, 0.15),
        ({"engine": torch.float16}, 0.15),
        ({"dtype": "bfloat16"}, 0.15),
        ({"dtype": "bfloat16", "engine": "float32"}, 0.15),
        ({"precision": "bf16-mixed"}, 0.15),
        ({"precision": "16-true"}, 0.15),
        ({"limit": 0.02}, 0.02),
        ({"limit": 0.02, "precision": "bf16-mixed"}, 0.02),
    ],
)
def test_the_limit_goes_by_the_precision(make, settings, limit):
    assert make(**settings).limit == limit


@pytest.mark.parametrize("set_precision", ["torch.set_float32_matmul_precision('high')", "one.fp32_precision = 'tf32'"])
def test_float32_that_is_multiplied_in_less_is_rounded(make, set_precision):
    one = torch.backends.cuda.matmul
    before = one.fp32_precision
    try:
        exec(set_precision, {"torch": torch, "one": one})
        assert make().limit == 0.15
    finally:
        one.fp32_precision = before
        torch.set_float32_matmul_precision("highest")
    assert make().limit == 0.001


@pytest.mark.parametrize(
    ("settings", "differences", "stops"),
    [
        ({}, [0.00099] * 100, False),
        ({}, [0.00101] * 100, True),
        ({}, [0.0] * 999 + [0.09], False),
        ({}, [0.0] * 999 + [0.11], True),  # a broken row of the embedding, say
        ({}, [math.nan], True),
        ({}, [math.inf], True),
        ({}, [], False),  # of a step in which there is nothing to train on
        ({"precision": "bf16-mixed"}, [0.14] * 100, False),
        ({"precision": "bf16-mixed"}, [0.16] * 100, True),
        ({"precision": "bf16-mixed"}, [0.0] * 99 + [5.0], False),
        ({"precision": "bf16-mixed"}, [0.28], False),  # a single token tells little, unless it is far away
        ({"precision": "bf16-mixed"}, [3.8], True),
        ({"precision": "bf16-mixed"}, [0.0, math.nan], True),
        ({"limit": 0.5}, [0.6] * 20, True),
        ({"limit": math.inf}, [math.nan], False),
    ],
)
def test_what_is_too_much(make, settings, differences, stops):
    guard = make(**settings)
    if not stops:
        guard.check(torch.tensor(differences), "now")
        return
    with pytest.raises(RuntimeError, match=f"{FOREIGN} now"):
        guard.check(torch.tensor(differences), "now")


def test_a_low_temperature_enlarges_what_is_rounded(make):
    guard = make(precision="bf16-mixed")
    guard.check(torch.full((50,), 0.29), "now", 0.5)
    with pytest.raises(RuntimeError, match=FOREIGN):
        guard.check(torch.full((50,), 0.31), "now", 0.5)
    with pytest.raises(RuntimeError, match=FOREIGN):
        guard.check(torch.full((50,), 0.16), "now", 2.0)


def test_the_error_says_what_was_found_and_what_to_do(make):
    with pytest.raises(RuntimeError) as error:
        make(engine="bfloat16").check(torch.tensor([0.5] * 30 + [2.0, 3.0]), "in training step 7")
    for part in (
        "in training step 7: over 32 tokens",
        "differ by 0.625 nats a token in the mean and by 3 at most; expected a mean of at most 0.15. Found with",
        "model 'a model' (Qwen3ForCausalLM), TransformersSampler in bfloat16, policy in float32 with",
        "precision 32-true",
        "Likely causes: weights that did not reach the engine",
        "Use TransformersSampler",
        "set max_logp_difference",
    ):
        assert part in str(error.value)
    assert "finite" not in str(error.value)
    with pytest.raises(RuntimeError, match="weights that are not finite"):
        make().check(torch.tensor([math.nan]), "now")


@pytest.mark.parametrize("length", [2, 3, 9, 24, 2000])
def test_any_length_and_tokenizer(make, tiny_checkpoint, length):
    tokenizer = loading.load_tokenizer(str(tiny_checkpoint))
    requests = probe_requests(tokenizer, length)
    assert all(r.prompt_ids and r.max_tokens for r in requests)
    assert max(len(r.prompt_ids) + r.max_tokens for r in requests) == min(length, 20)
    make().probe(tokenizer, min(length, 64), "now")
    with pytest.raises(RuntimeError, match=FOREIGN):
        make(Foreign()).probe(tokenizer, length, "now")


class Foreign:
    """Draws something, with whatever log-probabilities."""

    def __init__(self, tokens=(5, 6), logprobs=(-1.0, -2.0)):
        self.tokens, self.logprobs = tokens, logprobs

    def setup(self, policy, model_path, *, max_model_length, stop_token_ids): ...

    def generate(self, requests, settings, on_progress=None):
        return [
            Completion(token_ids=list(self.tokens), logprobs=list(self.logprobs), finish_reason="stop")
            for _ in requests
        ]

    def sync_weights(self): ...

    def sleep(self): ...

    def wake(self): ...


def test_a_stop_token_at_once_is_compared(make, tiny_checkpoint):
    tokenizer = loading.load_tokenizer(str(tiny_checkpoint))
    with pytest.raises(RuntimeError, match=r"over 4 tokens"):
        make(Foreign([1], [-50.0])).probe(tokenizer, 64, "now")


@pytest.mark.parametrize(("tokens", "logprobs"), [([], []), ([5, 6], []), ([5, 6], [-1.0])])
def test_nothing_to_compare_is_no_success(make, tiny_checkpoint, tokens, logprobs):
    tokenizer = loading.load_tokenizer(str(tiny_checkpoint))
    with pytest.raises(RuntimeError, match="expected at least a token each, and as many log-probabilities"):
        make(Foreign(tokens, logprobs)).probe(tokenizer, 64, "now")


@pytest.mark.parametrize("limit", [0, -1, math.nan, -math.inf, True, "0.1"])
def test_limits_out_of_range(loop, limit):
    with pytest.raises(ValueError, match=r"max_logp_difference is .*; expected .*> 0 nats a token"):
        loop.module(max_logp_difference=limit)


# -- several processes -----------------------------------------------------------------------------------------------------


class OffInTheSecond(TransformersSampler):
    """Reports log-probabilities that are off, in the second process and from its second call on: in training."""

    def generate(self, requests, settings, on_progress=None):
        completions = super().generate(requests, settings, on_progress)
        self.calls = getattr(self, "calls", 0) + 1
        if torch.distributed.get_rank() == 1 and self.calls > 1:
            for completion in completions:
                completion.logprobs = [value - 1 for value in completion.logprobs]
        return completions


def _fit(rank, checkpoint):
    from training_loop import Loop

    loop = Loop(checkpoint)
    module = guarded(loop, OffInTheSecond(), reward_functions=[Spread()])
    trainer = loop.trainer(strategy=two_processes.strategy("ddp"), devices=2, limit_val_batches=0)
    with pytest.raises(RuntimeError, match=f"{FOREIGN} in training step 1: .* by 1 at most"):
        trainer.fit(module, loop.Problems(4))


def test_a_failure_in_one_process_stops_all_with_the_same_words(tiny_checkpoint):
    two_processes.run(_fit, tiny_checkpoint)


# -- one sampler, one module -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TransformersSampler, Foreign])
def test_one_sampler_in_two_modules_is_refused(loop, kind):
    sampler = kind()
    limit = None if kind is TransformersSampler else math.inf
    first, second = (guarded(loop, sampler, max_logp_difference=limit) for _ in range(2))
    loop.fit(first, loop.Problems(2))
    with pytest.raises(
        RuntimeError, match=r"draws for another GRPO.*expected a sampler for each module: make a new one"
    ):
        loop.fit(second, loop.Problems(2))
    loop.fit(first, loop.Problems(4))  # the first one's still
    loop.trainer().test(first, loop.Problems(2, 2), verbose=False)
    loop.fit(guarded(loop, copy.copy(sampler), max_logp_difference=limit), loop.Problems(2))
    loop.fit(guarded(loop, copy.deepcopy(sampler), max_logp_difference=limit), loop.Problems(2))


def test_a_module_that_is_gone_has_no_sampler():
    class Slots:
        __slots__ = ()

    sampler, module, other = Foreign(), SimpleNamespace(), SimpleNamespace()
    module = type("Module", (), {})()
    other = type("Module", (), {})()
    claim(sampler, module)
    claim(sampler, module)
    with pytest.raises(RuntimeError, match="draws for another Module"):
        claim(sampler, other)
    module.itself = module  # as modules and trainers are
    del module
    gc.collect()
    claim(sampler, other)
    claim(Slots(), other)
    del sampler  # whatever gets its place in memory is another one
    for _ in range(50):
        claim(Foreign(), type("Module", (), {})())


def test_a_transformers_sampler_has_one_policy(tiny_checkpoint):
    first, second = (loading.load_model(str(tiny_checkpoint), "float32") for _ in range(2))
    sampler = TransformersSampler()
    limits = {"max_model_length": 20, "stop_token_ids": [1]}
    sampler.setup(first, "unused", **limits)
    sampler.setup(first, "unused", **limits)
    with pytest.raises(RuntimeError, match=r"samples from another policy already.*make a new TransformersSampler"):
        sampler.setup(second, "unused", **limits)
    copy.deepcopy(sampler).setup(second, "unused", **limits)
