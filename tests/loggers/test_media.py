"""Several of Lightning's loggers at once: each has the same numbers, pictures and tables of a run."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masa_lightning.callbacks.benchmark_report import BenchmarkReport
from masa_lightning.callbacks.calibration_plots import CalibrationPlots
from masa_lightning.callbacks.overview import RunOverview
from masa_lightning.callbacks.rollout_table import HEAD, RolloutTable
from masa_lightning.loggers.media import flat, log_figure, log_table
from masa_lightning.metrics.figures import pass_rate_scatter
from masa_lightning.modules.run_folder import run_folder

# MLflow 3.17 on pandas 3.
pytestmark = [
    pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included"),
    pytest.mark.filterwarnings("ignore:MLFlow only allows"),  # in names of metrics: pass@1 is pass1 there
]

Numbers = dict[tuple[str, int], float]

PICTURES = {"pass_rate_scatter", "pass_rate_reliability", "length_scatter", "pass_rate_over_steps", "length_over_steps"}
HOSTILE = "<b>|\ud800\n\x00"  # a lone surrogate, which no file in UTF-8 has a place for


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is sent anywhere."""
    for name, value in {
        "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow 3 wants a database otherwise
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB__SERVICE_WAIT": "600",  # seconds until its process answers, 30 by default: too few on a busy machine
        "WANDB_INIT_TIMEOUT": "600",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    import wandb

    wandb.finish()
    for name in ("mlflow", "wandb", "git"):
        logging.getLogger(name).handlers.clear()


def tensorboard_numbers(folder: Path) -> Numbers:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}


def csv_numbers(folder: Path) -> Numbers:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        (name, int(row["step"])): float(value)
        for row in rows
        for name, value in row.items()
        if value and name != "step"
    }


def mlflow_numbers(logger: MLFlowLogger) -> Numbers:
    client, run = logger.experiment, logger.run_id
    names = client.get_run(run).data.metrics
    return {(name, m.step): m.value for name in names for m in client.get_metric_history(run, name)}


def wandb_records(folder: Path) -> list[Any]:
    """Of an offline run that is finished; W&B's own process writes the file, at times behind the end of `finish`."""
    (file,) = folder.rglob("run-*.wandb")
    for _ in range(600):
        records = _read_wandb(file)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{file} has no record of the run's end: {[r.WhichOneof('record_type') for r in records]}")


