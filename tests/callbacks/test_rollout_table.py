"""RolloutTable: which rollouts, safely escaped, in TensorBoard and in train_rollouts.jsonl."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from masa_lightning.callbacks.rollout_table import HEAD, RolloutTable, choose_rollouts, table_rows
from masa_lightning.loggers.media import markdown
from masa_lightning.settings import Evaluation
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning 2.6 on torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

HOSTILE = (
    "| a | b |\n|---|---|\n<script>alert(1)</script> [x](javascript:1) ![i](http://e.vil) "
    "`c` **b** \\| &lt;\r\n\u202e\x00\ud800"
)


def rollout(kind: str, reward: float | None, text: str = "text") -> Rollout:
    prediction = MetaPrediction(pass_rate=4, notions=("ring",), failures={"solution_length": "missing key"})
    return Rollout(
        kind=kind,  # type: ignore[arg-type]
        prompt_ids=[1],
        completion=Completion(token_ids=[1, 2, 3], logprobs=[-1.0] * 3, finish_reason="stop"),
        text=text,
        correct=reward == 1,
        prediction=prediction if kind == "meta" else None,
        rewards={"correct": 1.0} if kind == "solution" else {"length": 0.25, "notion": math.nan},
        reward=reward,
    )


def group(solutions: list[float | None], metas: list[float | None], text: str = "text") -> RolloutGroup:
    return RolloutGroup(
        problem=Problem(id="g", problem=f"What is 1 + 1? {text}", answer="2"),
        solutions=[rollout("solution", r, text) for r in solutions],
        metas=[rollout("meta", r, text) for r in metas],
    )


class Stub(pl.LightningModule):
    """Manual optimisation and a dict of groups, as the package's modules."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.output = output
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        for _ in range(2):  # two optimiser steps a training step
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).sum())
            optimizer.step()
        return self.output

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(path: Path, callback: RolloutTable, output: Any, epochs: int = 1, batches: int = 5) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=path, logger=TensorBoardLogger(path, name="log"), callbacks=[callback], accelerator="cpu",
        max_epochs=epochs, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Stub(output), DataLoader(torch.ones(batches, 1), batch_size=1))  # type: ignore[arg-type]
    return trainer


