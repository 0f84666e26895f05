"""A training step that trains nothing is a failed line; two processes train as one does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from masa_lightning.doctor.check import Check, Failed
from masa_lightning.doctor.examination import trials, trials_of_two
from masa_lightning.doctor.runner import run
from masa_lightning.doctor.training import judge

STEP = {
    "timing_s/step": 2.0,
    "timing_s/generate": 1.5,
    "timing_s/update": 0.4,
    "tokens_per_second": 1234.0,
    "grad_norm": 0.5,
}


def test_the_last_step_is_told() -> None:
    found = judge([STEP | {"timing_s/step": 9.0}, STEP], "VLLMSampler", "32-true")
    assert found.state == "ok"
    assert found.text.startswith("2.00 s a step of 128 rollouts (rollouts 1.50 s, update 0.40 s), 1,234 tokens/s drawn")
    assert found.facts["step_seconds"] == 2.0


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_a_gradient_that_is_none_fails(norm: float) -> None:
    found = judge([STEP, STEP | {"grad_norm": norm}], "VLLMSampler", "32-true")
    assert found.state == "failed"
    assert found.text.startswith(f"the gradient's norm is {norm:g}")


def test_a_step_that_was_not_taken_fails() -> None:
    with pytest.raises(Failed, match="1 training steps; expected 2"):
        judge([STEP], "VLLMSampler", "32-true")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The gradient's norm in one process."""
    pytest.importorskip("vllm")
    [line] = run(trials("cpu")[-1], tmp_path_factory.mktemp("alone") / "out")
    assert line.state == "ok", line.found
    return float(line.facts["grad_norm"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the trials of this machine are on its GPUs")
@pytest.mark.parametrize("check", trials_of_two("cpu"), ids=lambda check: check.name)
def test_two_processes_train_as_one(check: Check, alone: float, tmp_path: Path) -> None:
    [line] = run(check, tmp_path)
    assert line.state == "ok", line.found
    assert line.facts["grad_norm"] == pytest.approx(alone, rel=5e-3)
