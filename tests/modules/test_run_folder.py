"""One folder, one run: the newcomer's walk through the command, two runs at once, metrics.csv, the Trainer's switches."""

import csv
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from test_cli import FEW_LETTERS, config, write
from test_cli import _apart as _apart

from masa_lightning import CalibrationPlots, RolloutTable, cli
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.room_for_a_run import room_for_a_run
from masa_lightning.modules.run_folder import RunFolder
from masa_lightning.report.scalars import read_scalars

SHIPPED = [
    {"class_path": "masa_lightning.RolloutProgressBar"},
    {"class_path": "masa_lightning.CalibrationPlots"},
    {"class_path": "masa_lightning.RolloutTable"},
    {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"every_n_train_steps": 2, "save_last": True, "save_top_k": 0},
    },
]


@pytest.fixture
def run(tiny_checkpoint):
    """Runs the command as with the shipped configurations."""

    def command(function="fit", *arguments, steps=2, kind="TensorBoardLogger", **model):
        settings = config(tiny_checkpoint, **model)
        settings["trainer"] |= {
            "enable_checkpointing": True,
            "enable_progress_bar": True,
            "max_steps": steps,
            "callbacks": SHIPPED,
        }
        settings["trainer"]["logger"]["class_path"] = f"lightning.pytorch.loggers.{kind}"
        if function == "test":
            settings["data"]["init_args"] = {"test": "train.jsonl", "test_split": "train", "val_batch_size": 4}
        return cli.main([function, *write(settings), *arguments])

    return command


def files(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.suffix != ".lock"
    }


def step_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


FASTER = {"optimizer": {"init_args": {"lr": 0.02}}}


def test_the_newcomers_walk(run, caplog):
    caplog.set_level("INFO")
    run(reward_functions=[FEW_LETTERS])
    first = files("runs/x")
    run(reward_functions=[FEW_LETTERS], optimization=FASTER)  # once more
    assert "runs/x held an earlier run: it is kept as runs/x-1, and runs/x is this run's" in caplog.text
    assert first == files("runs/x-1")
    last = "runs/x/checkpoints/last.ckpt"
    assert [*Path("runs/x").rglob("*.ckpt")] == [Path(last)]
    weights = torch.load(last, weights_only=True)["state_dict"]
    old = torch.load("runs/x-1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not all(torch.equal(w, weights[n]) for n, w in old.items())
    kept = files("runs/x")
    tested = run("test", "--ckpt_path", last)  # what was just trained
    assert all(torch.equal(w, weights[f"policy.{n}"]) for n, w in tested.model.policy.named_parameters())
    assert kept.items() <= files("runs/x").items()  # its config.yaml too
    run("fit", "--ckpt_path", "last", steps=4, reward_functions=[FEW_LETTERS], optimization=FASTER)
    assert step_of(last) == 4
    assert sorted(p.name for p in Path("runs").iterdir()) == ["x", "x-1"]


def test_a_run_that_has_no_checkpoint_yet_begins_anew(run, caplog):
    caplog.set_level("INFO")
    run("fit", "--ckpt_path", "last", steps=2)
    assert "--ckpt_path last: runs/x has no checkpoint, so this run begins anew" in caplog.text
    assert step_of("runs/x/checkpoints/last.ckpt") == 2


def test_the_first_checkpoint_of_a_killed_run_is_gone_on_with(tmp_path, loop):
    """Its file says nothing of the link that was made behind it; Lightning then begins last-v1.ckpt."""
    for settings in ({"max_steps": 1}, {"max_steps": 3, "ckpt_path": "last"}):
        ckpt_path = settings.pop("ckpt_path", None)
        saver = ModelCheckpoint(
            tmp_path, every_n_train_steps=1, monitor="step", mode="max", save_top_k=2, save_last="link"
        )
        trainer = loop.trainer(saver, enable_checkpointing=True, limit_val_batches=0, **settings)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8), ckpt_path=ckpt_path)
    assert [p.name for p in tmp_path.glob("last*")] == ["last.ckpt"]
    assert step_of(tmp_path / "last.ckpt") == 3