def test_writes_tables_and_lines(tmp_path: Path) -> None:
    groups = [group([1.0, 0.0, 0.5], [0.3, None], text=HOSTILE)]
    trainer = fit(tmp_path, RolloutTable(every_n_steps=4), {"groups": groups}, epochs=2)
    # Training steps 0, 4 and 8 of 10, over two epochs; two optimiser steps each.
    events = EventAccumulator(trainer.log_dir, size_guidance={"tensors": 0}).Reload()
    texts = events.Tensors("rollouts/text_summary")
    assert [event.step for event in texts] == [2, 10, 18]
    table = texts[0].tensor_proto.string_val[0].decode()
    shown = [block.split("\n\n")[0] for block in table.split("\n\n---\n\n")]
    assert [re.search(r"\*\*kind\*\* (\w+)", line)[1] for line in shown] == ["solution", "solution", "meta", "meta"]
    rewards = [re.search(r"\*\*reward\*\* (\S+)", html.unescape(line))[1] for line in shown]
    assert rewards == ["1", "0", "0.3", "none"]

    rows = [json.loads(line) for line in (Path(trainer.log_dir) / "train_rollouts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2] * 4 + [10] * 4 + [18] * 4
    assert rows[0]["text"] == HOSTILE
    assert [row["kind"] for row in rows[:4]] == ["solution", "solution", "meta", "meta"]
    assert [row["reward"] for row in rows[:4]] == [1.0, 0.0, 0.3, None]
    assert [row["correct"] for row in rows[:4]] == [True, False, None, None]
    assert rows[2]["rewards"] == {"length": 0.25, "notion": "nan"}  # which JSON has no number for
    assert rows[2]["prediction"]["pass_rate"] == 4
    assert rows[2]["prediction"]["failures"] == {"solution_length": "missing key"}
    assert rows[0]["problem_id"] == "g"
    assert rows[0]["group_pass_rate"] == pytest.approx(1 / 3)


def test_tensorboard_shows_the_text_as_text(tmp_path: Path) -> None:
    """Through the very renderer of TensorBoard's text plugin."""
    plugin_util = pytest.importorskip("tensorboard.plugin_util")
    table = markdown(HEAD, table_rows([(g := group([1.0], [], text=HOSTILE), g.solutions[0])]))
    rendered = plugin_util.markdown_to_safe_html(table.encode())
    assert (
        rendered.count("<p>") == 3
    )  # problem and text below all else: no table, whose narrow columns TensorBoard would break
    assert re.findall("<strong>(.*?)</strong>", rendered) == ["kind", "reward", "parts", "tokens", "problem", "text"]
    for tag in ("<table", "<script", "<a", "<img", "<code", "<br", "<hr"):
        assert tag not in rendered
    shown = html.unescape(rendered)
    assert "<script>alert(1)</script> [x](javascript:1) ![i](http://e.vil) `c` **b** \\| &lt;" in shown


def test_long_texts_keep_both_ends() -> None:
    g = group([1.0], [], text="A" * 50 + "B" * 1000 + "C" * 50)
    ((*_, cell),) = table_rows([(g, g.solutions[0])], max_characters=100)
    assert cell == "A" * 50 + " [...] " + "C" * 50


@pytest.mark.parametrize(
    ("solutions", "metas", "rows", "expected"),
    [
        ([0.1, 0.9, 0.5], [0.2, 0.8, 0.4], 4, [0.9, 0.1, 0.8, 0.2]),
        ([0.1, 0.9, 0.5, None, 0.7], [], 3, [0.9, 0.5, None]),
        ([], [0.2, 0.8, 0.4], 2, [0.8, 0.2]),
        ([0.5], [0.1, 0.2, 0.3], 4, [0.5, 0.3, 0.2, 0.1]),
        ([0.5, 0.6], [0.1], 1, [0.6]),
        ([0.5, 0.6], [0.1], 9, [0.6, 0.5, 0.1]),
        ([], [], 4, []),
    ],
)
def test_choice(
    solutions: list[float | None], metas: list[float | None], rows: int, expected: list[float | None]
) -> None:
    chosen = choose_rollouts([group(solutions, metas[:1]), group([], metas[1:])], rows)
    assert [r.reward for _, r in chosen] == expected
    assert all(any(r is member for member in g.rollouts) for g, r in chosen)


@pytest.mark.parametrize("output", [None, {"groups": []}])
def test_steps_without_rollouts_write_nothing(tmp_path: Path, output: Any) -> None:
    trainer = fit(tmp_path, RolloutTable(every_n_steps=1), output, batches=2)
    assert not (Path(trainer.log_dir) / "train_rollouts.jsonl").exists()


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fit(tmp_path, RolloutTable(), None, batches=1)
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    RolloutTable(every_n_steps=1).on_train_batch_end(trainer, Stub(None), {"groups": [group([1.0], [])]}, None, 0)
    assert not (Path(trainer.log_dir) / "train_rollouts.jsonl").exists()


def test_refuses(tmp_path: Path) -> None:
    for name in ("every_n_steps", "rows", "max_characters"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            RolloutTable(**{name: 0})
    with pytest.raises(TypeError, match="found no 'groups'"):
        fit(tmp_path, RolloutTable(), {"loss": torch.zeros(())})


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_second_run_does_not_mix_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, batches: int = 3, epochs: int = 1) -> Path:
        trainer = pl.Trainer(
            default_root_dir=tmp_path, logger=False, callbacks=[RolloutTable(every_n_steps=1)], accelerator="cpu",
            max_epochs=epochs, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        output = {"groups": [group([1.0], [])]}
        loader = DataLoader(torch.ones(batches, 1), batch_size=1)
        trainer.fit(Stub(output), loader, ckpt_path=ckpt_path)  # type: ignore[arg-type]
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return tmp_path / "train_rollouts.jsonl"

    first = run(batches=1).read_text()
    file = run(batches=2)
    assert (tmp_path / "train_rollouts-1.jsonl").read_text() == first
    written = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    assert written == [2, 4]
    with file.open("a") as broken:
        broken.write(first.splitlines()[0].replace('"step": 2', '"step": 5') + "\n" + first[:20])
    run(tmp_path / "last.ckpt", batches=2, epochs=2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4, 6, 8]


def test_validations_and_tests_leave_all_their_rollouts(tmp_path: Path, loop: Any) -> None:
    def answer(kind: str, text: str, index: int, call: int) -> str:
        if kind == "solution":
            return "right" if index == 0 else "wrong " * 20
        return '{"pass_rate": 2}'

    callback = RolloutTable()
    evaluation = Evaluation(num_generations=3, num_meta_generations=2)
    module = loop.scripted(answer, grader=loop.Grades(), max_prompt_length=64, evaluation=evaluation)
    trainer = loop.trainer(callback, logger=TensorBoardLogger(tmp_path, name="run", version=""))
    data = loop.Problems(train=2, validation=[loop.problem("<b>|\u202e", "1" * 5000), loop.problem("1+1")])
    trainer.fit(module, data)
    trainer.test(module, data)
    folder = tmp_path / "run" / "rollouts"
    assert [path.name for path in sorted(folder.iterdir())] == ["test_step000001.jsonl", "validate_step000001.jsonl"]
    rows = [json.loads(line) for line in (folder / "validate_step000001.jsonl").read_text().splitlines()]
    assert [(row["problem_id"], row["kind"]) for row in rows[5:]] == [("1+1", "solution")] * 3 + [("1+1", "meta")] * 2
    assert [row["correct"] for row in rows[5:]] == [True, False, False, None, None]
    assert [row["group_pass_rate"] for row in rows] == [pytest.approx(1 / 3)] * 10
    assert rows[3]["prediction"]["pass_rate"] == 2
    assert rows[0]["problem"] == "<b>|\u202e"
    assert len(rows[0]["answer"]) < 2100 and "[...]" in rows[0]["answer"]
    assert "token_ids" not in rows[0]

    trainer = loop.trainer(callback, logger=TensorBoardLogger(tmp_path, name="run", version=""))
    trainer.validate(module, data)  # by the same callback: this run's still
    trainer.fit(module, data)
    assert not (tmp_path / "run" / "rollouts-1").exists()
    loop.trainer(RolloutTable(), logger=TensorBoardLogger(tmp_path, name="run", version="")).fit(module, data)
    assert (tmp_path / "run" / "rollouts-1" / "validate_step000001.jsonl").exists()


class Late(SingleDeviceStrategy):
    """Restores a checkpoint behind `on_fit_start`, as FSDP2 does."""

    restore_checkpoint_after_setup = True


def test_validations_of_a_run_that_is_resumed_stay_where_they_are(tmp_path: Path, loop: Any) -> None:
    for steps, checkpoint in ((1, None), (2, tmp_path / "one.ckpt")):
        logger = TensorBoardLogger(tmp_path, name="run", version="")
        settings = {"val_check_interval": 1, "check_val_every_n_epoch": None, "max_steps": steps}
        trainer = loop.trainer(RolloutTable(), logger=logger, strategy=Late(device="cpu"), **settings)
        trainer.fit(loop.module(), loop.Problems(8, 4), ckpt_path=checkpoint)
        if checkpoint is None:
            trainer.save_checkpoint(tmp_path / "one.ckpt")
    names = sorted(path.name for path in (tmp_path / "run").rglob("validate_*.jsonl"))
    assert names == ["validate_step000001.jsonl", "validate_step000002.jsonl"]
    assert not (tmp_path / "run" / "rollouts-1").exists()
