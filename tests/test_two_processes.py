"""The real command in two processes, with the real engine on each: it trains as one, survives a kill, and is exported."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")
from logged import stream
from torch.distributed.checkpoint import FileSystemReader, load

from masa_lightning.export import export_checkpoint
from masa_lightning.modules.masa import MASALightningModule

TINY_YAML = Path(__file__).parents[1] / "configs" / "tiny.yaml"
STEPS = 4  # training steps, of two optimiser steps each
LAST = "checkpoints/last.ckpt"
ROUNDING = ("sampling/", "approx_kl", "clip_ratio/")  # metrics that are made of rounding errors
EXTRA = f"""
trainer:
  accelerator: cpu
  max_steps: {STEPS}
  max_epochs: -1
  val_check_interval: 4
  enable_progress_bar: false
  callbacks:
    - class_path: masa_lightning.CalibrationPlots
    - class_path: masa_lightning.RolloutTable
    - class_path: masa_lightning.ExpertSFT
      init_args: {{batch_size: 2, learning_rate: 1.0e-4}}
    - class_path: masa_lightning.PredictiveGating
      init_args: {{start_step: 1, max_std: 0.2, margin: 0.3, audit_share: 0.3}}
    - class_path: masa_lightning.EarlyCutoff
      init_args: {{start_step: 1, factor: 1.5}}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: checkpoints, every_n_train_steps: 1, monitor: step, mode: max, save_top_k: 2, save_last: link}}
model:
  init_args:
    meta: {{min_expert_reward: 0.0}}
    num_generations: 4
    num_meta_generations: 4
    optimization: {{num_mini_batches: 2}}
    max_completion_length: 48
    max_meta_length: 48
    evaluation: {{num_generations: 2, num_meta_generations: 2}}
data:
  init_args: {{batch_size: 4, train_size: 24, validation_size: 6, val_batch_size: 6}}
"""
TWO = ("--trainer.devices", "2", "--data.init_args.batch_size", "2", "--data.init_args.val_batch_size", "3")
FSDP2 = ("--trainer.strategy", "lightning.pytorch.strategies.ModelParallelStrategy")
FSDP2 += ("--trainer.strategy.tensor_parallel_size", "1", "--trainer.strategy.data_parallel_size")
TENSOR_PARALLEL = ("--model.init_args.sampler", "masa_lightning.VLLMSampler")
TENSOR_PARALLEL += ("--model.init_args.sampler.init_args.tensor_parallel_size", "2")
LORA = ("--model.init_args.lora.rank", "8")
LAYOUTS = {
    "one": (),
    "one lora": LORA,
    "ddp": (*TWO, "--trainer.strategy", "ddp"),
    "ddp lora": (*TWO, "--trainer.strategy", "ddp", *LORA),
    "fsdp2": (*TWO, *FSDP2, "2"),
    "fsdp2 lora": (*TWO, *FSDP2, "2", *LORA),
    "fsdp2 bf16": (*TWO, *FSDP2, "2", "--trainer.precision", "bf16-mixed"),
    "tensor parallel": (*TWO, *FSDP2, "2", *TENSOR_PARALLEL),
}
slow = pytest.mark.slow
every_layout = pytest.mark.parametrize(
    "layout", [name if name == "fsdp2" else pytest.param(name, marks=slow) for name in LAYOUTS if name[:3] != "one"]
)
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


def start(folder: Path, *arguments: str, command: str = "fit") -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "extra.yaml").write_text(EXTRA)
    module = [sys.executable, "-m", "masa_lightning.cli", command]
    configs = ["--config", str(TINY_YAML), "--config", "extra.yaml"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*module, *configs, *arguments], cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def end_all(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(folder: Path, *arguments: str, command: str = "fit") -> Path:
    process = start(folder, *arguments, command=command)
    try:
        code = process.wait(timeout=1500)
    except BaseException:
        end_all(process)
        raise
    assert code == 0, (folder / "log").read_text()[-4000:]
    return folder


def run_command(folder: Path, *words: str, code: int = 0) -> str:
    """What a command prints, typed in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "masa_lightning.cli", *words],
        cwd=folder,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == code, done.stdout[-4000:]
    return done.stdout


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 600
    while not there():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-4000:]
        time.sleep(0.01)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Those of a checkpoint, a file or a folder of shards."""
    if checkpoint.is_file():
        return torch.load(checkpoint, weights_only=True)["state_dict"]
    shapes = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    found = {name: torch.empty(m.size) for name, m in shapes.items() if name.startswith("state_dict.")}
    load(found, checkpoint_id=checkpoint, no_dist=True)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished run of a layout, made once."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def get(layout: str) -> Path:
        made = folder / layout.replace(" ", "-")
        return made if made.exists() else finish(made, *LAYOUTS[layout])

    return get


def assert_alike(got: Path, expected: Path, steps: range, tolerance: float = 1e-3) -> None:
    ours, theirs = stream(got), stream(expected)
    assert {name for name, _ in ours} == {name for name, _ in theirs}
    compared = 0
    for (name, step), values in theirs.items():
        if step in steps and not name.startswith(ROUNDING):
            assert list(ours[name, step]) == pytest.approx(list(values), rel=tolerance, abs=tolerance), (name, step)
            compared += 1
    assert compared > 50


@every_layout
def test_trains_as_one_process(undisturbed: Callable[[str], Path], layout: str) -> None:
    two = undisturbed(layout)
    log = (two / "log").read_text()
    assert "another process" not in log
    assert max(stream(two)["tokens_total/sft", STEPS]) > 0
    pictures, rollouts = (
        list((two / "runs/tiny/pictures").iterdir()),
        (two / "runs/tiny/train_rollouts.jsonl").read_text(),
    )
    assert len(pictures) == len({path.name for path in pictures}) > 0
    assert len(rollouts.splitlines()) == len(set(rollouts.splitlines())) > 0
    if layout != "fsdp2 bf16":  # rounding changes tokens there
        assert_alike(two, undisturbed("one lora" if "lora" in layout else "one"), range(1, 3))


# In one process: tests/test_resume.py; shards that are resumed: tests/callbacks/test_expert_sft_processes.py.
@slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name[:3] != "one"])
def test_killed_and_resumed(undisturbed: Callable[[str], Path], tmp_path: Path, layout: str) -> None:
    killed = tmp_path / "killed"
    process = start(killed, *LAYOUTS[layout])
    wait_for((killed / LAST).exists, process, killed)
    end_all(process)
    assert 0 < len(list((killed / "checkpoints").glob("epoch*"))) < STEPS
    finish(killed, *LAYOUTS[layout], "--ckpt_path", "last")
    expected, got = (weights(folder / LAST) for folder in (undisturbed(layout), killed))
    assert expected.keys() == got.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, got[name]), name
    assert {len(values) for values in stream(killed).values()} == {1}
    assert stream(killed) == stream(undisturbed(layout))


@slow  # what is exported: tests/test_export.py
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name[:3] != "one"])
def test_exported_and_served(undisturbed: Callable[[str], Path], tmp_path: Path, layout: str) -> None:
    """The last validation of training, repeated on the exported model by a fresh engine."""
    trained = undisturbed(layout)
    export_checkpoint(trained / LAST, tmp_path / "model")
    config = json.dumps({"model": {"init_args": {"model": str(tmp_path / "model")}}})
    served = finish(tmp_path / "served", "--config", config, command="validate")
    metrics, expected = stream(served), stream(trained)
    last = max(step for name, step in expected if name == "val/pass@1")
    names = {name for name, _ in metrics if name.startswith("val/")}
    assert "val/calibration/pass_rate/mae" in names
    tolerance = 0.5 if "bf16" in layout else 1e-3
    for name in names:
        assert list(metrics[name, 0]) == pytest.approx(list(expected[name, last]), rel=tolerance, abs=tolerance), name


OWN = """
from extra_loss import Near

