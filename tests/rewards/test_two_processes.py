"""With two processes each calls reward functions on its part, and what they log are means over both."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import two_processes
from training_loop import Loop, Problems

from masa_lightning.modules.grpo import GRPOLightningModule


async def judge(problem: Any, completion: str, log_metric: Any) -> float:
    log_metric("letters", len(completion))
    if problem.id == "train-0":  # in one of the processes
        log_metric("first", 1.0)
    return float(len(completion))


def batch(completions: list[str], log_metric: Any) -> list[float]:
    log_metric("part", len(completions))
    return [0.0] * len(completions)


def train(checkpoint: Path, processes: int, **trainer: Any) -> dict[str, float]:
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    module = loop.scripted(
        loop.boxes(7, 77, 777), GRPOLightningModule, grader=loop.Grades(), reward_functions=[judge, batch]
    )
    recorder = loop.fit(module, Problems(4, batch_size=4 // processes), devices=processes, **trainer)
    return {name: value for name, value in recorder.metrics[0].items() if name.startswith("rewards/")}


def _work(rank: int, folder: Path, checkpoint: Path) -> None:
    got = train(checkpoint, 2, strategy=two_processes.strategy("ddp"))
    (folder / f"{rank}.json").write_text(json.dumps(got))


def test_two_processes_log_as_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    two_processes.run(_work, tmp_path, tiny_checkpoint)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    with warnings.catch_warnings():
        alone = train(tiny_checkpoint, 1)
    assert alone == {
        "rewards/correct/mean": 0.0,
        "rewards/judge/mean": 10.0,  # of \boxed{7} to \boxed{777}
        "rewards/judge/letters": 10.0,
        "rewards/judge/first": 1.0,
        "rewards/batch/mean": 0.0,
        "rewards/batch/part": 12.0,
    }
    assert first.pop("rewards/batch/part") == 6.0  # of each process
    alone.pop("rewards/batch/part")
    assert first == alone
