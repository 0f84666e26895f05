"""The engine in the trainer's process: weights, caches, failures. See test_parity for what it draws."""

import gc
import logging
import math
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import Qwen3ForCausalLM

from masa_lightning.sampling.vllm import VLLMSampler
from masa_lightning.sampling.vllm.weights import HandOver, match
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest

SAMPLE = SamplingSettings()


@pytest.fixture(scope="module")
def vllm():
    return pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def engine(vllm, tools):
    """A policy and its sampler, for tests that leave both as they were."""
    policy = tools.policy()
    return policy, tools.vllm(policy)


def _engine_weights(sampler):
    return sampler.llm.apply_model(lambda m: {name: w.detach().clone() for name, w in m.named_parameters()})[0]


def _pointers(policy):
    return [weight.data_ptr() for weight in policy.parameters()]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("share", [None, False], ids=["shared", "streamed"])
def test_weights_follow_the_optimizer(vllm, tools, tied, share):
    policy, requests = tools.policy(tied), tools.requests()
    sampler = tools.vllm(policy, tied, share_weights=share)
    assert sampler.shares_weights is (share is None and tools.device == "cpu")
    before = sampler.generate(requests, SAMPLE)
    assert tools.distance(policy, requests, before) < 1e-4
    for _ in range(2):
        tools.change(policy)
        assert tools.distance(policy, requests, before) > 0.1
        sampler.sync_weights()
        assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


def test_sharing_needs_no_second_copy(engine, tools):
    tools.needs_cpu()
    policy, sampler = engine
    storages = {
        pointer
        for pointers in sampler.llm.apply_model(lambda m: [p.untyped_storage().data_ptr() for p in m.parameters()])
        for pointer in pointers
    }
    assert {weight.untyped_storage().data_ptr() for weight in policy.parameters()} <= storages


@pytest.mark.parametrize("share", [None, False], ids=["shared", "streamed"])
def test_cached_prefixes_of_old_weights_would_be_stale(vllm, tools, share):
    policy = tools.policy()
    sampler = tools.vllm(policy, share_weights=share)
    requests = [SamplingRequest(prompt_ids=list(range(10, 80)), max_tokens=8, seed=seed) for seed in range(4)]
    sampler.generate(requests, SAMPLE)
    tools.change(policy)
    if share is False:
        HandOver(sampler.llm, policy)
    stale = sampler.generate(requests, SAMPLE)
    assert tools.distance(policy, requests, stale) > 1e-2
    sampler.sync_weights()
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


def test_sharing_survives_loading_in_place_and_is_mended_after_replacement(vllm, tools):
    tools.needs_cpu()
    policy, other = tools.policy(), tools.policy()
    tools.change(other)
    sampler, requests = tools.vllm(policy), tools.requests()
    pointers = _pointers(policy)
    policy.load_state_dict(other.state_dict())
    assert _pointers(policy) == pointers
    sampler.sync_weights()
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4
    tools.change(other)
    for weight, source in zip(policy.parameters(), other.parameters(), strict=True):
        weight.data = source.data.clone()
    policy.model.norm.weight = torch.nn.Parameter(other.model.norm.weight.detach() * 2)
    sampler.sync_weights()
    assert _pointers(policy) == pointers
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4
    assert policy.model.norm.weight.equal(other.model.norm.weight * 2)


def test_sharing_is_given_up_where_it_cannot_be_mended(vllm, tools, caplog):
    tools.needs_cpu()
    policy, requests = tools.policy(), tools.requests()
    sampler = tools.vllm(policy)
    policy.to(torch.float64)
    sampler.sync_weights()
    assert not sampler.shares_weights
    assert "from now on weights are copied" in caplog.text
    tools.change(policy)
    sampler.sync_weights()
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


