"""Training steps of the embedded model, with the module, sampler and Trainer of a real run, in one process or two."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from masa_lightning.doctor.check import Failed, Found

_PROBLEMS: Final = 8
_ROLLOUTS: Final = 8  # of each kind, a problem
_STEPS: Final = 2  # of which the first one warms up
_CACHE: Final = {"cpu": 0.25, "cuda": 1.0}  # GiB of keys and values


def training(device: str, strategy: str = "", tensor_parallel: int = 1) -> Iterator[Found]:
    """Takes training steps; in each process of them all.

    Args:
        device: "cpu" or "cuda".
        strategy: "ddp" or "fsdp2", for two processes; else one trains alone.
        tensor_parallel: Processes that share an engine.
    """
    from lightning.pytorch import Callback, Trainer

    import masa_lightning

    sampler = None  # the module's default
    if find_spec("vllm") is not None:
        sampler = masa_lightning.VLLMSampler(
            tensor_parallel_size=tensor_parallel,
            kv_cache_gib=_CACHE[device],
            gpu_memory_utilization=0.1,
            enable_sleep_mode=device == "cuda",
        )
    optimization = masa_lightning.Optimization(optimizer=partial(masa_lightning.AdamW, lr=1e-4))
    module = masa_lightning.MASALightningModule(
        "tiny", sampler, num_generations=_ROLLOUTS, num_meta_generations=_ROLLOUTS, optimization=optimization, seed=0
    )
    steps: list[dict[str, float]] = []

    class Record(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    precision: Any = "bf16-mixed" if device == "cuda" else "32-true"
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=device,
            devices=2 if strategy else 1,
            strategy=_strategy(strategy, device),
            precision=precision,
            max_steps=_STEPS,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[Record()],
        )
        size = _PROBLEMS // trainer.world_size
        trainer.fit(module, masa_lightning.ArithmeticDataModule(batch_size=size, train_size=_STEPS * _PROBLEMS))
    yield judge(steps, type(module.sampler).__name__, precision)


def judge(steps: list[dict[str, float]], sampler: str, precision: str) -> Found:
    """Says how the last of some training steps went.

    Args:
        steps: What each logged.
        sampler: Name of its class.
        precision: Of the Trainer.
    """
    if len(steps) != _STEPS:
        raise Failed(f"{len(steps)} training steps; expected {_STEPS}", "report this table")
    last = steps[-1]
    parts = {name: last[f"timing_s/{name}"] for name in ("generate", "update")}
    seconds = last["timing_s/step"]
    text = (
        f"{seconds:.2f} s a step of {2 * _ROLLOUTS * _PROBLEMS} rollouts (rollouts {parts['generate']:.2f} s, update "
        f"{parts['update']:.2f} s), {last['tokens_per_second']:,.0f} tokens/s drawn, {sampler}, {precision}"
    )
    norm = last["grad_norm"]
    facts = {"step_seconds": seconds, "precision": precision, "sampler": sampler, "grad_norm": norm}
    facts |= {f"{name}_seconds": value for name, value in parts.items()}
    facts["tokens_per_second"] = last["tokens_per_second"]
    if not (math.isfinite(norm) and norm > 0):
        return Found(f"the gradient's norm is {norm:g}; {text}", "failed", "expected one > 0: report this table", facts)
    return Found(text, facts=facts)


def _strategy(name: str, device: str) -> Any:
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

    if name == "fsdp2":
        return ModelParallelStrategy(2, 1, process_group_backend="gloo" if device == "cpu" else None)
    return DDPStrategy() if name == "ddp" else "auto"
