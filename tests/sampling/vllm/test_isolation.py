"""An engine leaves torch's settings for the process as they are, and finds its own."""

import pytest
import torch

from masa_lightning.settings import SamplingSettings


@pytest.fixture(autouse=True)
def as_before():
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


def settings():
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        precision = None
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    return precision, *(backend.fp32_precision for backend in backends), torch.get_default_dtype()


@pytest.mark.parametrize("way", ["legacy", "new", "untouched"])
def test_precision_of_products_is_the_trainers(tools, way):
    pytest.importorskip("vllm")
    if way == "legacy":
        torch.set_float32_matmul_precision("high")
    elif way == "new":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.set_default_dtype(torch.bfloat16)  # as the precision "bf16-true" does
    before, inside = settings(), []
    policy = tools.policy()
    sampler = tools.vllm(policy)
    assert settings() == before
    sampler.generate(tools.requests(2), SamplingSettings(), lambda done, total: inside.append(settings()))
    sampler.sync_weights()
    assert settings() == before
    assert set(inside) == {("highest", "ieee", "ieee", torch.float32)}
