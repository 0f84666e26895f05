"""The quantity of examples/own_quantity.py in a run: asked for, read, rewarded, cloned, calibrated and drawn."""

import json
import runpy
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from masa_lightning import (
    ArithmeticDataModule,
    BenchmarkReport,
    CalibrationPlots,
    Evaluation,
    ExpertSFT,
    MASALightningModule,
    PassRate,
    PromptTemplates,
    RolloutTable,
    VLLMSampler,
)
from masa_lightning.callbacks.overview import RunOverview
from masa_lightning.callbacks.prediction_writer import PredictionWriter
from masa_lightning.export import export_checkpoint
from masa_lightning.functional import Question
from masa_lightning.report.contents import contents
from masa_lightning.report.runs import load_runs

EXAMPLE = Path(__file__).parents[2] / "examples/own_quantity.py"
SOLUTIONS = (
    "a. \\boxed{2}",
    "a. b. c. \\boxed{2}",
    "\\boxed{3}",
    "\\boxed{3}",
)  # 2 and 4 steps are right: 3 on average
METAS = ('<meta>x</meta>{"pass_rate": 4, "steps": 3}', '<meta>y</meta>{"pass_rate": 8, "steps": 1}')


class Examples(ExpertSFT):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen = pl_module.expert_examples(outputs)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def test_one_of_a_user_is_in_all_of_a_run(loop, tmp_path):
    module = loop.scripted(
        lambda kind, problem, index, call: (SOLUTIONS if kind == "solution" else METAS)[index],
        quantities=[PassRate(), runpy.run_path(str(EXAMPLE))["Steps"]()],
        prompts=PromptTemplates(solution="S:{problem}", meta="steps?{problem}"),
        meta_reward_weights={"steps": 3, "difficulty": 0},
        num_generations=4,
    )
    problems, teacher = [loop.problem("1+1"), loop.problem("1+1", name="again")], Examples(batch_size=1)
    recorder = loop.fit(module, loop.Problems(problems, batch_size=1), teacher, CalibrationPlots(dirpath=str(tmp_path)))
    metas, logged = recorder.groups[0][0].metas, recorder.metrics[0]
    assert module.tokenizer.decode(metas[0].prompt_ids, skip_special_tokens=True) == "steps?1+1"
    assert [r.prediction.values for r in metas] == [{"pass_rate": 4, "steps": 3}, {"pass_rate": 8, "steps": 1}]
    assert [r.rewards for r in metas] == [{"steps": 1.0}, {"steps": pytest.approx(1 / 3)}]
    assert logged["meta/rewards/steps/mean"] == pytest.approx(2 / 3) == logged["meta/reward"]
    assert "meta/rewards/difficulty/mean" not in logged
    names = ("count", "predicted_mean", "actual_mean", "mae")
    assert [logged[f"calibration/steps/{name}"] for name in names] == [1, 2, 3, 1]
    assert [logged[f"calibration/pass_rate/{name}"] for name in names[:3]] == [1, 0.75, 0.5]
    (path,) = tmp_path.glob("train_steps_over_steps_*.png")
    assert path.stat().st_size > 1000
    ((prompt, target, _),) = teacher.seen
    assert prompt == metas[0].prompt_ids
    assert module.tokenizer.decode(target, skip_special_tokens=True) == METAS[0]
    assert logged["sft/examples"] == 1


class Sentences(runpy.run_path(str(EXAMPLE))["Steps"]):
    """The example's under a key that the embedded model knows: what it says of tokens is read as sentences."""

    key = "solution_length"
    name = reward_name = metric_name = "sentences"
    title = "Number of sentences"

    def ask(self, budget):
        return Question(self.key, "how many sentences a correct solution of yours will have", "<integer>")


@pytest.mark.slow
def test_one_of_a_user_with_the_real_engine(tmp_path):
    """Prompted, read, rewarded, calibrated, cloned, and in the board, results, predictions, card and report."""
    pytest.importorskip("vllm")
    module = MASALightningModule(
        "tiny",
        sampler=VLLMSampler(kv_cache_gib=0.25),
        quantities=[PassRate(), Sentences()],
        evaluation=Evaluation(num_generations=4, num_meta_generations=4),
    )
    data = ArithmeticDataModule(batch_size=4, train_size=8, validation_size=8, test_size=8)
    teacher, seen = Examples(batch_size=2, learning_rate=1e-4), []
    trainer = Trainer(
        max_steps=2,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path, name="run", version="", default_hp_metric=False),
        callbacks=[teacher, RunOverview(), RolloutTable(), CalibrationPlots(), BenchmarkReport(), PredictionWriter()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    seen = teacher.seen
    logged = EventAccumulator(str(tmp_path / "run")).Reload()
    for name in ("calibration/sentences/pearson", "val/calibration/sentences/mae"):
        assert logged.Scalars(name)
    assert 0 < logged.Scalars("meta/rewards/sentences/mean")[-1].value < 1
    assert logged.Scalars("calibration/sentences/actual_mean")[-1].value < 40  # sentences, not tokens
    assert seen
    decoded = module.tokenizer.decode(seen[0][1], skip_special_tokens=True)
    assert (
        1 <= json.loads(decoded[decoded.index("{") :])["solution_length"] < 40
    )  # the expert knows better than the model
    (event,) = logged.Tensors("custom_scalars__config__")
    titles = [c.title for c in layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category[0].chart]
    assert "Number of sentences: predicted and actual mean" in titles
    assert not [title for title in titles if title.startswith("Solution length")]
    run = tmp_path / "run"
    assert list((run / "pictures").glob("validate_sentences_scatter_*.png"))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer.test(module, data, verbose=False)
    assert "sentences: r" in (run / "results.md").read_text()
    trainer.predict(module, data, return_predictions=False)
    line = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    assert set(line["quantities"]) == {"sentences"}
    assert line["quantities"]["sentences"]["mean"] >= 1
    export_checkpoint(tmp_path / "last.ckpt", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "how many sentences a correct solution of yours will have" in card
    assert "| `calibration/sentences/pearson` |" in card
    assert "how many tokens" not in card
    shown = contents(load_runs([run]))
    assert "Predicted and actual sentences, held out" in [chart["title"] for chart in shown["charts"]]
    assert [other["name"] for other in shown["predictions"][0]["others"]] == ["sentences"]
    assert "sentences error, last" in shown["overview"]["head"]
    assert "r of the sentences" in shown["benchmarks"]["head"]
