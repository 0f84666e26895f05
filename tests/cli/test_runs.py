"""`masa predict|test|validate --ckpt_path RUN` without a configuration: the run says what is needed, and nothing hostile."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from masa_lightning import cli
from masa_lightning.cli.runs import with_run
from masa_lightning.data.texts import TextDataModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.run_folder import run_folder
from masa_lightning.modules.saved_run import folder_of
from masa_lightning.report.runs import load_runs
from masa_lightning.settings import Evaluation

pytestmark = [
    pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty"),
    pytest.mark.timeout(180),
]
ROWS = [{"problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(8)]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "other.jsonl").write_text('{"problem": "7+8", "answer": "15"}\n{"problem": "6+8", "answer": "14"}\n')
    settings: dict[str, Any] = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": str(folder / "runs"), "name": "x", "version": ""},
            },
            "callbacks": [
                {"class_path": "masa_lightning.RolloutTable"},
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"every_n_train_steps": 1, "save_last": True, "save_top_k": 0},
                },
            ],
        },
        "model": {
            "class_path": "masa_lightning.MASALightningModule",
            "init_args": {
                "model": str(tiny_checkpoint),
                "sampler": {"class_path": "masa_lightning.TransformersSampler"},
                "prompts": {"solution": "S:{problem}", "meta": "M:{problem}"},
                "num_generations": 2,
                "num_meta_generations": 2,
                "max_prompt_length": 32,
                "max_completion_length": 6,
                "meta": {"pass_rate_scale": 5},
                "evaluation": {"num_generations": 2, "num_meta_generations": 3},
            },
        },
        "data": {
            "class_path": "masa_lightning.MathDataModule",
            "init_args": {
                "train": str(folder / "train.jsonl"),
                "validation": str(folder / "other.jsonl"),
                "validation_split": "train",
                "test": str(folder / "other.jsonl"),
                "test_split": "train",
                "batch_size": 2,
            },
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["masa"])
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        cli.main(["fit", "--config", str(folder / "run.yaml")])
    yield folder / "runs" / "x"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "x"))


def changed(run: Path, **settings: Any) -> None:
    path = run / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["hyper_parameters"] |= settings
    torch.save(saved, path)


def predictions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs/predict/predictions.jsonl").read_text().splitlines()]


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_predict_a_problem(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = cli.main(["predict", "--ckpt_path", str(run), "--problem", "Compute 17: 5", "--problem=1+1"])
    assert command is not None
    assert type(command.model) is MASALightningModule
    assert command.model.quantities.pass_rate_scale == 5
    assert command.model.prompts.meta == "M:{problem}"
    assert command.model.max_completion_length == 6
    assert [(line["problem"], line["predictions"]) for line in predictions()] == [("Compute 17: 5", 3), ("1+1", 3)]
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights = command.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in saved.items())
    printed = capsys.readouterr().out
    assert "Compute 17: 5" in printed
    assert "pass rate" in printed


def test_predict_by_the_configuration_of_the_run(trained: Path) -> None:
    """Which names no writer of predictions: so does that of a run whose rewards are not `masa`'s own."""
    cli.main(["predict", "--ckpt_path", str(trained), "--config", str(trained / "config.yaml"), "--problem", "1+1"])
    (written,) = trained.rglob("predictions.jsonl")
    assert [json.loads(line)["problem"] for line in written.read_text().splitlines()] == ["1+1"]
    written.unlink()


