"""`masa fit` with an engine in each precision: the engine draws from the policy in every step.

On CPU more of this is in tests/test_cli.py and tests/modules/test_precision.py.
"""

import math
import sys

import pytest
import torch
from engines import LIMITS
from logged import stream

from masa_lightning.models import loading

STEPS = 3
EAGER = ("--model.init_args.sampler.init_args.enforce_eager", "true")
SLEEP = ("--model.init_args.sampler.init_args.enable_sleep_mode", "true")
KINDS = [
    pytest.param("32-true", "float32", EAGER, id="32-true"),
    pytest.param("bf16-mixed", "float32", EAGER, id="bf16-mixed"),
    pytest.param("bf16-mixed", "float32", SLEEP, id="bf16-mixed, graphs, sleep", marks=pytest.mark.gpu),
    pytest.param("bf16-true", "bfloat16", EAGER, id="bf16-true"),
]


@pytest.mark.filterwarnings("ignore:.*of the weights are too large for steps")
@pytest.mark.parametrize(("precision", "dtype", "more"), KINDS)
def test_three_steps(engine_device, show, tmp_path, monkeypatch, precision, dtype, more):
    pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
    pytest.importorskip("datasets", reason="datasets is not installed")
    from masa_lightning import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards: seed_everything sets it
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    settings = {
        "trainer.accelerator": "gpu" if engine_device.type == "cuda" else "cpu",
        "trainer.devices": "1",
        "trainer.precision": precision,
        "trainer.max_steps": str(STEPS),
        "trainer.enable_progress_bar": "false",
        "model.init_args.dtype": dtype,
        "model.init_args.num_generations": "4",
        "model.init_args.num_meta_generations": "4",
        "model.init_args.optimization.optimizer.lr": "1.0e-3",
        "model.init_args.sampler": "masa_lightning.VLLMSampler",
        "model.init_args.sampler.init_args.kv_cache_gib": "0.2",
        "data.init_args.batch_size": "4",
        "data.init_args.train_size": str(4 * STEPS),
        "data.init_args.validation_size": "4",
    }
    ran = cli.main(["fit", "--config", "tiny", *(f"--{k}={v}" for k, v in settings.items()), *more])
    module = ran.model
    try:
        metrics = stream(tmp_path)
        rounds = precision != "32-true" and (engine_device.type == "cuda" or precision == "bf16-true")
        assert module.sampler.engine_dtype == ("bfloat16" if rounds else "float32")
        found = [max(metrics["sampling/sampling_logp_difference/mean", step]) for step in range(1, STEPS + 1)]
        norms = [max(metrics["grad_norm", step]) for step in range(1, STEPS + 1)]
        show(f"{precision}: log-probabilities differ by {', '.join(f'{x:.1e}' for x in found)}; gradients {norms}")
        assert max(found) < LIMITS[engine_device.type, "float32" if precision == "32-true" else "bfloat16"]
        assert all(math.isfinite(norm) and norm > 0 for norm in norms)
        start = {n: p.detach() for n, p in loading.load_model("tiny", dtype).named_parameters()}
        moved = [float((p.detach().cpu() - start[n]).abs().max()) for n, p in module.policy.model.named_parameters()]
        assert max(moved) > 1e-4
        assert all(bool(p.isfinite().all()) for p in module.policy.parameters())
    finally:
        module.sampler.close()
        torch.set_float32_matmul_precision("highest")
