"""BenchmarkReport in two trainer processes: the files of one, also after a kill in the middle."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import two_processes
from training_loop import Loop

from masa_lightning import BenchmarkReport, Evaluation, VLLMSampler
from masa_lightning.types import Problem


def test(checkpoint: Path, folder: Path, vllm: bool, end: int = 0, **settings: Any) -> None:
    """Draws with a real sampler; `end` is the batch that is not reached."""
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    module = loop.module(
        evaluation=Evaluation(num_generations=3, num_meta_generations=2),
        **({"sampler": VLLMSampler(kv_cache_gib=0.25)} if vllm else {}),
    )
    given = [Problem(id=n, problem=n, answer="2", source="one" if n in "abc" else "two") for n in "abcdefg"]
    limit = {"limit_test_batches": end} if end else {}
    trainer = loop.trainer(BenchmarkReport(str(folder)), **settings, **limit)
    data = loop.Problems(0, validation=given)
    data.val_batch_size = 2 // trainer.world_size
    trainer.test(module, data, verbose=False)


test.__test__ = False  # type: ignore[attr-defined]


def _work(rank: int, checkpoint: Path, folder: Path, strategy: str) -> None:
    for name, end in (("two", 0), ("resumed", 2), ("resumed", 0)):
        test(checkpoint, folder / name, strategy == "fsdp2", end, strategy=two_processes.strategy(strategy), devices=2)


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())["benchmarks"]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_report_as_one(tiny_checkpoint: Path, tmp_path: Path, strategy: str) -> None:
    if strategy == "fsdp2":
        pytest.importorskip("vllm")  # the only sampler of weights that are spread over processes
        tiny_checkpoint = Path("tiny")  # one that it takes
    two_processes.run(_work, tiny_checkpoint, tmp_path, strategy)
    test(tiny_checkpoint, tmp_path / "one", strategy == "fsdp2")
    one, two, resumed = (tmp_path / name / "rollouts.jsonl" for name in ("one", "two", "resumed"))
    assert len(one.read_text().splitlines()) == 7 * 5
    assert two.read_text() == one.read_text()
    assert resumed.read_text() == one.read_text()
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert results(tmp_path / "resumed") == results(tmp_path / "one")
    if strategy == "ddp":  # one process goes on where two were
        test(tiny_checkpoint, tmp_path / "resumed", vllm=False)
        assert resumed.read_text() == one.read_text()