@pytest.mark.parametrize(("share", "level"), [(None, logging.INFO), (True, logging.WARNING)])
def test_what_cannot_be_shared_is_streamed_and_says_so_once(vllm, tools, caplog, share, level):
    tools.needs_cpu()
    policy = tools.policy()
    sampler = tools.vllm(policy, dtype="bfloat16", share_weights=share)
    assert not sampler.shares_weights
    (record,) = [record for record in caplog.records if "not shared" in record.message]
    assert record.levelno == level
    assert "torch.float32 on cpu, vLLM's torch.bfloat16" in record.message
    assert all(weight.dtype == torch.float32 for weight in policy.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_copied_weights_are_those_that_the_engine_would_load(vllm, tools, monkeypatch, dtype):
    """The oracle is vLLM's own `load_weights`, which only the first hand-over goes through."""
    policy = tools.policy(tied=False)
    sampler = tools.vllm(policy, tied=False, dtype=dtype, share_weights=False)
    tools.change(policy)
    with monkeypatch.context() as patch:
        patch.setattr(HandOver, "_load", lambda self: pytest.fail("vLLM's load_weights was called again"))
        sampler.sync_weights()
    copied = _engine_weights(sampler)
    HandOver(sampler.llm, tools.policy(tied=False))
    assert not copied["lm_head.weight"].equal(_engine_weights(sampler)["lm_head.weight"])
    HandOver(sampler.llm, policy)
    assert all(weight.equal(copied[name]) for name, weight in _engine_weights(sampler).items())


def test_weights_that_the_engine_keeps_elsewhere_are_loaded_each_time(vllm, tools, monkeypatch, caplog):
    monkeypatch.setattr(
        "masa_lightning.sampling.vllm.weights.match", lambda model, policy, derived: ({}, "it has its own ways")
    )
    policy, requests = tools.policy(), tools.requests()
    sampler = tools.vllm(policy, share_weights=True)
    assert not sampler.shares_weights
    assert "it has its own ways" in caplog.text
    tools.change(policy)
    sampler.sync_weights()
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


def test_match_wants_every_weight_of_the_engine():
    """An engine that copies a tied embedding into its head would keep the old head."""

    class Engine(torch.nn.Module):
        packed_modules_mapping: ClassVar[dict[str, list[str]]] = {}

        def __init__(self, *names):
            super().__init__()
            for name in names:
                self.register_parameter(name, torch.nn.Parameter(torch.ones(2, 3)))

    assert set(match(Engine("embed"), Engine("embed"))[0]) == {"embed"}
    places, reason = match(Engine("embed", "head"), Engine("embed"))
    assert (places, reason) == ({}, "vLLM's head is filled by no weight of the policy alone")


def test_bfloat16_policy_is_shared(vllm, tools):
    tools.needs_cpu()
    policy = tools.policy().to(torch.bfloat16)
    sampler = tools.vllm(policy)
    assert sampler.shares_weights
    tools.change(policy)
    sampler.sync_weights()
    assert len(sampler.generate(tools.requests(), SAMPLE)) == 12


def test_a_shared_policy_can_be_saved(vllm, tools, tmp_path):
    policy = tools.policy()
    tools.vllm(policy)
    policy.save_pretrained(tmp_path)
    torch.save(policy.state_dict(), tmp_path / "state.pt")
    saved = Qwen3ForCausalLM.from_pretrained(tmp_path).state_dict()
    state = torch.load(tmp_path / "state.pt")
    for name, weight in policy.state_dict().items():
        assert weight.equal(saved[name])
        assert weight.equal(state[name])
    assert (tmp_path / "state.pt").stat().st_size < 1.2 * sum(4 * weight.numel() for weight in policy.parameters())


def test_setup_leaves_no_trace(vllm, tools):
    tools.needs_cpu()
    policy = tools.policy()
    environ = dict(os.environ)
    from vllm.model_executor.layers import utils

    dispatch = utils.dispatch_cpu_unquantized_gemm
    torch.manual_seed(1)
    random.seed(1)
    states = torch.get_rng_state(), random.getstate()
    with torch.inference_mode():
        tools.vllm(policy)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert utils.dispatch_cpu_unquantized_gemm is dispatch
    set_by_vllm = {"VLLM_WORKER_MULTIPROC_METHOD", "NUMEXPR_MAX_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"}
    set_by_vllm |= {"VLLM_DISABLE_SHARED_EXPERTS_STREAM", "VLLM_DIST_IDENT"}
    changed = {name for name in {**environ, **os.environ} if environ.get(name) != os.environ.get(name)}
    assert changed <= set_by_vllm
    tools.change(policy)  # weights made in inference mode could not be trained
    nodes = Path("/proc/self/numa_maps")
    assert not nodes.exists() or " bind:" not in nodes.read_text()  # memory of the process may be on any


@pytest.mark.parametrize("where", ["progress", "step", "draw"])
def test_a_failure_leaves_no_request_behind(engine, tools, monkeypatch, where):
    from vllm.v1.sample.sampler import Sampler

    (policy, sampler), requests = engine, tools.requests()

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        if where == "step":
            patch.setattr(sampler.llm.llm_engine, "step", fail)
        elif where == "draw":
            patch.setattr(Sampler, "forward", fail)
        sampler.generate(requests, SAMPLE, fail)
    sampler.sync_weights()
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


def test_a_second_setup(engine, tools):
    policy, sampler = engine
    llm = sampler._llm
    sampler.setup(policy, tools.path(), max_model_length=tools.length, stop_token_ids=[])
    assert sampler._llm is llm
    requests = tools.requests(3)
    assert [len(c.token_ids) for c in sampler.generate(requests, SAMPLE)] == [r.max_tokens for r in requests]
    with pytest.raises(RuntimeError, match="make a new VLLMSampler"):
        sampler.setup(tools.policy(), tools.path(), max_model_length=tools.length, stop_token_ids=[])
    sampler.setup(policy, tools.path(), max_model_length=tools.length, stop_token_ids=tools.stop)


def test_a_dropped_engine_frees_its_cache_and_harms_no_other(vllm, engine, tools):
    (policy, sampler), requests = engine, tools.requests()
    other = tools.vllm(tools.policy())
    other.generate(requests, SAMPLE)
    runner = other.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    cache = weakref.ref(runner.kv_caches[0])
    del other, runner
    gc.collect()
    assert cache() is None
    assert torch.distributed.is_initialized()
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4


@pytest.mark.parametrize("share", [None, False], ids=["shared", "streamed"])
def test_a_closed_engine_gives_its_memory_back_and_the_policy_goes_on(vllm, tools, share):
    policy, requests = tools.policy(), tools.requests()
    sampler = tools.vllm(policy, share_weights=share)
    sampler.generate(requests, SAMPLE)
    runner = sampler.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    (model,) = sampler.llm.apply_model(lambda model: weakref.ref(model))
    gone = [model, weakref.ref(runner), weakref.ref(runner.kv_caches[0]), weakref.ref(sampler.llm)]
    del runner, model
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    sampler.close()
    sampler.close()
    assert [each() for each in gone] == [None] * 4
    assert all(weight.equal(before[name]) for name, weight in policy.named_parameters())
    assert sampler.engine_dtype == "float32"  # for those who look at a run that has ended
    with pytest.raises(RuntimeError, match="no engine yet"):
        sampler.generate(requests, SAMPLE)
    tools.change(policy)
    sampler.setup(policy, tools.path(), max_model_length=tools.length, stop_token_ids=tools.stop)
    assert sampler.shares_weights is (share is None and tools.device == "cpu")
    assert tools.distance(policy, requests, sampler.generate(requests, SAMPLE)) < 1e-4
    sampler.close()
    other = tools.policy()
    sampler.setup(other, tools.path(), max_model_length=tools.length, stop_token_ids=tools.stop)
    assert tools.distance(other, requests, sampler.generate(requests, SAMPLE)) < 1e-4


def test_engine_failures_say_what_to_do(vllm, tools):
    with pytest.raises(RuntimeError, match=r"(?s)could not make an engine .*kv_cache_gib") as caught:
        tools.vllm(tools.policy(), kv_cache_gib=1e-6)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (
            "no_such_package.Worker",
            "the package 'no_such_package', which is not installed .*: pip install no_such_package;",
        ),
        ("vllm.no_such_module.Worker", r"'vllm', which is installed and does not import .*\(pip check\);"),
    ],
)
def test_a_package_that_the_engine_lacks_is_named(vllm, tools, worker, said):
    with pytest.raises(ImportError, match=f"could not make an engine for .*: it needs {said}") as caught:
        tools.vllm(tools.policy(), engine_kwargs={"worker_cls": worker})
    assert "memory" not in str(caught.value)
    assert gc.get_freeze_count() == 0