def test_a_script_that_runs_twice(loop, caplog):
    """No command makes room for it, and the folder is always the same."""
    caplog.set_level("INFO")
    for steps in (1, 2):
        saver = ModelCheckpoint(every_n_train_steps=1, save_last=True, save_top_k=0)
        logger = TensorBoardLogger("runs", name="x", version="")
        trainer = loop.trainer(saver, logger=logger, enable_checkpointing=True, limit_val_batches=0, max_steps=steps)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8))
    assert step_of("runs/x/checkpoints/last.ckpt") == 2
    assert step_of("runs/x/checkpoints/last-1.ckpt") == 1
    assert sorted(p.name for p in Path("runs/x/checkpoints").iterdir()) == ["last-1.ckpt", "last.ckpt"]
    assert len([*Path("runs/x").glob("events.*")]) == len([*Path("runs/x/earlier-1").glob("events.*")]) == 1
    assert "last.ckpt was another run's: it is kept as last-1.ckpt" in caplog.text
    saver = ModelCheckpoint("runs/x/checkpoints", save_last=True, save_top_k=0)
    trainer = loop.trainer(saver, enable_checkpointing=True, fast_dev_run=True)
    before = sorted(Path().rglob("*"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8, 2))
    assert step_of("runs/x/checkpoints/last.ckpt") == 2  # a trial run leaves it alone
    assert sorted(Path().rglob("*")) == before
    assert saver.save_last


def test_a_trial_run_writes_nothing(loop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saver = ModelCheckpoint("checkpoints", every_n_train_steps=44, save_last=True, save_top_k=0)
    trainer = loop.trainer(saver, RolloutTable(), CalibrationPlots(), enable_checkpointing=True, fast_dev_run=True)

    def predicts(kind, problem, index, call):
        return "\\boxed{2}" if kind == "solution" else '{"math_notion": ["sum"], "pass_rate": 4, "solution_length": 5}'

    trainer.fit(loop.scripted(predicts), loop.Problems(8, 2))
    assert trainer.global_step == 1
    assert [p for p in Path().rglob("*") if p.is_file()] == []
    assert saver.save_last


def an_earlier_run(name, checkpoint=True):
    """As much of its folder as tells it."""
    folder = Path("runs", name)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hparams.yaml").touch()
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def begin(trainer, ckpt_path):
    """What a fit does of it up to its first step."""
    trainer.state.fn = TrainerFn.FITTING
    with room_for_a_run(trainer, ckpt_path):
        trainer.callbacks.append(keeper := RunFolder())
        keeper.enter(trainer)
        for callback in trainer.callbacks:
            callback.on_fit_start(trainer, None)
        keeper.teardown(trainer, None, "fit")


def room(loop, ckpt_path, **saver):
    logger = TensorBoardLogger("runs", name="x", version="")
    callback = ModelCheckpoint(save_last=True, save_top_k=0, every_n_train_steps=1, **saver)
    begin(loop.trainer(callback, logger=logger, enable_checkpointing=True), ckpt_path)
    return sorted(str(p.parent) for p in Path("runs").glob("*/hparams.yaml"))


@pytest.mark.parametrize(
    ("ckpt_path", "moves"),
    [
        (None, True),
        ("last", False),
        ("runs/x/checkpoints/last.ckpt", False),
        ("runs/old/checkpoints/last.ckpt", True),  # another run's: that of x is kept beside
        ("hpc", False),
    ],
)
def test_a_folder_is_kept_beside_unless_its_run_goes_on(loop, ckpt_path, moves):
    for name in ("x", "x-1", "old"):
        an_earlier_run(name)
    assert room(loop, ckpt_path) == sorted(["runs/old", "runs/x-1", "runs/x-2" if moves else "runs/x"])


class Fails(Callback):
    """In a hook that it is told."""

    def __init__(self, hook: str) -> None:
        def fail(*_):
            raise KeyError(hook)

        setattr(self, hook, fail)


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_a_run_that_cannot_begin_moves_nothing(run, caplog, monkeypatch, kind):
    """Wherever it is found out: not even for a moment, in which a kill would leave it moved."""
    caplog.set_level("INFO")
    run(kind=kind)
    before, place = files("runs"), Path("runs/x").stat().st_ino
    monkeypatch.setattr(
        "masa_lightning.modules.run_folder.set_aside", lambda path: pytest.fail(f"{path} was moved by {sys.argv}")
    )

    def left():
        return files("runs"), Path("runs/x").stat().st_ino

    with pytest.raises(ValueError, match="float16"):
        run(kind=kind, dtype="float16")
    assert left() == (before, place)
    with pytest.raises(SystemExit):
        run("fit", "--ckpt_path", "nowhere.ckpt", kind=kind)
    assert left() == (before, place)
    with pytest.raises((ValueError, OSError), match="nowhere"):
        run(kind=kind, model="nowhere/model")
    assert left() == (before, place)
    with pytest.raises(ValueError, match="Invalid momentum"):  # an optimiser, which is made behind the weights
        run(kind=kind, optimization={"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"momentum": -1}}})
    assert left() == (before, place)
    assert "held an earlier run" not in caplog.text
    assert step_of(next(Path("runs").rglob("last.ckpt"))) == 2


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_a_run_that_fails_at_its_start_gives_the_folder_back(run, caplog, monkeypatch, kind):
    """As with an engine that finds too little memory."""
    caplog.set_level("INFO")
    run(kind=kind)
    before = files("runs")
    monkeypatch.setattr("masa_lightning.modules.sampler_session.SamplerSession.start", Fails("start").start)
    with pytest.raises(KeyError, match="start"):
        run(kind=kind)
    assert "runs/x held an earlier run: it is kept as runs/x-1, and runs/x is this run's" in caplog.text
    assert "this run did not begin: runs/x is the earlier run's again" in caplog.text
    assert files("runs") == before


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_metrics_csv_of_a_run_that_is_not_gone_on_with(tmp_path, loop, hook):
    """Another try to go on, which fails before its first step."""
    logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1)
    trainer = loop.trainer(logger=logger, limit_val_batches=0)
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(4))
    before = (tmp_path / "metrics.csv").read_bytes()
    logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1)
    with pytest.raises(KeyError):
        loop.trainer(Fails(hook), logger=logger, limit_val_batches=0).fit(
            loop.module(GRPOLightningModule), loop.Problems(4)
        )
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert not (tmp_path / "metrics.csv.kept").exists()


