"""Reward functions in a YAML, by the real command: functions and classes by path, without annotations, async ones too."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from masa_lightning import cli

OWN = """
import asyncio

def brief(problem, completions):
    return [1.0 / (1 + len(text)) for text in completions]

async def judge(problem, completion, length, log_metric):
    await asyncio.sleep(0)
    log_metric("tokens", length)
    return 0.25

class Scaled:
    def __init__(self, scale: float):
        self.scale = scale

    def __call__(self, lengths):
        return [self.scale * n for n in lengths]

def strange(problem, completions, answer):
    return [0.0 for _ in completions]
"""


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    rows = [{"problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield
    sys.modules.pop("own", None)


def config(checkpoint: Path, functions: list[Any], **trainer: Any) -> list[str]:
    settings = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "x", "version": ""}},
            **trainer,
        },
        "model": {
            "class_path": "masa_lightning.GRPOLightningModule",
            "init_args": {
                "model": str(checkpoint),
                "sampler": {"class_path": "masa_lightning.TransformersSampler"},
                "prompts": {"solution": "S:{problem}", "meta": "M:{problem}"},
                "num_generations": 2,
                "max_prompt_length": 64,
                "max_completion_length": 6,
                "evaluation": {"num_generations": 2},
                "reward_functions": functions,
                "reward_weights": [0.5] * len(functions),
            },
        },
        "data": {
            "class_path": "masa_lightning.MathDataModule",
            "init_args": {"train": "train.jsonl", "validation_size": 2, "batch_size": 2, "val_batch_size": 2},
        },
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", "run.yaml"]


def logged(name: str) -> list[float]:
    """The values of a metric, in the order in which they were logged."""
    with Path("runs/x/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


FUNCTIONS = [
    "own.brief",
    {
        "class_path": "masa_lightning.RemoteReward",
        "init_args": {"function": "own.judge", "timeout": 60, "on_failure": 0.0},
    },
    {"class_path": "own.Scaled", "init_args": {"scale": 0.1}},
]


def test_rewards_by_path(tiny_checkpoint: Path) -> None:
    fitted = cli.main(["fit", *config(tiny_checkpoint, FUNCTIONS, val_check_interval=1)])
    assert [*fitted.model.scorer.functions] == ["brief", "judge", "Scaled"]
    lengths = logged("completions/mean_length")
    assert len(lengths) == 2
    for stage, mean in (("", lengths), ("val/", logged("val/completions/mean_length"))):
        assert logged(f"{stage}rewards/judge/mean") == [0.25] * len(mean)
        assert logged(f"{stage}rewards/Scaled/mean") == pytest.approx([0.1 * n for n in mean])
        assert logged(f"{stage}rewards/judge/tokens") == pytest.approx(mean)  # what it logged itself
        assert logged(f"{stage}rewards/judge/failed_ratio") == [0.0] * len(mean)
    correct, brief = logged("pass_rate"), logged("rewards/brief/mean")
    total = [c + 0.5 * (b + 0.25 + 0.1 * n) for c, b, n in zip(correct, brief, lengths, strict=True)]
    assert logged("reward") == pytest.approx(total)
    for name in ("brief", "judge", "Scaled"):
        assert all(seconds > 0 for seconds in logged(f"timing_s/rewards/{name}"))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            {"class_path": "masa_lightning.RemoteReward", "init_args": {"function": "own.strange"}},
            "the reward function 'strange' requires 'answer'",
        ),
        (
            "own.strange",
            "the reward function 'strange' requires 'answer', and is called for all completions of one problem",
        ),
        ("own.missing", "model.reward_functions: "),
        ({"class_path": "own.Scaled", "init_args": {"scale": "much"}}, "model.reward_functions"),
    ],
)
def test_what_is_refused(tiny_checkpoint: Path, function: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, TypeError)) as raised:
        cli.main(["fit", *config(tiny_checkpoint, [function])])
    assert said in capsys.readouterr().err + str(raised.value)
