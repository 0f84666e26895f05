"""`masa test` and `masa predict` as they are called, on the real engine: kills, two kinds of answers, a text file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from masa_lightning.data.arithmetic import ArithmeticDataModule

pytest.importorskip("vllm")

CONFIGS = Path(__file__).parents[1] / "configs"
LOCAL = CONFIGS / "eval" / "local.yaml"
MODEL = {
    "init_args": {
        "model": "tiny",
        "dtype": "float32",
        "prompts": {"solution": "{problem} Solve.", "choice": "{problem} Solve.", "meta": "{problem} Predict."},
        "max_prompt_length": 64,
        "max_completion_length": 128,
        "max_meta_length": 48,
        "evaluation": {"num_generations": 4, "num_meta_generations": 2, "pass_at": [4], "temperature": 1.0},
    }
}


def sums(count: int) -> list[dict[str, str]]:
    data = ArithmeticDataModule(test_size=count)
    data.setup("test")
    return [{"problem": p.problem, "answer": p.answer} for p in data.splits["test"]]


def write(folder: Path) -> None:
    """Problems in the shapes of two benchmarks and of a text file, and settings for the embedded model."""
    problems = sums(24)
    folder.mkdir(exist_ok=True)
    (folder / "asdiv.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems[:16]))
    choices = [
        {
            "id": str(i),
            "context": "",
            "question": row["problem"],
            "options": ["A) never", f"B) {row['answer']}"],
            "answer": "B",
        }
        for i, row in enumerate(problems[16:])
    ]
    (folder / "folio.json").write_text(json.dumps(choices))
    (folder / "problems.txt").write_text("".join(row["problem"] + "\n" for row in problems))
    data: dict[str, Any] = {
        "init_args": {
            "benchmarks": ["asdiv", "folio"],
            "sources": {"asdiv": "asdiv.jsonl", "folio": "folio.json"},
            "max_problems": None,
            "val_batch_size": 4,
        }
    }
    (folder / "test.yaml").write_text(yaml.safe_dump({"model": MODEL, "data": data}))
    (folder / "predict.yaml").write_text(yaml.safe_dump({"model": MODEL}))


def start(folder: Path, command: str, config: Path, *arguments: str) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        "-m",
        "masa_lightning.cli",
        command,
        "--config",
        str(config),
        "--config",
        f"{command}.yaml",
    ]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([*words, *arguments], cwd=folder, stdout=log, stderr=log, env=dict(os.environ))


def finish(folder: Path, command: str, config: Path, *arguments: str) -> str:
    code = start(folder, command, config, *arguments).wait(timeout=250)
    log = (folder / "log").read_text()
    assert code == 0, log[-4000:]
    return log


def rollouts(folder: Path) -> list[str]:
    return (folder / "runs/eval_local/rollouts.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `masa test`."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    assert "asdiv" in finish(folder, "test", LOCAL)
    return folder


def results_of(folder: Path) -> Any:
    return json.loads((folder / "runs/eval_local/results.json").read_text())


@pytest.mark.timeout(600)
def test_benchmarks_of_two_kinds_of_answers(whole: Path) -> None:
    results = results_of(whole)
    assert [(b["name"], b["problems"]) for b in results["benchmarks"]] == [("asdiv", 16), ("folio", 8)]
    right_and_wrong = {line["correct"] for line in map(json.loads, rollouts(whole)) if line["kind"] == "solution"}
    assert right_and_wrong == {True, False}
    assert results["benchmarks"][1]["metrics"]["pass@4"] > 0  # the text of the right option in the box
    assert len(rollouts(whole)) == 24 * 6


@pytest.mark.slow  # without the command: tests/callbacks/test_benchmark_report.py
@pytest.mark.timeout(600)
def test_a_killed_test_goes_on_where_it_was(whole: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    write(killed)
    process = start(killed, "test", LOCAL)
    deadline = time.monotonic() + 250
    file = killed / "runs/eval_local/rollouts.jsonl"
    while not file.exists() or not file.stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline, (killed / "log").read_text()[-4000:]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [line for line in rollouts(killed) if line.endswith("}")]
    assert len(before) < len(rollouts(whole))
    finish(killed, "test", LOCAL)
    assert sorted(rollouts(killed)) == sorted(rollouts(whole))
    assert rollouts(killed)[: len(before) // 6 * 6] == before[: len(before) // 6 * 6]
    assert results_of(killed) == results_of(whole)


@pytest.mark.timeout(600)
def test_predict_and_solve_a_text_file(tmp_path: Path) -> None:
    write(tmp_path)
    arguments = ["--data.init_args.predict", "problems.txt", "--data.init_args.val_batch_size", "16", "--solve"]
    log = finish(tmp_path, "predict", CONFIGS / "predict.yaml", *arguments)
    assert "with controls" in log
    lines = [json.loads(line) for line in (tmp_path / "runs/predict/predictions.jsonl").read_text().splitlines()]
    assert [line["problem"] for line in lines] == (tmp_path / "problems.txt").read_text().splitlines()
    assert any(line["pass_rate"]["mean"] is not None for line in lines)
    assert all(line["plain"]["samples"] == 4 and line["plain"]["correct"] is None for line in lines)
    assert any(line["solved"]["token_limit"] for line in lines)
    summary = json.loads((tmp_path / "runs/predict/summary.json").read_text())
    assert summary["problems"] == 24
    assert summary["solved"]["tokens"] == sum(line["solved"]["tokens"] for line in lines)