def test_what_is_written_before_a_run_begins_is_its_own(loop):
    """A callback of yours may write in `setup`."""
    earlier = files(an_earlier_run("x"))
    logger = TensorBoardLogger("runs", name="x", version="")
    trainer = loop.trainer(logger=logger)
    with room_for_a_run(trainer, None):
        assert logger.experiment  # as Lightning asks, before anything is set up
        assert not Path("runs/x-1").exists()
        logger.experiment.add_text("notes", "mine")
    logger.experiment.close()
    assert files("runs/x-1") == earlier
    assert len([*Path("runs/x").glob("events.*")]) == 1


def test_last_names_the_checkpoint_of_an_earlier_run(loop):
    an_earlier_run("x", checkpoint=False)
    an_earlier_run("x-1")
    with pytest.warns(
        UserWarning, match=r"x had no last\.ckpt, so this run begins at step 0; .*x-1/checkpoints/last\.ckpt"
    ):
        room(loop, "last")


def test_last_without_a_checkpoint_begins_anew(loop):
    """As in a job that is started again and again with the same line, and was killed before its first checkpoint."""
    an_earlier_run("x", checkpoint=False)
    assert room(loop, "last") == ["runs/x-1"]


def test_checkpoints_elsewhere_are_not_mixed(loop):
    an_earlier_run("x")
    elsewhere = Path("ckpts")
    elsewhere.mkdir()
    (elsewhere / "last.ckpt").touch()
    with pytest.raises(
        ValueError, match=r"ckpts/last\.ckpt is of another run, .* expected a dirpath of ModelCheckpoint"
    ):
        room(loop, None, dirpath="ckpts")
    assert room(loop, "last", dirpath="ckpts") == ["runs/x"]
    assert room(loop, "ckpts/last.ckpt", dirpath="ckpts") == ["runs/x"]


