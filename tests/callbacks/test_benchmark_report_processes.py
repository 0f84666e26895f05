"""Test and predict in two trainer processes: the files of one, also after a kill, and each text in one process alone."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import two_processes
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from training_loop import Loop

from masa_lightning import BenchmarkReport, EarlyCutoff, Evaluation, PredictionWriter, RolloutTable, VLLMSampler
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
    holders = Holders()
    trainer = loop.trainer(
        BenchmarkReport(str(folder)), RolloutTable(), holders, default_root_dir=folder, **settings, **limit
    )
    data = loop.Problems(0, validation=given)
    data.val_batch_size = 2 // trainer.world_size
    trainer.test(module, data, verbose=False)
    assert holders.seen == ({None} if trainer.world_size == 1 else {0, 1})


class Holders(Callback):
    """Sees that texts of a problem are in its holder alone."""

    def __init__(self) -> None:
        self.seen: set[int | None] = set()

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        for rollout in (r for g in outputs["groups"] for r in g.rollouts):
            assert rollout.is_here is (rollout.holder in (None, trainer.global_rank))
            self.seen.add(rollout.holder)


def predict(checkpoint: Path, folder: Path, processes: int) -> None:
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    for solve in (False, True):
        module = loop.module(evaluation=Evaluation(num_generations=3, num_meta_generations=2, solve=solve))
        given = [Problem(id=n, problem=n, answer="2") for n in "abcd"]
        cutoff = EarlyCutoff(factor=1.0)
        settings = {"strategy": two_processes.strategy("ddp"), "devices": 2} if processes == 2 else {}
        trainer = loop.trainer(PredictionWriter(str(folder / str(solve))), cutoff, **settings)
        trainer.predict(module, DataLoader(given, batch_size=4 // trainer.world_size, collate_fn=list))


test.__test__ = False  # type: ignore[attr-defined]


def _work(rank: int, checkpoint: Path, folder: Path, strategy: str) -> None:
    for name, end in (("two", 0), ("resumed", 2), ("resumed", 0)):
        test(checkpoint, folder / name, strategy == "fsdp2", end, strategy=two_processes.strategy(strategy), devices=2)
    if strategy == "ddp":
        predict(checkpoint, folder / "predicted", 2)


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
    shown = [sorted((tmp_path / name).rglob("test_step*.jsonl")) for name in ("one", "two", "resumed")]
    assert [len(files) for files in shown] == [1, 1, 1]
    assert len({files[0].read_text() for files in shown}) == 1
    if strategy == "ddp":  # one process goes on where two were
        predict(tiny_checkpoint, tmp_path / "alone", 1)
        for name in ("False/predictions.jsonl", "True/predictions.jsonl", "True/summary.json"):
            assert (tmp_path / "predicted" / name).read_text() == (tmp_path / "alone" / name).read_text() != ""
        test(tiny_checkpoint, tmp_path / "resumed", vllm=False)
        assert resumed.read_text() == one.read_text()