class Far(Near):  # with a loss that is more than rounding
    def extra_loss(self, logp, batch):
        return super().extra_loss(logp, batch) + 0.1 * logp.square()
"""
EMA = ("--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay", "0.5")
EXAMPLES = {"extra_loss": ("--model", "own.Far"), "ema": EMA}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("example", "layout"),
    [("extra_loss", "ddp"), ("extra_loss", "fsdp2"), ("ema", "ddp")],  # EMA refuses shards
)
def test_examples_train_as_one_process_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str, layout: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    paths = [str(tmp_path), str(TINY_YAML.parents[1] / "examples"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    one, two, halves = (tmp_path / name for name in ("one", "two", "halves"))
    words = EXAMPLES[example]
    finish(one, *words)
    finish(two, *LAYOUTS[layout], *words)
    assert_alike(two, one, range(1, 3))
    finish(halves, *LAYOUTS[layout], *words, "--trainer.max_steps", "2")
    finish(halves, *LAYOUTS[layout], *words, "--ckpt_path", "last")
    resumed = stream(halves)  # has a closing validation of its first half besides
    assert all(resumed[key] == values for key, values in stream(two).items() if key[0] != "epoch")
    expected, got = (weights(folder / LAST) for folder in (two, halves))
    assert all(torch.equal(weight, got[name]) for name, weight in expected.items())
    if example == "extra_loss":
        assert max(stream(one)["extra_loss", 2]) > 0.01
        assert {name for name, _ in stream(two)} >= {"extra_loss", "agree"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_of_shards_is_measured_from_its_folder(undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    """By two processes, and by one that reads the shards whole: the same predictions and metrics."""
    run = Path(shutil.copytree(undisturbed("fsdp2"), tmp_path / "run", symlinks=True))
    assert (run / LAST).is_symlink()
    (run / "checkpoints").rename(run / "runs/tiny/checkpoints")  # where they are by default
    (run / "problems.txt").write_text("Compute 354 mod 7.\nCompute 46*7.\n")
    found: dict[str, list[str]] = {}
    for name, words in {"two": (), "one": ("--trainer.devices", "1")}.items():
        run_command(run, "predict", "--ckpt_path", "runs/tiny", "--problems", "problems.txt", "--solve", *words)
        found[name] = (run / "runs/predict/predictions.jsonl").read_text().splitlines()
    few = ("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1")
    assert "pass rate" in run_command(run, "validate", "--ckpt_path", "runs/tiny", *few)
    assert "pass@1" in run_command(run, "test", "--ckpt_path", "runs/tiny", "--trainer.devices", "1", *few)
    assert [json.loads(line) for line in found["one"]] == [json.loads(line) for line in found["two"]]
    assert len(found["two"]) == 2
    run_command(run, "export", "runs/tiny", "exported")
    run_command(run, "report", "runs/tiny")
    assert (run / "runs/tiny/report.html").stat().st_size > 50_000
    whole = MASALightningModule.load_from_checkpoint(run / "runs/tiny" / LAST).state_dict()
    kept = weights(run / "runs/tiny" / LAST)
    assert kept.keys() == {f"state_dict.{name}" for name in whole}
    assert all(torch.equal(whole[name.removeprefix("state_dict.")], weight) for name, weight in kept.items())
    sampler = ("--model.init_args.sampler", "masa_lightning.TransformersSampler")
    said = run_command(run, "predict", "--ckpt_path", "runs/tiny", "--problem", "1+1", *sampler, code=1)
    assert "the policy's weights are spread over processes (FSDP2)" in said
    said = run_command(run, "fit", "--config", str(TINY_YAML), "--ckpt_path", f"runs/tiny/{LAST}", code=1)
    assert "is a folder of shards, which ModelParallelStrategy (FSDP2) wrote, and this run has another strategy" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [("ddp", ()), ("fsdp2", (*FSDP2, "1", "--trainer.devices", "1")), ("one", LAYOUTS["ddp"])]
)
def test_resumed_by_another_number_of_processes(
    undisturbed: Callable[[str], Path], tmp_path: Path, before: str, after: tuple[str, ...]
) -> None:
    """With the same global batch all goes on, up to rounding, as if nothing had changed."""
    folder = tmp_path / "moved"
    finish(folder, *LAYOUTS[before], "--trainer.max_steps", str(STEPS // 2))
    finish(folder, *after, "--ckpt_path", "last")
    assert "differs from that of the checkpoint" not in (folder / "log").read_text()
    assert_alike(folder, undisturbed(before), range(1, STEPS), tolerance=1e-2)


@slow  # without the command: tests/test_distributed.py and tests/modules/test_termination.py
@pytest.mark.parametrize("victim", ["second", "first"])
@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_the_death_of_a_process_ends_the_job(tmp_path: Path, layout: str, victim: str) -> None:
    process = start(tmp_path, *LAYOUTS[layout], "--trainer.max_steps", "10000")
    try:
        wait_for((tmp_path / LAST).exists, process, tmp_path)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        second = next(int(pid) for pid in children if b"masa_lightning" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(process.pid if victim == "first" else second, signal.SIGKILL)
        survivor = second if victim == "first" else process.pid
        deadline = time.monotonic() + 600
        while process.poll() is None or Path(f"/proc/{survivor}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert process.returncode != 0
        assert (tmp_path / "log").read_text().count("another process of this run has ended") == 1
    finally:
        end_all(process)


WRITER = """
import os, signal
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint import FileSystemWriter