def test_a_policy_that_is_not_the_model_is_refused(vllm, tools):
    policy = tools.policy()
    del policy.model.norm
    with pytest.raises(RuntimeError, match=r"1 of the engine's parameters got no weights .*model\.norm\.weight"):
        tools.vllm(policy)


@pytest.mark.parametrize("temperature", [3, 0.005])
def test_temperatures_that_vllm_does_not_draw_at(engine, tools, temperature):
    """It refuses the first, and draws at 0.01 in place of the second, which is not what the policy computes."""
    _, sampler = engine
    with pytest.raises(ValueError, match=rf"temperature is {temperature}; expected 0 or a value in \[0\.01, 2\]"):
        sampler.generate(tools.requests(1), SamplingSettings(temperature=temperature))


def test_without_vllm(tools, monkeypatch):
    tools.needs_cpu()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"pip install 'masa_lightning\[cpu\]', or use TransformersSampler"):
        tools.vllm(tools.policy())


@pytest.mark.parametrize("call", ["sync_weights", "sleep", "wake"])
def test_before_setup(call):
    with pytest.raises(RuntimeError, match=r"call setup\(policy, model_path"):
        getattr(VLLMSampler(), call)()


def test_sleep_mode_needs_cuda(tools):
    tools.needs_cpu()
    with pytest.raises(ValueError, match="the policy is on cpu; sleep mode exists on CUDA only"):
        tools.vllm(tools.policy(), enable_sleep_mode=True)