def test_a_folder_that_holds_no_run_or_is_the_working_folder(tmp_path, loop, monkeypatch):
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    trainer = loop.trainer(logger=TensorBoardLogger(tmp_path, name="log", version=""))
    begin(trainer, None)
    assert (folder / "notes.txt").exists()
    (folder / "hparams.yaml").touch()
    monkeypatch.chdir(folder)
    with pytest.raises(
        ValueError, match=r"holds another run and is the working folder; expected a folder for each run"
    ):
        begin(trainer, None)
    assert (folder / "notes.txt").exists()


HOLD = """
import fcntl, json, os, sys  # what another run does, without its imports
lock = open(sys.argv[1] + "/.fit.lock", "a+")
fcntl.lockf(lock, fcntl.LOCK_EX)
json.dump({"pid": os.getpid(), "host": "there", "since": "now"}, lock)
lock.flush()
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_runs_at_once(loop):
    folder = an_earlier_run("x")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        message = rf"in use by another masa fit: process {other.pid} on there, since now; .*logger.name NAME"
        with pytest.raises(ValueError, match=message):
            room(loop, None)
        trainer = loop.trainer(logger=CSVLogger("runs", name="x", version=""), limit_val_batches=0)
        with pytest.raises(ValueError, match=message):  # of a script, or one that goes on
            trainer.fit(loop.module(GRPOLightningModule), loop.Problems(2))
        # It may be tested meanwhile.
        trainer.test(loop.module(GRPOLightningModule), loop.Problems(0, 2), verbose=False)
        other.kill()
    assert room(loop, None) == ["runs/x-1"]  # a lock ends with its process


def rows(folder):
    with open(Path(folder, "metrics.csv"), newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_rows_of_metrics_csv_survive(tmp_path, loop):
    """Lightning's CSVLogger removes a file that it finds. Rows after the checkpoint are logged anew."""

    class End(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 3:
                raise KeyError

    def fit(*callbacks, **settings):
        saver = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=2, save_last=True, save_top_k=0)
        logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1)
        trainer = loop.trainer(*callbacks, saver, logger=logger, enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(12), **settings)

    with pytest.raises(KeyError):
        fit(End())
    before = rows(tmp_path)
    assert [int(row["step"]) for row in before] == [1, 2, 3]
    fit(ckpt_path="last")
    after = rows(tmp_path)
    assert [int(row["step"]) for row in after if "reward" in row][:2] == [1, 2]
    assert sorted({int(row["step"]) for row in after}) == [1, 2, 3, 4, 5, 6]
    assert sum(int(row["step"]) == 3 for row in after) == 1
    tester = loop.trainer(logger=CSVLogger(tmp_path, name="", version=""))
    tester.test(loop.module(GRPOLightningModule), loop.Problems(0, 2), verbose=False)
    assert [row for row in rows(tmp_path) if "test/pass@1" not in row] == after
    assert len(rows(tmp_path)) == len(after) + 1
    fit()  # a script's new run in the same folder
    assert [int(row["step"]) for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "metrics-1.csv").exists()


def test_a_validation_by_itself_leaves_the_training_run_as_it_is(run, tmp_path):
    """Of other problems or settings it overwrote rollouts and pictures, and its figures took the place of training's."""
    data = tmp_path / "val.jsonl"
    data.write_text('{"problem": "1-1", "answer": "0"}\n')
    validation = [f"--data.init_args.validation={data}", "--data.init_args.validation_split=train"]
    run("fit", *validation, "--trainer.limit_val_batches=1")
    before = files("runs/x")
    scalars = read_scalars(Path("runs/x"))
    assert scalars[0]["val/pass@1"].keys() == {0, 2}
    for number in (1, 2):
        command = run(
            "validate", *validation, "--ckpt_path", "runs/x", "--model.init_args.evaluation.temperature=0.5",
            "--trainer.limit_val_batches=1",
        )  # fmt: skip
        own = Path("runs/x", f"validate-{number}")
        assert Path(command.trainer.log_dir) == own
        names = {str(p.relative_to(own)) for p in own.rglob("*") if p.is_file()}
        assert {"validate_config.yaml", "rollouts/validate_step000002.jsonl", "hparams.yaml"} <= names
        assert read_scalars(own)[0]["val/pass@1"].keys() == {2}
    assert {n: c for n, c in files("runs/x").items() if not n.parts[0].startswith("validate-")} == before
    assert read_scalars(Path("runs/x")) == scalars