def _read_wandb(file: Path) -> list[Any]:
    """Reads a log of LevelDB: blocks of 32 KiB, and chunks with a head of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, records, record = file.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if (rest := 32768 - place % 32768) < 7:
            place += rest
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            records.append(parsed := wandb_internal_pb2.Record())
            parsed.ParseFromString(record)
            record = b""
    return records


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            rows.append({})
            for item in record.history.item:
                name, *within = list(item.nested_key) or [item.key]
                place = rows[-1].setdefault(name, {}) if within else rows[-1]
                place[within[0] if within else name] = json.loads(item.value_json)
    return rows


def wandb_settings(folder: Path) -> dict[str, Any]:
    updates = [r.config.update for r in wandb_records(folder) if r.WhichOneof("record_type") == "config"]
    return {item.key: json.loads(item.value_json) for update in updates for item in update}


def wandb_numbers(folder: Path) -> Numbers:
    return {
        (name, int(row["trainer/global_step"])): float(value)
        for row in wandb_rows(folder)
        for name, value in row.items()
        if not name.startswith(("_", "trainer/")) and not isinstance(value, dict)
    }


def same(numbers: Numbers, others: Numbers) -> bool:
    return numbers.keys() == others.keys() and all(
        others[key] == pytest.approx(value, rel=1e-6, nan_ok=True) for key, value in numbers.items()
    )


def predicts(kind: str, problem: str, index: int, call: int) -> str:
    return (
        f"\\boxed{{{index}}}"
        if kind == "solution"
        else '{"math_notion": ["sum"], "pass_rate": 4, "solution_length": 5}'
    )


def test_all_loggers_have_the_same(tmp_path: Path, loop: Any, quiet: None) -> None:
    mlflow = MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    loggers: list[Logger] = [
        CSVLogger(tmp_path, name="csv", version=""),
        TensorBoardLogger(tmp_path, name="tensorboard", version=""),
        WandbLogger(save_dir=tmp_path / "wandb", offline=True),
        mlflow,
    ]
    trainer = loop.trainer(RunOverview(), CalibrationPlots(), RolloutTable(every_n_steps=1), logger=loggers)
    trainer.fit(loop.scripted(predicts), loop.Problems(4, 2))
    trainer.loggers[2].experiment.finish()

    numbers = csv_numbers(tmp_path / "csv")
    assert {step for name, step in numbers if name == "meta/reward"} == {1, 2}
    assert {step for name, step in numbers if name == "val/pass@1"} == {2}
    board = {key: v for key, v in tensorboard_numbers(tmp_path / "tensorboard").items() if key[0] != "hp_metric"}
    assert same(numbers, board)
    assert same(numbers, wandb_numbers(tmp_path / "wandb"))
    renamed = {(name.replace("@", ""), step): value for (name, step), value in numbers.items()}
    assert same(renamed, mlflow_numbers(mlflow))

    settings = dict(flat(yaml.safe_load((tmp_path / "csv/hparams.yaml").read_text())))
    assert settings["data/batch_size"] == 2 and settings["optimization/optimizer/init_args/lr"] == 0.01
    assert settings["callbacks/RolloutTable/every_n_steps"] == 1
    online = dict(flat({k: v for k, v in wandb_settings(tmp_path / "wandb").items() if k != "_wandb"}))
    assert settings == online
    kept = {name for name, value in settings.items() if value != "[]"}  # Lightning leaves empty lists out there
    assert kept == mlflow.experiment.get_run(mlflow.run_id).data.params.keys()

    pictures = {f"calibration/{name}" for name in PICTURES}
    files = {path.name for path in (tmp_path / "csv/pictures").glob("*_step000002.png")}
    assert {name.partition("_")[2].removesuffix("_step000002.png") for name in files} == PICTURES
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {*events.Tags()["images"]} == pictures
    media = {name: row[name] for row in wandb_rows(tmp_path / "wandb") for name in row if isinstance(row[name], dict)}
    assert {name for name, what in media.items() if what["_type"] == "images/separated"} == pictures
    for name in pictures:
        (path,) = media[name]["filenames"]
        assert next((tmp_path / "wandb").rglob(Path(path).name)).read_bytes().startswith(b"\x89PNG")
    images = mlflow.experiment.list_artifacts(mlflow.run_id, "images")
    assert {Path(i.path).name.partition("+")[0].replace("~", "/") for i in images} == pictures
    assert all("+step+2+" in i.path for i in images)

    lines = [json.loads(line) for line in (tmp_path / "csv/train_rollouts.jsonl").read_text().splitlines()]
    table = mlflow.experiment.load_table(mlflow.experiment_id, "rollouts.json")
    assert list(table.columns) == ["step", *HEAD]
    assert [*table["step"]] == [line["step"] for line in lines]
    assert [*table["text"]] == [line["text"] for line in lines]
    assert media["rollouts"]["_type"] == "table-file"
    last = next((tmp_path / "wandb").rglob(Path(media["rollouts"]["path"]).name))
    assert [row[-1] for row in json.loads(last.read_text())["data"]] == [line["text"] for line in lines[-4:]]
    assert len(events.Tensors("rollouts/text_summary")) == 2


def test_hostile_text_is_taken(tmp_path: Path, quiet: None) -> None:
    mlflow = MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    loggers = [
        mlflow,
        WandbLogger(save_dir=tmp_path, offline=True),
        TensorBoardLogger(tmp_path, name="board", version=""),
    ]
    log_table(loggers, "texts", ["text", "reward"], [[HOSTILE, None], ["b", None]], step=3)
    log_table(loggers, "texts", ["text", "reward"], [["c", None]], step=4)
    assert [*mlflow.experiment.load_table(mlflow.experiment_id, "texts.json")["step"]] == [3, 3, 4]
    loggers[1].experiment.finish()
    assert len([row for row in wandb_rows(tmp_path) if "texts" in row]) == 2


class Broken(TensorBoardLogger):
    @property
    def experiment(self) -> Any:
        raise ConnectionError("no route to host")


class Unknown(CSVLogger):
    """Takes numbers alone."""


def test_a_logger_that_fails_ends_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    works = TensorBoardLogger(tmp_path, name="works", version="")
    loggers = [Broken(tmp_path, name="broken"), Unknown(tmp_path, name="unknown"), works]
    figure = pass_rate_scatter(torch.tensor([0.5]), torch.tensor([0.5]))
    with pytest.warns(UserWarning, match="Broken did not take the picture calibration/x: ConnectionError: no route"):
        log_figure(loggers, "calibration/x", figure, step=1)
    with pytest.warns(UserWarning, match="Broken did not take the table rollouts"):
        log_table(loggers, "rollouts", ["text"], [["a"]], step=1)
    works.experiment.flush()
    tags = EventAccumulator(str(tmp_path / "works")).Reload().Tags()
    assert (tags["images"], tags["tensors"]) == (["calibration/x"], ["rollouts/text_summary"])


def test_pictures_are_as_large_as_drawn(tmp_path: Path, quiet: None) -> None:
    mlflow = MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    figure = pass_rate_scatter(torch.tensor([0.5]), torch.tensor([0.5]))
    log_figure([mlflow], "x", figure, step=1)
    (path,) = (i.path for i in mlflow.experiment.list_artifacts(mlflow.run_id, "images") if i.path.endswith(".png"))
    with Image.open(mlflow.experiment.download_artifacts(mlflow.run_id, path, str(tmp_path))) as image:
        assert image.size == tuple(math.floor(inches * 120) for inches in figure.get_size_inches())


def test_benchmarks_reach_a_logger_that_is_alone(tmp_path: Path, loop: Any, quiet: None) -> None:
    mlflow = MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    trainer = loop.trainer(BenchmarkReport(), logger=mlflow)
    trainer.test(loop.scripted(predicts), loop.Problems(validation=3), verbose=False)
    results = json.loads((run_folder(trainer) / "results.json").read_text())
    table = mlflow.experiment.load_table(mlflow.experiment_id, "test.json")
    assert [*table["problems"]] == [3] == [b["problems"] for b in results["benchmarks"]]
    images = {Path(i.path).name.partition("+")[0] for i in mlflow.experiment.list_artifacts(mlflow.run_id, "images")}
    assert any(name.startswith("test~") and name.endswith("pass_rate_reliability") for name in images)


def test_benchmarks_reach_wandb(tmp_path: Path, loop: Any, quiet: None) -> None:
    trainer = loop.trainer(BenchmarkReport(), logger=WandbLogger(save_dir=tmp_path, offline=True))
    trainer.test(loop.scripted(predicts), loop.Problems(validation=3), verbose=False)
    (results,) = json.loads((run_folder(trainer) / "results.json").read_text())["benchmarks"]
    import wandb

    wandb.finish()
    rows = wandb_rows(tmp_path)
    (path,) = (row["test"]["path"] for row in rows if isinstance(row.get("test"), dict))
    table = json.loads(next(tmp_path.rglob(Path(path).name)).read_text())
    assert (table["columns"][:2], table["data"][0][1]) == (["benchmark", "problems"], "3")
    figures = {name: row[name] for row in rows for name in row if name.startswith("test/-/")}
    assert figures["test/-/pass@1"] == results["metrics"]["pass@1"]
    assert any("pass_rate_reliability" in name for row in rows for name in row)


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_the_files_of_a_run_stand_beside_its_checkpoints(tmp_path: Path, loop: Any, quiet: None, kind: str) -> None:
    """Where the only logger names one folder for all runs."""
    logger = (
        WandbLogger(save_dir=tmp_path, offline=True)
        if kind == "wandb"
        else MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    )
    saver = ModelCheckpoint(save_last=True)
    trainer = loop.trainer(RolloutTable(every_n_steps=1), saver, logger=logger, enable_checkpointing=True)
    trainer.fit(loop.scripted(predicts), loop.Problems(4, 2))
    folder = run_folder(trainer)
    assert Path(saver.last_model_path).parent == folder / "checkpoints"
    assert folder.is_relative_to(tmp_path) and str(logger.version) in folder.parts
    assert (folder / "train_rollouts.jsonl").read_text().count("\n") == 8