@pytest.fixture
def sleeper():
    """A sampler whose engine notes what it is told, in place of one on a GPU, and the notes."""
    calls = []

    class Engine:
        def sleep(self, level):
            calls.append(f"sleep {level}")

        def wake_up(self, tags):
            calls.append(f"wake {tags}")

        def reset_prefix_cache(self):
            calls.append("reset")
            return True

    sampler = VLLMSampler(enable_sleep_mode=True)
    sampler._llm, sampler._hand_over = Engine(), lambda: calls.append("load")
    return sampler, calls


def test_weights_are_handed_over_once_after_sleep_and_before_the_cache_wakes(sleeper):
    sampler, calls = sleeper
    sampler.sleep()
    sampler.sleep()
    sampler.sync_weights()
    with pytest.raises(RuntimeError, match=r"asleep; call wake\(\)"):
        sampler.generate([], SAMPLE)
    sampler.wake()
    sampler.wake()
    assert calls == ["sleep 2", "wake ['weights']"]
    sampler.generate([], SAMPLE)
    sampler.generate([], SAMPLE)
    assert calls == ["sleep 2", "wake ['weights']", "load", "wake ['kv_cache']", "reset"]
    sampler.sync_weights()
    assert calls[5:] == ["load", "reset"]


def test_an_engine_that_is_half_awake_goes_to_sleep_again(sleeper):
    sampler, calls = sleeper
    sampler.sleep()
    sampler.wake()
    sampler.sleep()
    sampler.wake()
    sampler.sync_weights()
    assert calls == [*["sleep 2", "wake ['weights']"] * 2, "load", "wake ['kv_cache']", "reset"]


@pytest.mark.parametrize("second_sleeps", [True, False])
def test_a_second_engine_beside_one_that_sleeps_is_refused(sleeper, tools, monkeypatch, second_sleeps):
    first, _ = sleeper
    monkeypatch.setattr("masa_lightning.sampling.vllm.sampler._with_engine", {first})
    second = VLLMSampler(enable_sleep_mode=second_sleeps)
    with pytest.raises(
        RuntimeError, match=r"another VLLMSampler .* one engine at a time .* call close\(\) of the other"
    ):
        second._check_others()
    if not second_sleeps:
        with pytest.raises(RuntimeError, match="another VLLMSampler"):
            second.setup(tools.policy(), tools.path(), max_model_length=tools.length, stop_token_ids=[])
    first.close()
    second._check_others()


