"""The reproduction kit: its configurations differ in the method alone, and its page's commands run on the embedded model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from masa_lightning import cli
from masa_lightning.cli import configs
from masa_lightning.data.arithmetic import ArithmeticDataModule

PAGE = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text()
METHODS = ("grpo", "masa", "efficient")


def printed(capsys: pytest.CaptureFixture[str], *layers: str) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        cli.main(["fit", *(word for layer in layers for word in ("--config", layer)), "--print_config"])
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings


def without_name(settings: dict[str, Any]) -> dict[str, Any]:
    logger = settings["trainer"]["logger"]["init_args"]
    logger.pop("name"), logger.pop("save_dir")
    return settings


def test_the_kit_has_a_configuration_a_method() -> None:
    assert {name for name in configs.names() if name.startswith("paper/")} == {f"paper/{m}" for m in METHODS}


def test_methods_are_those_of_masa_and_differ_in_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    of_kit = {method: printed(capsys, "masa", f"paper/{method}") for method in METHODS}
    for method, settings in of_kit.items():
        logger = settings["trainer"]["logger"]["init_args"]
        assert (logger["save_dir"], logger["name"]) == ("runs/paper", method)
    kit = {method: without_name(settings) for method, settings in of_kit.items()}
    assert kit["masa"] == without_name(printed(capsys, "masa"))
    assert kit["grpo"] == without_name(printed(capsys, "masa", "with/grpo")) != kit["masa"]
    ours = without_name(printed(capsys, "masa", "with/efficient"))
    assert ours["model"]["init_args"]["num_acting_meta_generations"] == 4  # the paper draws as many as before
    ours["model"]["init_args"]["num_acting_meta_generations"] = None
    (hints,) = (c for c in ours["trainer"]["callbacks"] if c["class_path"] == "masa_lightning.NotionHinting")
    assert hints["init_args"]["min_agreement"] == 0.5  # the paper's hints are whatever was predicted
    hints["init_args"]["min_agreement"] = 0.0
    assert kit["efficient"] == ours != kit["masa"]
    assert kit["grpo"]["model"]["init_args"].pop("num_meta_generations") == 0
    assert kit["masa"]["model"]["init_args"].pop("num_meta_generations") == 16
    assert kit["grpo"] == kit["masa"]
    kit["efficient"]["model"]["init_args"].pop("num_meta_generations")
    callbacks = kit["efficient"]["trainer"].pop("callbacks")
    shared = kit["masa"]["trainer"].pop("callbacks")
    assert callbacks[: len(shared)] == shared
    assert [c["class_path"].rpartition(".")[2] for c in callbacks[len(shared) :]] == [
        "ExpertSFT", "PredictiveGating", "EarlyCutoff", "NotionHinting",
    ]  # fmt: skip
    assert kit["efficient"] == kit["masa"]


def test_sums_of_the_page() -> None:
    """From what the configurations say, so that a change of theirs is a change of the page."""
    settings = yaml.safe_load((configs.FOLDER / "masa.yaml").read_text())
    model, data = settings["model"]["init_args"], settings["data"]["init_args"]
    solutions = data["batch_size"] * model["num_generations"] * 2000
    predictions = data["batch_size"] * model["num_meta_generations"] * 700
    assert f"{solutions:,}, and" in PAGE and f"{predictions:,} of predictions: {solutions + predictions:,}." in PAGE
    assert f"All of them take {settings['trainer']['max_steps']} steps of {8 * data['batch_size']} problems" in PAGE
    assert f"{model['max_completion_length']:,} x 4.9 ms" in PAGE
    evaluation = model["evaluation"]
    validation = data["validation_size"] // 8 * evaluation["num_generations"] * 2700
    assert evaluation["num_generations"] == evaluation["num_meta_generations"]
    assert f"{validation:,} tokens" in PAGE
    validations = settings["trainer"]["max_steps"] // settings["trainer"]["val_check_interval"] + 1
    assert f"| {validations} validations:" in PAGE
    for column in (1, 2):
        cells = {row[0]: row[column] for row in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)}
        parts = ("generation: tokens / rate + the longest", "update", "grading, hand-over, exchange (a guess)")
        found = [[int(n) for n in re.findall(r"(?<![\d,])(\d+)(?= to|$|\*)", cells[part])] for part in parts]
        step = [int(n) for n in re.findall(r"\d+", cells["**a step**"])]
        assert [sum(ends) for ends in zip(*found, strict=True)] == step
        (each,) = (cell for name, cell in cells.items() if name.startswith(f"{validations} validations"))
        hours = [int(n) for n in re.findall(r"\d+", cells["**400 steps and validations, hours**"])]
        for seconds, pause, whole in zip(step, re.findall(r"\d+", each), hours, strict=True):
            assert abs((400 * seconds + validations * int(pause)) / 3600 - whole) <= 0.6
    for tokens, rate, longest, seconds in re.findall(r"([\d,]+) / ([\d,]+) \+ (\d+) = (\d+)", PAGE):
        number = float(tokens.replace(",", "")) / float(rate.replace(",", "")) + float(longest)
        assert abs(number - float(seconds)) <= 1.5


def test_metrics_that_are_to_be_watched_are_logged() -> None:
    """By their page, which a test compares with a real run."""
    known = set(re.findall(r"^\| `([^` ]+)` \|", (Path(__file__).parents[1] / "docs/metrics.md").read_text(), re.M))
    table = PAGE.partition("## What to watch")[2].partition("\n## ")[0]
    first = " ".join(re.findall(r"^\| (`.*?) \|", table, re.M))
    named = {name.removeprefix("val/") for name in re.findall("`([^`]+)`", first)}
    assert len(named) > 12
    assert named <= known


# -- the rehearsal -------------------------------------------------------------------------------------------------------

SIZE: dict[str, Any] = {
    "trainer": {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true"},
    "model": {
        "init_args": {
            "dtype": "float32",
            "sampler": {"init_args": {"dtype": None, "gpu_memory_utilization": 0.1, "enable_sleep_mode": False}},
            "max_prompt_length": 128,
            "max_completion_length": 64,
        }
    },
}
TRAINING: dict[str, Any] = {
    "trainer": {
        "max_steps": 2,
        "val_check_interval": 2,
    },
    "model": {
        "init_args": {
            "model": "tiny",
            "num_generations": 4,
            "num_meta_generations": 4,
            "optimization": {"max_tokens_per_micro_batch": 2048, "optimizer": {"init_args": {"lr": 2e-4}}},
        }
    },
    "data": {"init_args": {"train": "sums.jsonl", "validation_size": 8, "batch_size": 4}},
}
MEASUREMENT: dict[str, Any] = {
    "model": {"init_args": {"evaluation": {"num_generations": 4, "pass_at": [4]}}},
    "data": {
        "init_args": {
            "benchmarks": ["math500", "gsm8k"],
            "sources": {"math500": "sums.jsonl", "gsm8k": "sums.jsonl"},
            "max_problems": 6,
        }
    },
}
# The command, smaller: overlays come behind all that the page says, and another model takes the place of the 8B one.
MASA = f"""#!/bin/bash
echo "masa $*" >> commands
words=("${{@/#Qwen\\/Qwen3-8B-Base/tiny}}")
case "$*" in
  "fit "*" paper/grpo "*) words+=(--config size.yaml --config fit.yaml --model.init_args.num_meta_generations 0) ;;
  "fit "*) words+=(--config size.yaml --config fit.yaml) ;;
  "test "*) words+=(--config size.yaml --config test.yaml) ;;