def test_predict_and_solve_a_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.txt").write_text("1+2\n2+3\n")
    override = "--model.init_args.evaluation.num_meta_generations=1"
    cli.main(
        ["predict", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--problems", "two.txt", "--solve", override]
    )
    assert [(line["problem"], line["predictions"]) for line in predictions()] == [("1+2", 1), ("2+3", 1)]
    assert all("solved" in line for line in predictions())
    assert "answer" in capsys.readouterr().out


def test_a_problem_is_drawn_alike_however_it_is_given(run: Path) -> None:
    Path("some.txt").write_text("9+9\n1+2\n")
    Path("some.jsonl").write_text('{"problem": "1+2", "id": "x"}\n')
    found = []
    for words in (["--problem", "1+2"], ["--problems", "some.txt"], ["--problems", "some.jsonl"]):
        cli.main(["predict", "--ckpt_path", str(run), "--solve", *words])
        (line,) = [line for line in predictions() if line["problem"] == "1+2"]
        found.append({name: value for name, value in line.items() if name not in ("id", "source")})
    assert found[0]["solved"]["texts"]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        (["--model.init_args.model", "tiny"], [None, None]),
        (["--model.model", "tiny", "--model.max_completion_length", "9"], [None, 9]),
        (["--model.model", "some/model"], [2048, 16384]),
    ],
)
def test_a_model_that_says_its_lengths_keeps_them(
    capsys: pytest.CaptureFixture[str], words: list[str], lengths: list[int | None]
) -> None:
    """Those of the shipped configuration are for others."""
    found = settings_of(capsys, "predict", "--config", "predict", *words, "--problem", "1+1")
    assert [found[f"model.init_args.max_{kind}_length"] for kind in ("prompt", "completion")] == lengths


def test_words_win_over_a_file_of_problems(capsys: pytest.CaptureFixture[str]) -> None:
    Path("some.jsonl").write_text('{"question": "1+1"}\n')
    words = ["--config", "predict", "--problems", "some.jsonl", "--data.predict_split", "train[:1]"]
    found = settings_of(capsys, "predict", *words)
    assert (found["data.init_args.predict"], found["data.init_args.predict_split"]) == ("some.jsonl", "train[:1]")
    words = ["--config", "predict", "--problem", "1+1", "--data.val_batch_size", "3"]
    assert settings_of(capsys, "predict", *words)["data.init_args.val_batch_size"] == 3


def test_settings_that_are_taken_away(run: Path) -> None:
    """As `evaluation: null` over a configuration that has some: the defaults."""
    null = ["--model.init_args.evaluation", "null"]
    command = cli.main(["validate", "--config", str(run / "config.yaml"), "--trainer.limit_val_batches", "1", *null])
    assert command is not None
    assert command.model.evaluation == Evaluation()


@pytest.mark.parametrize("command", ["test", "validate"])
def test_measure_with_the_runs_own_problems(run: Path, command: str) -> None:
    before = (run / "config.yaml").read_text()
    done = cli.main([command, "--ckpt_path", str(run)])
    assert done is not None
    assert ("test/pass@1" if command == "test" else "val/pass@1") in done.trainer.callback_metrics
    folder = Path(str(done.trainer.log_dir)).resolve()
    assert folder == run if command == "test" else folder.parent == run and folder.name.startswith("validate-")
    names = [type(c).__name__ for c in done.trainer.callbacks]
    assert "RolloutTable" in names
    assert "ModelCheckpoint" not in names
    assert (run / "config.yaml").read_text() == before


