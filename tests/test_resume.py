"""A run with all controls, killed and resumed, equals an undisturbed one, bit for bit, on the real engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")
from logged import stream

TINY_YAML = Path(__file__).parents[1] / "configs" / "tiny.yaml"
STEPS = 4
WAIT = 800  # seconds that a run may take beside others
CHECKPOINT = "runs/tiny/checkpoints/last.ckpt"
EXTRA = f"""
trainer:
  max_steps: {STEPS}
  max_epochs: -1
  val_check_interval: 3
  enable_progress_bar: false
  callbacks:
    - class_path: masa_lightning.ExpertSFT
      init_args: {{batch_size: 1, learning_rate: 1.0e-4}}
    - class_path: masa_lightning.PredictiveGating
      init_args: {{start_step: 1, max_std: 0.2, margin: 0.3, audit_share: 0.3}}
    - class_path: masa_lightning.EarlyCutoff
      init_args: {{start_step: 1, factor: 1.5}}
    - class_path: masa_lightning.NotionHinting
      init_args: {{start_step: 1, probability: 0.3}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: runs/tiny/checkpoints, every_n_train_steps: 1, save_last: true, save_top_k: 0}}
model:
  init_args:
    prompts: {{hint: "{{problem}} try {{notions}}"}}
    meta: {{min_expert_reward: 0.0}}
    num_generations: 4
    num_meta_generations: 4
    optimization: {{num_mini_batches: 2}}
    max_completion_length: 48
    max_meta_length: 48
    evaluation: {{num_generations: 2, num_meta_generations: 2}}
data:
  init_args: {{batch_size: 4, train_size: 12, validation_size: 6}}
"""
FIXED = EXTRA[
    EXTRA.index("    - class_path: masa_lightning.PredictiveGating") : EXTRA.index("    - class_path: lightning")
]
LOOSE = "rule: risk, max_lost_correct: 0.9, confidence: 0.5"  # so that it begins within steps as small as these
RISK = EXTRA.replace(
    FIXED,
    f"""    - class_path: masa_lightning.PredictiveGating
      init_args: {{{LOOSE}, max_lost_signal: 0.9, history: true}}
    - class_path: masa_lightning.EarlyCutoff
      init_args: {{{LOOSE}}}
    - class_path: masa_lightning.HistoryGating
      init_args: {{max_lost_signal: 0.9, max_lost_correct: 0.9, confidence: 0.5}}
""",
).replace("train_size: 12", "train_size: 8")  # a second epoch from the third step on, for a past


def start(folder: Path, *arguments: str, extra: str = EXTRA) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "extra.yaml").write_text(extra)
    command = [sys.executable, "-m", "masa_lightning.cli", "fit", "--config", str(TINY_YAML), "--config", "extra.yaml"]
    with (folder / "log").open("ab") as log:
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen([*command, *arguments], cwd=folder, stdout=log, stderr=log, env=env)


def finish(folder: Path, *arguments: str, extra: str = EXTRA) -> None:
    code = start(folder, *arguments, extra=extra).wait(timeout=WAIT)
    assert code == 0, (folder / "log").read_text()[-4000:]


KILLER = """
import os, signal
from lightning.pytorch.callbacks import Callback

class Killer(Callback):
    def __init__(self, phase: str, nth: int):
        self.phase, self.left = phase, nth

    def on_phase_progress(self, phase, done, total):
        self.hit(phase, done == 0)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.hit("checkpoint", True)

    def hit(self, phase, begins):
        self.left -= phase == self.phase and begins
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "undisturbed"
    finish(folder)
    metrics = stream(folder)
    assert any(metrics["tokens_total/sft", step] != {0.0} for step in range(1, STEPS + 1))  # the controls did something
    assert any(metrics["controls/unbiased_share", step] != {1.0} for step in range(1, STEPS + 1))
    return folder


