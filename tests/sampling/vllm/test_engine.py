"""Where an engine is made, and in which dtype."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from masa_lightning.sampling.vllm import VLLMSampler, engine
from masa_lightning.sampling.vllm.engine import check_platform, computing_dtype, engine_environment


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