class Killer(Callback):
    '''Ends the process when shards of the third checkpoint are written and it is not yet complete.'''

    def on_fit_start(self, trainer, pl_module):
        finish, self.left = FileSystemWriter.finish, 3

        def stop(*args, **kwargs):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return finish(*args, **kwargs)

        FileSystemWriter.finish = stop
"""


@pytest.mark.slow
def test_killed_while_shards_are_written(undisturbed: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(WRITER)
    process = start(tmp_path, *LAYOUTS["fsdp2"], "--trainer.callbacks+", "killer.Killer")
    assert process.wait(timeout=300) == -signal.SIGKILL, (tmp_path / "log").read_text()[-4000:]
    with pytest.raises(ProcessLookupError):  # the other process has ended too, or does now
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    folders = sorted((tmp_path / "checkpoints").glob("epoch*"))
    assert [(folder / ".metadata").exists() for folder in folders] == [True, True]
    (unfinished,) = (tmp_path / "checkpoints").glob(".*.unfinished")
    finish(tmp_path, *LAYOUTS["fsdp2"], "--ckpt_path", "last")
    assert not unfinished.exists()
    expected, got = (weights(folder / LAST) for folder in (undisturbed("fsdp2"), tmp_path))
    assert all(torch.equal(weight, got[name]) for name, weight in expected.items())