def resume_and_compare(killed: Path, undisturbed: Path, extra: str = EXTRA, steps: int = STEPS) -> None:
    interrupted_at = torch.load(killed / CHECKPOINT, weights_only=True)["global_step"]
    assert 0 < interrupted_at < steps
    finish(killed, "--ckpt_path", "last", extra=extra)
    expected, actual = (torch.load(folder / CHECKPOINT, weights_only=True) for folder in (undisturbed, killed))
    assert expected["global_step"] == actual["global_step"] == steps
    assert expected["state_dict"].keys() == actual["state_dict"].keys()
    for name, weight in expected["state_dict"].items():
        assert torch.equal(weight, actual["state_dict"][name]), name
    assert {len(values) for values in stream(killed).values()} == {1}
    assert stream(killed) == stream(undisturbed)


@pytest.mark.timeout(3 * WAIT)
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(tmp_path: Path, undisturbed: Path) -> None:
    killed = tmp_path / "killed"
    process = start(killed)
    deadline = time.monotonic() + WAIT
    while not (killed / CHECKPOINT).exists():
        assert process.poll() is None and time.monotonic() < deadline, (killed / "log").read_text()[-4000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resume_and_compare(killed, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
@pytest.mark.parametrize(
    ("phase", "nth"),
    [("generate", 5), ("generate", 6), ("grade", 4), ("update", 3), ("sft", 2), ("checkpoint", 3)],
    ids=["meta rollouts", "solution rollouts", "grading", "update", "cloning", "checkpoint"],
)
def test_killed_in_every_phase(tmp_path: Path, undisturbed: Path, phase: str, nth: int) -> None:
    """Behind a validation, the first training step is parallel; the others draw meta rollouts first, in two calls."""
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "killer.py").write_text(KILLER)
    killer = f"{{class_path: killer.Killer, init_args: {{phase: {phase}, nth: {nth}}}}}"
    (killed / "killer.yaml").write_text(EXTRA.replace("  callbacks:\n", f"  callbacks:\n    - {killer}\n", 1))
    code = start(killed, "--config", "killer.yaml").wait(timeout=WAIT)
    assert code == -signal.SIGKILL, (killed / "log").read_text()[-4000:]
    resume_and_compare(killed, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
def test_ended_by_a_sigterm_to_all_processes(tmp_path: Path, undisturbed: Path) -> None:
    """As SLURM sends it, graders included: the step is finished, saved, and the run ends with status 143."""
    killed = tmp_path / "killed"
    killed.mkdir()
    killer = KILLER.replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(os.getpgrp(), signal.SIGTERM); self.left = 999"
    )
    killer = killer.replace("        self.phase, self.left", "        os.setsid()\n        self.phase, self.left")
    (killed / "killer.py").write_text(killer)
    callback = "{class_path: killer.Killer, init_args: {phase: generate, nth: 4}}"
    (killed / "killer.yaml").write_text(EXTRA.replace("  callbacks:\n", f"  callbacks:\n    - {callback}\n", 1))
    code = start(killed, "--config", "killer.yaml").wait(timeout=WAIT)
    assert code == 128 + signal.SIGTERM, (killed / "log").read_text()[-4000:]
    resume_and_compare(killed, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3 * WAIT)
def test_what_the_rule_risk_has_learned_is_resumed(tmp_path: Path) -> None:
    extra, steps = RISK.replace(f"max_steps: {STEPS}", "max_steps: 8"), 8
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, extra=extra)
    figures = stream(whole)
    for control in ("gating", "cutoff", "history"):  # they have learned enough to begin
        assert min(min(figures[f"controls/{control}/audit_share", step]) for step in range(1, 9)) < 1, control
    assert max(figures["controls/gating/known_share", 8]) > 0 < max(figures["controls/history/known_share", 8])
    assert max(max(figures["controls/unbiased_share", step]) for step in range(1, 9)) == 1
    assert min(min(figures["controls/unbiased_share", step]) for step in range(1, 9)) < 1  # they acted
    killed.mkdir()
    (killed / "killer.py").write_text(KILLER)
    killer = "{class_path: killer.Killer, init_args: {phase: checkpoint, nth: 5}}"
    (killed / "killer.yaml").write_text(extra.replace("  callbacks:\n", f"  callbacks:\n    - {killer}\n", 1))
    code = start(killed, "--config", "killer.yaml", extra=extra).wait(timeout=WAIT)
    assert code == -signal.SIGKILL, (killed / "log").read_text()[-4000:]
    resume_and_compare(killed, whole, extra, steps)
