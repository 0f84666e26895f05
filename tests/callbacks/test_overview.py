"""RunOverview: what TensorBoard shows first, and the settings that the loggers have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from masa_lightning.callbacks.gating import PredictiveGating
from masa_lightning.callbacks.overview import RunOverview
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.quantities import StatedConfidence


def predicts(kind: str, problem: str, index: int, call: int) -> str:
    return "\\boxed{2}" if kind == "solution" else '{"math_notion": ["sum"], "pass_rate": 4, "solution_length": 5}'


@pytest.fixture
def run(tmp_path: Path, loop: Any) -> EventAccumulator:
    """A run with a control."""
    loggers = [
        TensorBoardLogger(tmp_path, name="board", version="", default_hp_metric=False),
        CSVLogger(tmp_path, name="csv", version=""),
    ]
    callbacks = [RunOverview(), PredictiveGating(start_step=0, max_std=0.25)]
    trainer = loop.trainer(*callbacks, logger=loggers)
    trainer.fit(loop.scripted(predicts), loop.Problems(4, 2))
    return EventAccumulator(str(tmp_path / "board")).Reload()


def test_the_board_shows_what_was_logged(run: EventAccumulator) -> None:
    (event,) = run.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    first, controls = layout.category
    assert (first.title, len(first.chart)) == ("Overview", 10)
    assert controls.title == "Controls"
    tags = run.Tags()["scalars"]
    for chart in (*first.chart, *controls.chart):
        for pattern in chart.multiline.tag:
            assert [tag for tag in tags if re.match(pattern, tag)], f"{chart.title}: {pattern}"
        for series in chart.margin.series:
            assert {series.value, series.lower, series.upper} <= {*tags}


def test_the_table_of_settings_is_full_and_flat(run: EventAccumulator, tmp_path: Path) -> None:
    content = run.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert shown["data/batch_size"] == 2
    assert shown["callbacks/PredictiveGating/max_std"] == 0.25
    assert shown["trainer/max_epochs"] == 1
    content = run.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert "val/pass@1" in metrics
    assert metrics <= {*run.Tags()["scalars"]}
    assert "hp_metric" not in run.Tags()["scalars"]
    for logger in ("board", "csv"):
        kept = yaml.safe_load((tmp_path / logger / "hparams.yaml").read_text())
        assert kept["data"]["batch_size"] == 2
        assert kept["callbacks"]["PredictiveGating"]["max_std"] == 0.25


def test_a_run_without_predictions_has_no_empty_figures(tmp_path: Path, loop: Any) -> None:
    logger = TensorBoardLogger(tmp_path, name="board", version="")
    trainer = loop.trainer(RunOverview(), logger=logger)
    trainer.fit(loop.scripted(predicts, GRPOLightningModule), loop.Problems(4, 2))
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    (page,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    patterns = [pattern for chart in page.chart for pattern in chart.multiline.tag]
    assert not [p for p in patterns if "calibration" in p]


def test_a_run_with_confidences_alone_shows_them(tmp_path: Path, loop: Any) -> None:
    module = loop.scripted(
        lambda *_: "2 <confidence>0.75</confidence>", GRPOLightningModule, confidence=StatedConfidence("")
    )
    loop.trainer(RunOverview(), logger=TensorBoardLogger(tmp_path, name="board", version="")).fit(
        module, loop.Problems(4, 2)
    )
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    (page,) = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]).category
    shown = [chart.title for chart in page.chart if "onfidence" in chart.title]
    assert shown == [
        "Stated confidence: predicted and actual mean",
        "Stated confidence: reward, and share that can be read",
    ]
    patterns = [pattern for chart in page.chart for pattern in chart.multiline.tag if "confidence" in pattern]
    tags = events.Tags()["scalars"]
    assert len(patterns) == 4 and all(any(re.match(pattern, tag) for tag in tags) for pattern in patterns)
    assert "Rewards of predictions" not in [chart.title for chart in page.chart]


def test_refuses(loop: Any) -> None:
    with pytest.raises(TypeError, match="expected a GRPO or MASA Lightning module"):
        RunOverview().on_fit_start(loop.trainer(), pl.LightningModule())