esac
exec {sys.executable} -m masa_lightning.cli "${{words[@]}}"
"""


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def run(script: str, folder: Path) -> str:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=2400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_pages_commands_run_from_the_first_step_to_what_is_sent_back(tmp_path: Path) -> None:
    """All but the size is as on the page: two seeds, two steps, the embedded model, sums in place of benchmarks."""
    pytest.importorskip("vllm")
    data = ArithmeticDataModule(train_size=40)
    data.setup("fit")
    rows = [{"problem": p.problem, "answer": p.answer} for p in data.splits["train"]]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, overlay in (("size", SIZE), ("fit", TRAINING), ("test", MEASUREMENT)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "masa").write_text(MASA)
    (tmp_path / "bin" / "masa").chmod(0o755)
    # What no overlay reaches, in lists of callbacks: a file in the folder wins over the shipped configuration of its name.
    (tmp_path / "paper").mkdir()
    for name, small in (
        ("masa", {"every_n_train_steps: 20,": "every_n_train_steps: 2,"}),
        ("paper/efficient", {"start_step: 80": "start_step: 1", "batch_size: 64": "batch_size: 1"}),
    ):
        text = (configs.FOLDER / f"{name}.yaml").read_text()
        for before, after in small.items():
            assert before in text
            text = text.replace(before, after)
        (tmp_path / name).write_text(text)

    trial, loop, report, send = blocks()
    run(trial.replace("max_steps 10", "max_steps 2"), tmp_path)
    assert (tmp_path / "runs/paper/trial/config.yaml").is_file()
    shutil.rmtree(tmp_path / "runs/paper/trial")
    assert "for seed in 0 1 2; do\n" in loop
    run(loop.replace("0 1 2", "0 1"), tmp_path)
    runs = {f"{method}_{seed}" for method in METHODS for seed in (0, 1)}
    assert {path.name for path in (tmp_path / "models").iterdir()} == runs
    assert {path.name for path in (tmp_path / "runs/paper").iterdir()} == runs | {"base"}
    for name in runs:
        folder = tmp_path / "runs/paper" / name
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        assert settings["seed_everything"] == settings["data"]["init_args"]["seed"] == int(name[-1])
        assert (settings["model"]["init_args"]["num_meta_generations"] == 0) == name.startswith("grpo")
        assert not (folder / "checkpoints").exists()
        results = json.loads((folder / "results.json").read_text())["benchmarks"]
        assert [(row["name"], row["problems"]) for row in results] == [("math500", 6), ("gsm8k", 6)]
    run(report, tmp_path)
    page = (tmp_path / "paper.html").read_text()
    assert all(label in page for label in ("grpo_0 (2 seeds)", "masa_0 (2 seeds)", "efficient_0 (2 seeds)"))

    run(send, tmp_path)
    sent = tmp_path / "sent"
    sent.mkdir()
    shutil.unpack_archive(tmp_path / "results.tgz", sent, filter="data")
    names = {path.name for path in sent.rglob("*") if path.is_file()}
    assert {"config.yaml", "test_config.yaml", "settings.json", "results.json", "results.md"} <= names
    assert not any("rollouts" in name or name.endswith((".png", ".ckpt")) for name in names)
    run("cd sent && masa report runs/paper", tmp_path)
    assert "masa_0 (2 seeds)" in (sent / "report.html").read_text()