@pytest.mark.parametrize("kinds", [[TensorBoardLogger], [CSVLogger], [CSVLogger, TensorBoardLogger]])
def test_a_validation_in_a_script_has_its_own_folder_too(kinds, tmp_path, loop):
    module, data = loop.module(), loop.Problems(4, 4)

    def trainer(**settings):
        return loop.trainer(RolloutTable(), logger=[kind(tmp_path, name="", version="") for kind in kinds], **settings)

    trainer().validate(module, data, verbose=False)  # there is no training run yet
    assert (tmp_path / "rollouts" / "validate_step000000.jsonl").exists()
    first = trainer()
    first.fit(module, data)
    scalars = read_scalars(tmp_path)[0]
    first.validate(module, loop.Problems(4, 2), verbose=False)  # whose logger has its files open
    other = trainer(max_steps=3)
    other.validate(module, loop.Problems(4, 2), verbose=False)
    assert other.log_dir == str(tmp_path / "validate-2")
    rollouts = [(tmp_path / f"validate-{n}" / "rollouts" / "validate_step000002.jsonl").read_text() for n in (1, 2)]
    trained = (tmp_path / "rollouts" / "validate_step000002.jsonl").read_text()
    assert [len(text.splitlines()) for text in (trained, *rollouts)] == [48, 24, 24]
    assert read_scalars(tmp_path)[0]["val/pass@1"].keys() == scalars["val/pass@1"].keys()
    other.test(module, loop.Problems(4, 2), verbose=False)  # a trainer comes back
    assert Path(other.log_dir) == tmp_path
    assert "test/pass@1" in read_scalars(tmp_path)[0]


def test_without_a_logger_too(tmp_path, loop):
    module, data = loop.module(), loop.Problems(4, 4)
    for stage in ("fit", "validate"):
        getattr(loop.trainer(RolloutTable(), default_root_dir=tmp_path), stage)(module, datamodule=data)
    assert (tmp_path / "rollouts" / "validate_step000002.jsonl").exists()
    assert (tmp_path / "validate-1" / "rollouts" / "validate_step000002.jsonl").exists()


def test_a_configuration_begins_a_new_run(run):
    """That of a run that was gone on with said `ckpt_path: last`, so that a run with it went on with another one unasked."""
    run("fit")
    run("fit", "--ckpt_path", "last", steps=3)
    assert yaml.safe_load(Path("runs/x/config.yaml").read_text())["ckpt_path"] is None
    run("test", "--ckpt_path", "runs/x")
    assert yaml.safe_load(Path("runs/x/test_config.yaml").read_text())["ckpt_path"] == "runs/x/checkpoints/last.ckpt"
    begun = cli.main(["fit", "--config", "runs/x/config.yaml", "--trainer.logger.init_args.name", "y"])
    assert begun.trainer.ckpt_path is None and begun.trainer.global_step == 3


@pytest.mark.parametrize("switch", ["enable_progress_bar", "enable_checkpointing"])
def test_switches_of_the_trainer(run, caplog, switch):
    caplog.set_level("INFO")
    command = run("fit", f"--trainer.{switch}=false")
    name = {"enable_progress_bar": "RolloutProgressBar", "enable_checkpointing": "ModelCheckpoint"}[switch]
    assert f"trainer.{switch} is false: {name} of the configuration is left out" in caplog.text
    assert command.trainer.global_step == 2
    assert bool([*Path("runs/x").rglob("*.ckpt")]) == (switch == "enable_progress_bar")


@pytest.mark.parametrize(
    "words", [["--trainer.logger.init_args.save_dir"], ["--trainer.logger=false", "--trainer.default_root_dir"]]
)
def test_a_folder_that_cannot_be_written_to_is_refused_before_weights_are_loaded(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards, as the next
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    Path("file").write_text("")
    with pytest.raises(
        ValueError, match=r"the run's folder file.* cannot be made or written to \(Not a directory|File exists"
    ):
        cli.main(["fit", "--config", "tiny", "--trainer.callbacks=[]", *words, "file"])
