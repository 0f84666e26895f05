"""`masa fit` on two GPUs, an engine on each or one over both. On CPU: tests/test_two_processes.py."""

import subprocess
import sys

import pytest
import torch
from engines import LIMITS
from logged import stream

STEPS = 2
FSDP2 = (
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1",
)
LAYOUTS = {
    "ddp": ("--trainer.devices=2", "--trainer.strategy=ddp"),
    "ddp, the second GPU first": ("--trainer.devices=[1,0]", "--trainer.strategy=ddp"),
    "fsdp2 in bf16-mixed": ("--trainer.devices=2", "--trainer.precision=bf16-mixed", *FSDP2),
    "tensor parallel": (
        "--trainer.devices=2",
        *FSDP2,
        "--model.init_args.sampler.init_args.tensor_parallel_size=2",
    ),
}


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_steps(show, tmp_path, layout):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"found {torch.cuda.device_count()} GPU; expected two")
    for package in ("vllm", "jsonargparse", "datasets"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    command = [sys.executable, "-m", "masa_lightning.cli", "fit", "--config", "tiny", "--trainer.accelerator=gpu"]
    command += [f"--trainer.max_steps={STEPS}", "--trainer.enable_progress_bar=false"]
    command += ["--model.init_args.num_generations=4", "--model.init_args.num_meta_generations=4"]
    command += ["--model.init_args.sampler=masa_lightning.VLLMSampler"]
    command += ["--model.init_args.sampler.init_args.kv_cache_gib=0.2"]
    command += ["--model.init_args.sampler.init_args.enforce_eager=true"]
    command += ["--data.init_args.batch_size=4", f"--data.init_args.train_size={8 * STEPS}", *LAYOUTS[layout]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = stream(tmp_path)
    found = [max(metrics["sampling/sampling_logp_difference/mean", step]) for step in range(1, STEPS + 1)]
    show(f"{layout}: log-probabilities differ by {', '.join(f'{x:.1e}' for x in found)}")
    assert max(found) < LIMITS["cuda", "bfloat16" if "bf16" in layout else "float32"]