@pytest.mark.parametrize(
    ("level", "more_state", "expected"),
    [(None, "", 2), (None, "layers.0.impl", 1), (1, "", 1), (2, "layers.0.impl", 2)],
)
def test_level_of_sleep(sleeper, level, more_state, expected):
    sampler, calls = sleeper
    sampler.sleep_level, sampler._more_state = level, more_state
    sampler.sleep()
    assert calls == [f"sleep {expected}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5"),
        ({"kv_cache_gib": 0}, "kv_cache_gib is 0"),
        ({"kv_cache_gib": math.inf}, "kv_cache_gib is inf"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"max_num_seqs": 1.5}, "max_num_seqs is 1.5"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens is 0"),
        ({"sleep_level": 3, "enable_sleep_mode": True}, "sleep_level is 3; expected None, 1 or 2"),
        ({"sleep_level": True, "enable_sleep_mode": True}, "sleep_level is True; expected None, 1 or 2"),
        ({"sleep_level": 1}, "sleep_level is 1 and enable_sleep_mode False, so that the engine never sleeps"),
        ({"enable_sleep_mode": "yes"}, "enable_sleep_mode is 'yes'; expected False or True"),
        ({"dtype": "float7"}, "dtype is 'float7'; expected None, 'float32', 'bfloat16' or 'float16'"),
        ({"share_weights": True, "tensor_parallel_size": 2}, "share_weights=True does not go with"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VLLMSampler(**settings)


@pytest.mark.parametrize("given", ["abc", 5, ["max_logprobs"]])
def test_options_of_the_engine_have_names(given):
    with pytest.raises(TypeError, match=r"engine_kwargs is .*; expected an object of Mapping, options of vLLM's"):
        VLLMSampler(engine_kwargs=given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enable_sleep_mode": True}, "the policy is on cpu; sleep mode exists on CUDA only"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size is 2 but there are 1 processes"),
        ({"engine_kwargs": {"max_logprob": 3}}, "'max_logprob', which is no option of vLLM's engine"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(vllm, tools, settings, message):
    if tools.device != "cpu":
        pytest.skip("on a GPU the first of them is right")
    with pytest.raises(ValueError, match=message):
        VLLMSampler(**settings).check_model(tools.path(), None, torch.device("cpu"))


OF_A_RUN = """
from lightning.pytorch import Trainer
from masa_lightning import ArithmeticDataModule, MASALightningModule, VLLMSampler

def run(path):
    module = MASALightningModule("tiny", VLLMSampler(kv_cache_gib=0.1), num_generations=2, num_meta_generations=2)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=1, limit_val_batches=0, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, ArithmeticDataModule(batch_size=2, train_size=2))
    return {"trainer": trainer, "module": module, "policy": module.policy}
"""
OF_A_SAMPLER = """
from masa_lightning import VLLMSampler
from masa_lightning.models.loading import load_model

def run(path):
    policy, sampler = load_model(path, "float32"), VLLMSampler(kv_cache_gib=0.1)
    sampler.setup(policy, path, max_model_length=64, stop_token_ids=[2])
    sampler.close()
    return {"policy": policy, "sampler": sampler}
"""
WHAT_IS_LEFT = """
import gc, sys, weakref

there = {name: weakref.ref(part) for name, part in run(sys.argv[1]).items()}
gc.collect()
print("left:", *[name for name, part in there.items() if part() is not None])
"""


@pytest.mark.parametrize("program", [OF_A_RUN, OF_A_SAMPLER], ids=["run", "sampler"])
def test_nothing_of_the_first_engine_of_a_process_is_left(vllm, tools, tmp_path, program):
    """vLLM is imported for it, and a module of vLLM keeps an error of that, with all frames that were under way."""
    if tools.device != "cpu":
        pytest.skip("these are on the CPU")
    words = [sys.executable, "-c", program + WHAT_IS_LEFT, tools.path()]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.stdout.splitlines()[-1:] == ["left:"], done.stdout + done.stderr[-3000:]


def test_tensor_parallel_needs_processes(vllm, tools):
    with pytest.raises(ValueError, match="tensor_parallel_size is 2 but there are 1 processes"):
        tools.vllm(tools.policy(), tensor_parallel_size=2)