def test_another_test_of_a_run_is_kept_beside_the_first(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It overwrote the first one's rollouts, results and configuration. The same test takes its own place again."""
    caplog.set_level("INFO")

    def tested(*words: str) -> str:
        done = cli.main(["test", "--ckpt_path", str(run), *words])
        assert done is not None
        place = Path(str(done.trainer.log_dir))
        assert run_folder(done.trainer).resolve() == place.resolve()
        assert (place / "test_config.yaml").is_file()
        assert [*(place / "rollouts").glob("test_*.jsonl")]
        return place.name

    def contents() -> dict[Path, bytes]:
        files = [p for p in run.rglob("*") if p.is_file() and not p.relative_to(run).parts[0].startswith("test-")]
        return {p: p.read_bytes() for p in files if p.suffix != ".lock"}

    with pytest.raises(ValueError, match="max_prompt_length 999999"):
        tested("--model.max_prompt_length", "999999")
    assert tested() == "x"  # one that failed keeps no place
    first = contents()
    assert tested("--model.evaluation.num_generations", "3") == "test-1"
    assert "x has another test: this test is kept in" in caplog.text
    assert first == contents()
    assert tested("--model.evaluation", "{num_generations: 3}") == "test-1"  # the same
    reported = load_runs([run, run / "test-1"])  # each with its own
    assert [r.of_stage("test")[-1].settings["num_generations"] for r in reported] == ["2", "3"]
    assert tested("--trainer.limit_test_batches", "1") == "test-2"
    assert first == contents()
    assert tested() == "x"
    first = contents()
    os.utime(run / "checkpoints" / "last.ckpt", (1, 1))  # of another step, as after more training
    assert tested() == "test-3"
    assert first == contents()


def settings_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command would run with, by key."""
    with pytest.raises(SystemExit):
        cli.main([*words, "--print_config"])
    return dict(flat(yaml.safe_load(capsys.readouterr().out)))


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from flat(each, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("data.init_args.val_batch_size", "data.init_args.val_batch_size", 3),
        ("data.val_batch_size", "data.init_args.val_batch_size", 3),
        ("data.test", "data.init_args.test", "a: b"),  # text with a colon goes another way
        ("model.init_args.evaluation.num_generations", "model.init_args.evaluation.num_generations", 1),
        ("model.evaluation.num_generations", "model.init_args.evaluation.num_generations", 1),
        ("model.sampler.init_args.batch_size", "model.init_args.sampler.init_args.batch_size", 3),
        ("trainer.limit_test_batches", "trainer.limit_test_batches", 1),
        ("trainer.logger.init_args.name", "trainer.logger.init_args.name", "other"),
        ("trainer.logger.name", "trainer.logger.init_args.name", "other"),
        ("seed_everything", "seed_everything", 3),
    ],
)
def test_a_word_changes_one_setting_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str], command: str, word: str, key: str, value: Any
) -> None:
    words = [command, "--ckpt_path", str(run)]
    before, after = settings_of(capsys, *words), settings_of(capsys, *words, f"--{word}", str(value))
    assert {name: found for name, found in after.items() if before.get(name) != found} == {key: value}
    assert before.keys() == after.keys()


def test_a_dictionary_changes_what_it_names(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a group of the run's settings, as single words do."""
    Path("group.yaml").write_text("val_batch_size: 3\n")
    batch, count = "data.init_args.val_batch_size", "model.init_args.evaluation.num_generations"
    drawn = "model.init_args.sampler.init_args.batch_size"
    cases = [
        ("config", '{"data": {"init_args": {"val_batch_size": 3}}}', batch),
        ("data", "{init_args: {val_batch_size: 3}}", batch),
        ("data", "{val_batch_size: 3}", batch),
        ("data", "{class_path: masa_lightning.MathDataModule, init_args: {val_batch_size: 3}}", batch),
        ("data", "group.yaml", batch),
        ("data.init_args", "{val_batch_size: 3}", batch),
        ("model.evaluation", "{num_generations: 3}", count),
        ("model.init_args.evaluation", "{num_generations: 3}", count),
        ("model", "{evaluation: {num_generations: 3}}", count),
        ("model.sampler", "{init_args: {batch_size: 3}}", drawn),
        ("model.sampler", "{class_path: masa_lightning.TransformersSampler, init_args: {batch_size: 3}}", drawn),
        ("model.meta", "{pass_rate_scale: 3}", "model.init_args.meta.pass_rate_scale"),
        ("trainer", "{limit_test_batches: 3}", "trainer.limit_test_batches"),
        ("trainer.logger", "{init_args: {max_queue: 3}}", "trainer.logger.init_args.max_queue"),
    ]
    words = ["test", "--ckpt_path", str(run)]
    before = settings_of(capsys, *words)
    for word, text, key in cases:
        after = settings_of(capsys, *words, f"--{word}", text)
        assert {name: found for name, found in after.items() if before.get(name) != found} == {key: 3}
        assert before.keys() == after.keys()


@pytest.mark.parametrize(
    "words",
    [
        ["--model.evaluation", "{solve: true}"],
        ["--model.init_args.evaluation={solve: yes}"],
        ["--model", "{evaluation: {solve: true}}"],
        ["--model.init_args", '{"evaluation": {"solve": true}}'],
        ["--config", "{model: {init_args: {evaluation: {solve: true}}}}"],
        ["--model.evaluation", "solve.yaml"],
        ["--model.evaluation.solve", "false", "--model.evaluation.solve", "true"],
        ["--solve"],
    ],
)
def test_solving_takes_what_solves_however_it_is_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """As the run's own grader, without which another one would judge."""
    grader = {"class_path": "masa_lightning.MathGrader", "init_args": {"timeout": 17.0}}
    changed(run, grader=grader)
    Path("solve.yaml").write_text("solve: true\n")
    command = ["predict", "--ckpt_path", str(run), "--problem", "1+1"]
    before, after = settings_of(capsys, *command), settings_of(capsys, *command, *words)
    assert before["model.init_args.grader"] is None
    assert (after["model.init_args.evaluation.solve"], after["model.init_args.grader.init_args.timeout"]) == (True, 17)
    no = ["--model.evaluation", '{"solve": false}']
    assert settings_of(capsys, *command, *words, *no)["model.init_args.grader"] is None


@pytest.mark.parametrize(
    "words", [["--model", "{init_args: {trust_remote_code: true}}"], ["--model.trust_remote_code=true"]]
)
def test_trust_in_a_model_that_the_checkpoint_names(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert "trust_remote_code" in error_of(capsys, "test", "--ckpt_path", str(run), *words)


@pytest.mark.parametrize("form", ["{}", "{{class_path: masa_lightning.{}}}"])
def test_another_class_of_data_takes_the_place_of_the_runs(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, form: str
) -> None:
    caplog.set_level("INFO")
    words = ["test", "--ckpt_path", str(run), "--data", form.format("ArithmeticDataModule")]
    assert settings_of(capsys, *words)["data.init_args.batch_size"] == 32  # the class's own, and not the run's 2
    place = "takes the place of the run's masa_lightning.MathDataModule with all its settings"
    assert f"problems of masa_lightning.ArithmeticDataModule, which {place}" in caplog.text
    words = ["test", "--ckpt_path", str(run), "--data", form.format("MathDataModule"), "--data.test", "other.jsonl"]
    found = settings_of(capsys, *words)
    assert (found["data.init_args.test"], found["data.init_args.test_split"]) == ("other.jsonl", "train")
    assert "MathDataModule, test other.jsonl" in caplog.text


OWN = """
from collections.abc import Sequence
from masa_lightning.types import Problem

class Brief:
    def __call__(self, problem: Problem, completions: Sequence[str]) -> Sequence[float]:
        return [1.0 for _ in completions]
"""


def test_to_predict_takes_no_reward(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor a grader, unless problems are solved: those of the user's own are then needed, and are not made."""
    own = {"class_path": "own.Brief", "init_args": {}}
    changed(run, reward_functions=[own], reward_weights=[0.1], grader=own)
    words = ["predict", "--ckpt_path", str(run), "--problem", "1+1"]
    cli.main(words)
    assert [line["problem"] for line in predictions()] == ["1+1"]
    capsys.readouterr()
    assert "stranger's: grader: own.Brief." in error_of(capsys, *words, "--solve")


PLANTED: dict[str, Any] = {"class_path": f"{__name__}.Planted"}


class Planted:
    """What a stranger names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("it was made")


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": PLANTED},
        {"sampler": f"{__name__}.Planted"},
        {"grader": {"class_path": "masa_lightning.AnswerGrader", "init_args": {"math": PLANTED}}},
        {"reward_functions": [PLANTED]},
        {"reward_functions": [f"{__name__}.Planted"]},
        {"reward_functions": [{"python": "rewards.brief"}]},
        {"chat_template_kwargs": {"a": PLANTED}},
        {"prompts": "/etc/hostname"},
        {"grader": {"class_path": "masa_lightning.AnswerGrader", "init_args": {"math": "planted.Planted"}}},
        {"grader": {"class_path": "masa_lightning.AnswerGrader", "init_args": "planted.yaml"}},
        {"grader": {"class_path": "masa_lightning.data.reasoning_gym.ReasoningGymGrader"}},
        {"grader": {"class_path": "masa_lightning.cli.__main__.Planted"}},
    ],
)
def test_a_strangers_checkpoint_is_refused(
    run: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("planted.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.syspath_prepend(".")
    changed(run, **settings)
    said = error_of(capsys, "test", "--ckpt_path", str(run))
    assert f"stranger's: {next(iter(settings))}" in said
    assert "name its configuration: --config" in said


def test_a_strangers_class_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["masa"]["class_path"] = f"{__name__}.Planted"
    torch.save(saved, path)
    assert f"model: {__name__}.Planted" in error_of(capsys, "test", "--ckpt_path", str(run))


def test_a_strangers_config_is_not_followed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["callbacks"] += [PLANTED]
    config["trainer"]["strategy"] = PLANTED
    config["trainer"]["plugins"] = [PLANTED]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    settings = yaml.safe_load(with_run(["test", "--ckpt_path", str(run)])[2])
    assert "Planted" not in str(settings)
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"data": PLANTED}))
    assert f"data: {__name__}.Planted" in error_of(capsys, "test", "--ckpt_path", str(run))


@pytest.mark.parametrize("name", ["cluster_environment", "ddp_comm_hook", "checkpoint_io"])
def test_a_strangers_strategy_imports_nothing(run: Path, name: str) -> None:
    """jsonargparse imports what a text names where Lightning wants an object or a function."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"static_graph": True}}
    for planted in ({}, {name: "planted.Planted"}):
        init_args = strategy["init_args"] | planted
        config["trainer"]["strategy"] = strategy | {"init_args": init_args}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        settings = yaml.safe_load(with_run(["test", "--ckpt_path", str(run)])[2])
        assert ("strategy" in settings["trainer"]) == (not planted)


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ([], 8),
        (["--trainer.devices", "1"], "auto"),
        (["--trainer.devices=[0, 1, 3]"], 3),
        (["--trainer", "{devices: 1}"], "auto"),
        (["--trainer.devices", "2", "--trainer.num_nodes", "2"], 4),
        (["--trainer.devices", "2", "--trainer.strategy.data_parallel_size", "2"], 8),  # the user's own, which win
    ],
)
def test_another_number_of_processes(run: Path, words: list[str], processes: int | str) -> None:
    """A run of eight processes is measured by as many as are named."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    sizes = {"data_parallel_size": 8, "tensor_parallel_size": 1}
    strategy = {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy", "init_args": sizes}
    config["trainer"] |= {"devices": 8, "strategy": strategy}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    made = with_run(["validate", "--ckpt_path", str(run), *words])
    found = yaml.safe_load(made[made.index("--config") + 1])["trainer"]["strategy"]
    assert (found if found == "auto" else found["init_args"]["data_parallel_size"]) == processes


def test_a_run_writes_into_its_run_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    folders = [str(run / "pictures"), "elsewhere", str(run / ".." / ".." / "..")]
    config["trainer"]["callbacks"] = [
        {"class_path": "masa_lightning.BenchmarkReport", "init_args": {"dirpath": folder}} for folder in folders
    ]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    settings = yaml.safe_load(with_run(["test", "--ckpt_path", str(run)])[2])
    assert [c["init_args"]["dirpath"] for c in settings["trainer"]["callbacks"]] == folders[:1]


def test_what_is_read_is_said(run: Path, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with_run(["test", "--ckpt_path", str(run)])
    model = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]["model"]
    assert f"; model {model}; problems of runs/x/config.yaml: MathDataModule, test {trained.parents[1]}" in caplog.text


def test_what_is_missing_is_said(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "none is named; expected --ckpt_path RUN" in error_of(capsys, "predict", "--problem", "1+1")
    assert "there is no file 'no.txt'" in error_of(capsys, "predict", "--ckpt_path", str(run), "--problems", "no.txt")
    assert "either --problem TEXT" in error_of(
        capsys, "predict", "--ckpt_path", str(run), "--problem", "1", "--problems", "no.txt"
    )
    assert "there is no checkpoint 'no.ckpt'" in error_of(capsys, "test", "--ckpt_path", "no.ckpt")
    for command in ("fit", "test"):  # before weights are loaded, and an earlier run makes room
        assert "there is no checkpoint 'no.ckpt'" in error_of(
            capsys, command, "--config", "tiny", "--ckpt_path", "no.ckpt"
        )
    (run / "config.yaml").write_text("trainer: {a: [\n")
    assert "config.yaml, line 2 cannot be read: expected" in error_of(capsys, "test", "--ckpt_path", str(run))
    (run / "config.yaml").unlink()
    assert "expected --data CLASS" in error_of(capsys, "test", "--ckpt_path", str(run))
    assert "--data.validation FILE" in error_of(capsys, "validate", "--ckpt_path", str(run))
    assert "expected --problem TEXT" in error_of(capsys, "predict", "--ckpt_path", str(run))
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").mkdir()
    assert "is a folder without meta.pt and .metadata" in error_of(capsys, "test", "--ckpt_path", str(run))
    shutil.rmtree(run / "checkpoints")
    assert "there is no checkpoint in" in error_of(capsys, "test", "--ckpt_path", str(run))


def test_a_configuration_is_followed_alone(run: Path) -> None:
    words = ["test", "--config", "run.yaml", "--ckpt_path", str(run)]
    assert with_run(words) == [*words[:-1], str(run / "checkpoints" / "last.ckpt")]


def test_the_folder_of_the_run_that_wrote_a_checkpoint(run: Path) -> None:
    assert folder_of(run / "checkpoints" / "last.ckpt").resolve() == run.resolve()


def test_problems_that_are_texts() -> None:
    data = TextDataModule(["1+1", "a: b"])
    assert [p.problem for batch in data.predict_dataloader() for p in batch] == ["1+1", "a: b"]
    for wrong in ([], ["1+1", " "]):
        with pytest.raises(ValueError, match="expected at least one, and none that is empty"):
            TextDataModule(wrong)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("kind", ["none", "mlflow", "wandb"])
def test_a_configuration_is_that_of_one_run(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Where the first logger names one folder for all runs, or there is none, the next run does not overwrite it."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY", "WANDB_SILENT"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    logger: Any = False
    if kind == "wandb":
        wandb = pytest.importorskip("wandb")
        path = "lightning.pytorch.loggers.WandbLogger"
        logger = {"class_path": path, "init_args": {"save_dir": str(tmp_path / "online"), "offline": True}}
    if kind == "mlflow":
        pytest.importorskip("mlflow")
        path = "lightning.pytorch.loggers.MLFlowLogger"
        logger = {"class_path": path, "init_args": {"tracking_uri": f"file:{tmp_path}/mlruns"}}
    folders = []
    for seed in ("1", "2"):
        config = yaml.safe_load((trained.parents[1] / "run.yaml").read_text())
        config["trainer"] |= {"logger": logger, "max_steps": 0, "callbacks": []}
        done = cli.main(["fit", "--config", json.dumps(config), "--seed_everything", seed])
        assert done is not None
        folders.append(run_folder(done.trainer))
        assert f"; files in {folders[-1].relative_to(tmp_path)}\n" in capsys.readouterr().out
        if kind == "wandb":
            wandb.finish()
    if kind == "mlflow":  # which warns of each name with an @; that is an error in tests
        caplog.clear()
        with caplog.at_level("INFO"):
            cli.main(
                ["validate", "--config", json.dumps(config | {"trainer": config["trainer"] | {"limit_val_batches": 1}})]
            )
        assert caplog.text.count("MLflow allows no @ in names: val/pass@1 is val/pass1 there") == 1
    kept = [yaml.safe_load(file.read_text())["seed_everything"] for file in sorted(tmp_path.rglob("config*.yaml"))]
    assert sorted(kept) == [1, 2]
    assert yaml.safe_load((folders[1] / "config.yaml").read_text())["seed_everything"] == 2
    assert len({*folders}) == (1 if kind == "none" else 2)
    if kind == "none":  # a run that goes on keeps its own
        cli.main(["fit", "--config", json.dumps(config), "--ckpt_path", str(trained / "checkpoints" / "last.ckpt")])
        assert len([*tmp_path.rglob("config*.yaml")]) == 2
