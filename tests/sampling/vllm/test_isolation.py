"""An engine leaves torch's settings for the process as they are, and finds its own."""

import gc

import pytest
import torch
from tqdm.auto import tqdm

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


def test_garbage_is_looked_for_once_while_an_engine_is_made(tools):
    """vLLM does so five times, which is most of the time that an engine takes on CPU."""
    pytest.importorskip("vllm")
    policy, whole = tools.policy(), []

    def look(phase, info):
        if phase == "start" and info["generation"] == 2 and not gc.get_freeze_count():
            whole.append(info)

    gc.unfreeze()  # of an engine that lives
    gc.collect()
    gc.disable()  # what Python does by itself
    gc.callbacks.append(look)
    try:
        tools.vllm(policy)
    finally:
        gc.callbacks.remove(look)
        gc.enable()
    assert len(whole) < 3  # one, and one more where an earlier engine ends meanwhile


@pytest.mark.parametrize("verbose", [False, True])
def test_bars_are_shown_if_asked_for(tools, verbose, monkeypatch, capsys):
    """Such as that of CUDA graphs, which are not captured on CPU: it is put where they would be."""
    worker = pytest.importorskip("vllm.v1.worker.gpu_worker").Worker
    load = worker.load_model

    def load_and_capture(self, *args, **kwargs):
        load(self, *args, **kwargs)
        list(tqdm(range(3), desc="Capturing CUDA graphs"))

    monkeypatch.setattr(worker, "load_model", load_and_capture)
    tools.vllm(tools.policy(), verbose=verbose)
    assert ("Capturing CUDA graphs" in capsys.readouterr().err) is verbose
    assert not tqdm([]).disable
