"""A run with all controls, killed and resumed, equals an undisturbed one, bit for bit, on the real engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TINY_YAML = Path(__file__).parents[1] / "configs" / "tiny.yaml"
STEPS = 8
CLOCKS = ("timing_s/", "tokens_per_second", "hp_metric")
EXTRA = f"""
trainer:
  max_steps: {STEPS}
  max_epochs: -1
  val_check_interval: 3
  enable_progress_bar: false
  callbacks:
    - class_path: masa_lightning.ExpertSFT
      init_args: {{batch_size: 2, learning_rate: 1.0e-4}}
    - class_path: masa_lightning.PredictiveGating
      init_args: {{start_step: 1, max_std: 0.3, margin: 0.4, audit_share: 0.3}}
    - class_path: masa_lightning.EarlyCutoff
      init_args: {{start_step: 1, factor: 1.0}}
    - class_path: masa_lightning.NotionHinting
      init_args: {{start_step: 1}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: runs/tiny/checkpoints, every_n_train_steps: 2, save_last: true, save_top_k: 0}}
model:
  init_args:
    prompts: {{hint: "{{problem}} try {{notions}}"}}
    num_generations: 4
    num_meta_generations: 4
    num_mini_batches: 2
    max_completion_length: 48
    max_meta_length: 48
    evaluation: {{num_generations: 2, num_meta_generations: 2}}
data:
  init_args: {{batch_size: 4, train_size: 12, validation_size: 6}}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "extra.yaml").write_text(EXTRA)
    command = [sys.executable, "-m", "masa_lightning.cli", "fit", "--config", str(TINY_YAML), "--config", "extra.yaml"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([*command, *arguments], cwd=folder, stdout=log, stderr=log)


def finish(folder: Path, *arguments: str) -> None:
    code = start(folder, *arguments).wait(timeout=250)
    assert code == 0, (folder / "log").read_text()[-4000:]


def stream(folder: Path) -> dict[tuple[str, int], set[float]]:
    """All values logged for a metric and step; an interrupted run logs some steps twice."""
    events = EventAccumulator(str(folder / "runs/tiny"), size_guidance={"scalars": 0}).Reload()
    values: dict[tuple[str, int], set[float]] = {}
    for tag in events.Tags()["scalars"]:
        if not tag.startswith(CLOCKS):
            for event in events.Scalars(tag):
                values.setdefault((tag, event.step), set()).add(event.value if event.value == event.value else -1e9)
    return values


@pytest.mark.timeout(900)
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(undisturbed)

    process = start(killed)
    checkpoint = killed / "runs/tiny/checkpoints/last.ckpt"
    deadline = time.monotonic() + 250
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline, (killed / "log").read_text()[-4000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    interrupted_at = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 0 < interrupted_at < STEPS
    finish(killed, "--ckpt_path", "last")

    expected, actual = (
        torch.load(folder / "runs/tiny/checkpoints/last.ckpt", weights_only=True) for folder in (undisturbed, killed)
    )
    assert expected["global_step"] == actual["global_step"] == STEPS
    assert expected["state_dict"].keys() == actual["state_dict"].keys()
    for name, weight in expected["state_dict"].items():
        assert torch.equal(weight, actual["state_dict"][name]), name
    figures = stream(undisturbed)
    assert any(figures["tokens_total/sft", step] != {0.0} for step in range(STEPS // 2))  # the controls did something
    assert any(figures["controls/unbiased_share", step] != {1.0} for step in range(STEPS // 2))
    assert {len(values) for values in stream(killed).values()} == {1}
    assert stream(killed) == stream(undisturbed)
