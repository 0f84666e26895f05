"""The machine as torch and vLLM see it, and what is said where the two do not fit."""

import importlib.metadata
import sys

import pytest
import torch
import zoo

from masa_lightning.models import loading, tiny


@pytest.mark.gpu
def test_what_is_here(show):
    """First of all, so that a report says what it was seen on."""
    versions = []
    for package in ("torch", "triton", "transformers", "lightning", "vllm"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(0)
    show(
        f"{torch.cuda.device_count()} x {properties.name}, capability {properties.major}.{properties.minor}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free; CUDA {torch.version.cuda}; Python {sys.version.split()[0]}; "
        + ", ".join(versions)
    )
    assert free > 16 * 2**30, "expected 16 GiB of free memory: another process has the GPU"
    assert torch.cuda.is_bf16_supported()


@pytest.mark.gpu
def test_float32_is_multiplied_exactly():
    """Which torch does unless told otherwise, and the tolerances of the tests behind this one rest on."""
    assert torch.get_float32_matmul_precision() == "highest"
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).cuda()
    off = (x @ x - (x.double() @ x.double())).abs().max()
    assert float(off) < 1e-3  # in TensorFloat32 it is about 0.05


@pytest.mark.gpu
def test_vllm_runs_on_cuda():
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.platforms import current_platform

    assert current_platform.is_cuda(), "a vLLM that was built for CPU: pip install 'masa_lightning[cuda]'"


@pytest.mark.gpu
@pytest.mark.parametrize("policy_on", ["cpu", "cuda"])
def test_policy_and_engine_on_different_devices_are_refused(policy_on):
    """On CPU: tests/sampling/vllm/test_sampler.py."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.platforms import current_platform

    from masa_lightning.sampling.vllm import VLLMSampler

    if current_platform.is_cuda() == (policy_on == "cuda"):
        pytest.skip("they are on the same")
    policy = loading.load_model("tiny", "float32").to(policy_on)
    with pytest.raises(ValueError, match=rf"the policy is on {policy_on}, but the installed vLLM \S+ runs on"):
        VLLMSampler().setup(policy, str(tiny.PATH), max_model_length=64, stop_token_ids=[2])


def test_without_vllm(device, monkeypatch):
    from masa_lightning.sampling.vllm import VLLMSampler

    monkeypatch.setitem(sys.modules, "vllm", None)
    policy = loading.load_model("tiny", "float32").to(device)
    with pytest.raises(
        ImportError, match=rf"pip install 'masa_lightning\[{device.type}\]', or use TransformersSampler"
    ):
        VLLMSampler().setup(policy, str(tiny.PATH), max_model_length=64, stop_token_ids=[2])


@pytest.mark.gpu
def test_an_engine_without_room_says_what_to_do(tmp_path):
    """On CPU: tests/sampling/vllm/test_sampler.py."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from masa_lightning.sampling.vllm import VLLMSampler

    policy = loading.load_model(str(zoo.save("qwen3", tmp_path)), "float32").cuda()
    with pytest.raises(
        RuntimeError, match=r"(?s)could not make an engine .*ValueError: .*cache.*change gpu_memory_utilization"
    ):
        VLLMSampler(kv_cache_gib=1e-6, enforce_eager=True).setup(
            policy, str(tmp_path), max_model_length=64, stop_token_ids=[2]
        )
