"""What a wrong configuration is answered with: a few lines that name key, finding and remedy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from masa_lightning.cli import errors, main
from masa_lightning.cli.errors import readable

MOVED = (
    "evaluation.solve, evaluation.compare, and for the controls callbacks of the Trainer: PredictiveGating, EarlyCutoff, "
    "NotionHinting, SampleAllocation (configs/predict.yaml)"
)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model.init_args.num_generations=abc", "model.num_generations: expected int, got abc"),
        ("model.num_generations=abc", "model.num_generations: expected int, got abc"),
        (
            "model.init_args.algorithm.loss_type=ppo",
            "model.algorithm.loss_type: expected one of ['ppo_clip', 'gspo', 'cispo', 'sapo'], got ppo; "
            "did you mean ppo_clip?",
        ),
        (
            "model.init_args.num_generation=3",
            "model: MASALightningModule has no setting 'num_generation'; did you mean num_generations?",
        ),
        (
            "model.init_args.inference.solve=true",
            f"model: there is no setting 'inference.solve' any more; expected {MOVED}",
        ),
        (
            "model.init_args.inference={hint: false}",
            f"model: there is no setting 'inference.hint' any more; expected {MOVED}",
        ),
        (
            "model.init_args.learning_rate=1e-4",
            "model: there is no setting 'learning_rate' any more; expected optimization.optimizer.lr",
        ),
        (
            "model.init_args.quantities.scale=3",
            "model.quantities: masa_lightning.Quantity is the base of what this takes; expected its classes in a list: "
            "--model.quantities '[package.Class, {class_path: package.Class, init_args: {NAME: VALUE}}]'",
        ),
        (
            "model.init_args.meta.meta_weight=2",
            "model: there is no setting 'meta.meta_weight' any more; expected meta.loss_weight",
        ),
        (
            "model.init_args.optimization.learning_rate=1e-4",
            "model: there is no setting 'optimization.learning_rate' any more; expected optimization.optimizer.lr",
        ),
        (
            "model.init_args.algorithm.difficulty_scoring=brier",
            "model.algorithm: there is no setting 'difficulty_scoring' any more; expected meta.difficulty_scoring",
        ),
        (
            "model.init_args.meta_reward_weights={length: 0}",
            "model: there is no setting 'meta_reward_weights.length' any more; expected meta.reward_weights",
        ),
        (
            "model.init_args.algorithm.importance_sampling_cap=3",
            "model.algorithm: there is no setting 'importance_sampling_cap' any more; expected "
            "algorithm.importance_sampling_clip_max",
        ),
        (
            "model.init_args.algorithm.importance_sampling=token",
            "model.algorithm.importance_sampling: expected one of ['off', 'token_truncate', 'token_mask', "
            "'sequence_truncate', 'sequence_mask'], got token; did you mean token_truncate?",
        ),
        (
            "model.init_args.loss_type=gspo",
            "model: MASALightningModule has no setting 'loss_type'; expected algorithm.loss_type",
        ),
        (
            "model.init_args.sync_ref_model=true",
            "model: MASALightningModule has no setting 'sync_ref_model'; expected masa_lightning.ReferenceSync "
            "among trainer.callbacks",
        ),
        (
            "model.init_args.quantities=[{class_path: masa_lightning.Quantity}]",
            "model.quantities: masa_lightning.Quantity is the base of what this takes; expected its classes in a list: "
            "--model.quantities '[package.Class, {class_path: package.Class, init_args: {NAME: VALUE}}]'",
        ),
        ("model.help=Nothing", "there is no class 'Nothing'; did you mean Notions?"),
        (
            "model.init_args.optimization.optimizer.lr=abc",
            "model.optimization.optimizer.lr: expected float, got abc",
        ),
        (
            "model.init_args.optimization.optimizer=torch.optim.Adamm",
            "model.optimization.optimizer: there is no class 'torch.optim.Adamm'; did you mean Adam?",
        ),
        (
            "model.optimization.lr_scheduler=ReduceLROnPlateau",
            "model.optimization.lr_scheduler: there are several classes ReduceLROnPlateau; expected its path, "
            "lightning.pytorch.cli.ReduceLROnPlateau",
        ),
        (
            "model.init_args.num_mini_batches=2",
            "model: there is no setting 'num_mini_batches' any more; expected optimization.num_mini_batches",
        ),
        (
            "model.init_args.sampler={class_path: masa_lightning.VLLMSampler, init_args: {dtyp: x}}",
            "model.sampler: VLLMSampler has no setting 'dtyp'; did you mean dtype?",
        ),
        (
            "model.init_args.sampler.init_args.dtype=x",
            "model.sampler: of which class? Expected it first: --model.sampler VLLMSampler, or in a YAML class_path with "
            "init_args",
        ),
        (
            'config={"data": {"class_path": "masa_lightning.ArithmeticDataModule", "test_size": 3}}',
            "data: beside class_path stands what is none of it; expected its settings under init_args",
        ),
        ("model.init_args.lora={rank: x}", "model.lora.rank: expected int, got x"),
        (
            "model.init_args.evaluation={num_generations: a}",
            "model.evaluation.num_generations: expected int, got a",
        ),
        (
            "model=Foo",
            "model: there is no class 'Foo'; expected package.module.Class, such as masa_lightning.MASALightningModule",
        ),
        (
            "model=MASALightningModul",
            "model: there is no class 'MASALightningModul'; did you mean MASALightningModule?",
        ),
        (
            "model=ExpertSFT",
            "model: masa_lightning.ExpertSFT is no GRPOLightningModule; "
            "expected one, such as masa_lightning.MASALightningModule",
        ),
        (
            "model.sampler=ExpertSFT",
            "model.sampler: masa_lightning.ExpertSFT is no Sampler; expected one, such as masa_lightning.VLLMSampler",
        ),
        (
            "model.prompts.solutionn=x",
            "model: MASALightningModule has no setting 'prompts.solutionn'; did you mean prompts.solution?",
        ),
        (
            "model.init_args.prompts={solutions: x}",
            "model: MASALightningModule has no setting 'prompts.solutions'; did you mean prompts.solution?",
        ),
        (
            "model.reward_functions.limit=3",
            "model.reward_functions: settings of which function? Expected each in a list, one with settings by its class: "
            "--model.reward_functions '[package.function, {class_path: package.Class, init_args: {NAME: VALUE}}]'",
        ),
        ("model.init_args.reward_functions=boxed", "model.reward_functions: expected list, got boxed"),
        (
            "model.init_args.grader={class_path: masa_lightning.modules.grader.MathGrader}",  # where version 0.1 had it
            "model.grader: there is no class 'masa_lightning.modules.grader.MathGrader'; "
            "expected masa_lightning.MathGrader",
        ),
        (
            "data=masa_lightning.MathDataModul",
            "data: there is no class 'masa_lightning.MathDataModul'; did you mean MathDataModule?",
        ),
        ("data.init_args.batch_size=x", "data.batch_size: expected int, got x"),
        ("trainer.max_steps=two", "trainer.max_steps: expected int, got two"),
        ("trainer.max_stepz=3", "there is no option 'trainer.max_stepz'; did you mean trainer.max_steps?"),
        ("trainer.max_step=3", "there is no option 'trainer.max_step'; did you mean trainer.max_steps?"),
        ("seed=3", "there is no option 'seed'; expected seed_everything"),
        ("learning_rate=1e-4", "there is no option 'learning_rate'; expected model.optimization.optimizer.lr"),
        ("lr=1e-4", "there is no option 'lr'; expected model.optimization.optimizer.lr"),
        ("beta=0.1", "there is no option 'beta'; expected model.algorithm.kl_coef"),
        (
            "temperature=0.5",
            "there is no option 'temperature'; expected model.sampling.temperature or model.evaluation.temperature",
        ),
        (
            "num_generations=4",
            "there is no option 'num_generations'; expected model.num_generations or model.evaluation.num_generations",
        ),
        ("max_steps=3", "there is no option 'max_steps'; expected trainer.max_steps"),
        ("batch_size=3", "there is no option 'batch_size'; expected data.batch_size"),
        ("model.beta=0.1", "model: MASALightningModule has no setting 'beta'; expected algorithm.kl_coef"),
        (
            "model.temperature=0.5",
            "model: MASALightningModule has no setting 'temperature'; expected sampling.temperature or "
            "evaluation.temperature",
        ),
        ('config={"lr": 1}', "there is no option 'lr'; expected model.optimization.optimizer.lr"),
        ("validate=false", "there is no option 'validate'; did you mean validate_first?"),
        (
            "model.num_generation=3",
            "model: MASALightningModule has no setting 'num_generation'; did you mean num_generations?",
        ),
        (
            "model.evaluation.pass_at+=3",
            "model: evaluation.pass_at takes its values at once and not with a +; expected "
            "--model.evaluation.pass_at [VALUE, VALUE]",
        ),
        (  # in YAML jsonargparse knows no short names of what has a protocol
            'config={"model": {"init_args": {"sampler": {"class_path": "TransformersSampler"}}}}',
            "model.sampler: there is no class 'TransformersSampler'; expected masa_lightning.TransformersSampler",
        ),
        (
            "model={class_path: GRPOLightningModule, init_args: {model: tiny, num_meta_generations: 4}}",
            "model: GRPOLightningModule has no setting 'num_meta_generations'; expected evaluation.num_meta_generations",
        ),
        ("trainer.logger=CSVLoger", "trainer.logger: there is no class 'CSVLoger'; did you mean CSVLogger?"),
        (
            "trainer.callbacks=[{class_path: masa_lightning.EarlyCutof}]",
            "trainer.callbacks: there is no class 'masa_lightning.EarlyCutof'; did you mean EarlyCutoff?",
        ),
        (
            "trainer.callbacks=[{class_path: masa_lightning.EarlyCutoff, init_args: {mode: shadw}}]",
            "trainer.callbacks.mode: expected one of ['off', 'shadow', 'act'], got shadw; did you mean shadow?",
        ),
        (
            'config={"trainr": {"max_steps": 3}}',
            "there is no option 'trainr.max_steps'; did you mean trainer.max_steps?",
        ),
    ],
)
def test_one_line_says_what_is_wrong(
    argument: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "tiny", f"--{argument}"])
    assert stopped.value.code == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"error: {said}"
    assert last.startswith("`masa fit --help=all` lists all options;")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            b"model:\n  class_path: masa_lightning.MASALightningModule\n init_args:\n    model: tiny\n",
            "mine.yaml, line 3 is no YAML: ",
        ),
        (b"model:\n\tinit_args: 3\n", "mine.yaml, line 2 is no YAML: "),
        (b"a: Solve: {problem}\n", "mine.yaml, line 1 is no YAML: "),
        (b"\x80\x81", "mine.yaml is no text; expected a configuration in YAML"),
        (b"- model\n", "mine.yaml holds a list; expected a configuration: keys such as model, data and trainer"),
        (b"", "mine.yaml holds nothing; expected a configuration"),
        (
            b"trainer: {max_steps: 1}\nmodel: {}\ntrainer: {}\n",
            "mine.yaml, line 3 has 'trainer' a second time, and YAML forgets",
        ),
        (
            b"a:\n  - b: 1\n    c: 2\n    b: 3\n",
            "mine.yaml, line 4 has 'b' a second time, and YAML forgets the first",
        ),
        (
            b"trainer: {max_steps: 1}\n",
            "data and model: nothing is given; expected a configuration, such as --config tiny, or",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_named(
    text: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    Path("mine.yaml").write_bytes(text)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "mine.yaml"])
    assert stopped.value.code == 2
    line, *_ = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize(
    ("words", "accelerator", "devices"),
    [
        ("--trainer.accelerator gpu", "gpu", "auto"),
        ("--trainer.accelerator cuda --trainer.devices 2", "cuda", "2"),
        ("--trainer.accelerator tpu", "tpu", "auto"),
        ("--trainer.devices 2,3", "auto", "2,3"),
        ("--trainer.devices [0,1]", "auto", r"\[0, 1\]"),
        ("--trainer.devices 0", "auto", "0"),
        ("--trainer.devices x", "auto", "x"),
    ],
)
def test_devices_that_are_not_there(
    words: str, accelerator: str, devices: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards, as the next
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    found = f"trainer.accelerator is {accelerator} and trainer.devices {devices}, and torch sees no GPU here; "
    with pytest.raises(
        ValueError, match=rf"^{found}expected --trainer\.accelerator cpu with --trainer\.devices N"
    ) as raised:
        main(["fit", "--config", "tiny", *words.split()])
    assert errors.is_mistake(raised.value)


OWN = """
def bare(problem, completions):
    return [1.0 for _ in completions]


class Brief:
    def __call__(self, problem, completions):
        return [1.0 for _ in completions]


class Unclosed:
    def grade(self, problems, completions, on_progress=None): ...


class Half:
    def grade(self, problems): ...

    def close(self) -> None: ...
"""


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "grader=own.Half",
            "is; expected these names and annotations: def grade(self, problems: Sequence[Problem], completions: "
            "Sequence[str], on_progress: ProgressFn | None = None) -> list[bool | None]",
        ),
        ("grader=own.Unclosed", "own.Unclosed is no Grader, as it has no close; expected all of its methods"),
    ],
)
def test_what_is_written_otherwise_than_its_protocol_is_told_how(
    argument: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", "--config", "tiny", f"--model.{argument}"])
    sys.modules.pop("own", None)
    first, _ = capsys.readouterr().err.splitlines()
    assert first.endswith(expected)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "my_reward.Brief",
            "there is no module 'my_reward' in the current folder {here} or installed; did you mean my_rewards?",
        ),
        (
            "other.Brief",
            "there is no module 'other' in the current folder {here} or installed; {here}/sub/other.py is not looked at: "
            "start masa in {here}/sub, or set PYTHONPATH={here}/sub",
        ),
        (
            "quite.other.Brief",
            "there is no module 'quite' in the current folder {here} or installed; expected it to be installed, or a folder "
            "quite in the one that masa is started in",
        ),
        (
            "quite.Brief",
            "there is no module 'quite' in the current folder {here} or installed; expected quite.py in the folder that "
            "masa is started in, or PYTHONPATH=FOLDER",
        ),
        ("my_rewards.Brieff", "there is no class 'my_rewards.Brieff'; did you mean Brief?"),
        ("lacking.Brief", "there is no module 'not_there', which lacking imports; expected it to be installed"),
        ("json.encode.Brief", "there is no class 'json.encode'; did you mean encoder?"),
    ],
)
def test_a_module_that_is_not_found(path: str, said: str, tmp_path: Path) -> None:
    """Named are the folders that were looked at, however jsonargparse moves between them, and a close name."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "my_rewards.py").write_text(OWN)
    (tmp_path / "sub" / "other.py").write_text(OWN)
    (tmp_path / "lacking.py").write_text("import not_there\n")
    config = {"model": {"init_args": {"reward_functions": [{"class_path": path}]}}}
    (tmp_path / "sub" / "own.yaml").write_text(json.dumps(config))
    assert first_line_of(tmp_path, "--config", "sub/own.yaml") == (
        f"error: model.reward_functions: {said.format(here=tmp_path)}"
    )


def test_the_current_folder_without_a_configuration_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(OWN)
    assert first_line_of(tmp_path, "--model.reward_functions", "[my_rewards.Brief]") == (
        f"error: model.reward_functions: there is no module 'my_rewards' installed, and the current folder {tmp_path} is "
        "looked at only with a configuration of your own. Expected --config FILE with it, or "
        f"PYTHONPATH={tmp_path}"
    )


def first_line_of(folder: Path, *words: str) -> str:
    return lines_of(folder, *words)[0]


def lines_of(folder: Path, *words: str) -> list[str]:
    """What the installed command says, of which Python does not put the current folder first."""
    command = [sys.executable, "-P", "-c", "from masa_lightning.cli import main; main()", "fit", "--config", "tiny"]
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__code__.co_filename).parents[2])}
    done = subprocess.run([*command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


OLD = """model:
  init_args:
    learning_rate: 1.0e-4
    meta_reward_weights: {length: 0}
    algorithm: {importance_sampling: token, importance_sampling_cap: 3}
"""


def test_all_settings_of_earlier_versions_are_named_at_once(tmp_path: Path) -> None:
    """One a run was named before."""
    (tmp_path / "old.yaml").write_text(OLD)
    lines = lines_of(tmp_path, "--config", "old.yaml", "--model.optimization.warmup_steps", "3")
    assert lines[:-1] == [
        "error: model: there is no setting 'learning_rate' any more; expected optimization.optimizer.lr",
        "model: there is no setting 'meta_reward_weights' any more; expected meta.reward_weights",
        "model: there is no setting 'algorithm.importance_sampling_cap' any more; expected "
        "algorithm.importance_sampling_clip_max",
        "model: there is no setting 'optimization.warmup_steps' any more; expected "
        "optimization.lr_scheduler.num_warmup_steps",
        "model.algorithm.importance_sampling: there is no 'token' any more; expected token_truncate",
    ]


UNTYPED = """
class Judge:
    def __init__(self, words, limit=None, other: int | None = None): ...

    def __call__(self, problem, completions):
        return [0.0 for _ in completions]
"""


@pytest.mark.parametrize(
    ("given", "lacks"),
    [
        ("own.Judge", True),
        ("{class_path: own.Judge, init_args: {limit: 3}}", True),
        ("{class_path: own.Judge, init_args: {words: null}}", True),
        ("{class_path: own.Judge, init_args: {words: 3}}", False),
    ],
)
def test_an_argument_without_a_type_is_not_left_out(given: str, lacks: bool, tmp_path: Path) -> None:
    """Before: it was None, without a word."""
    (tmp_path / "own.py").write_text(UNTYPED)
    (tmp_path / "own.yaml").write_text(f"model: {{init_args: {{reward_functions: [{given}]}}}}")
    lines = lines_of(tmp_path, "--config", "own.yaml", "--trainer.accelerator", "nothing")
    if lacks:
        assert lines[0] == (
            "error: model.reward_functions: Judge needs 'words', which is not given; expected it under init_args: "
            "{class_path: own.Judge, init_args: {words: VALUE}}"
        )
    else:
        assert "words" not in "\n".join(lines)
        assert "nothing" in lines[0]


@pytest.mark.parametrize("key", sorted({*errors._OTHERS.values()}))
def test_words_of_others_name_settings_that_are_there(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    with pytest.raises(SystemExit):
        main(["fit", "--config", "tiny", "--data=MathDataModule", f"--{key}=1", "--print_config"])
    printed = capsys.readouterr()
    assert "there is no option" not in printed.err
    assert "has no setting" not in printed.err


@pytest.mark.parametrize("strategy", ["deepspeed_stage_2", "fsdp", "lightning.pytorch.strategies.DeepSpeedStrategy"])
def test_a_strategy_that_cannot_work_is_not_advised_to_be_installed(
    strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards, as the next
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    with pytest.raises(
        ValueError, match=r"flattened weights.*expected one process, DDP \(--trainer\.strategy ddp\), or"
    ):
        main(["fit", "--config", "tiny", "--trainer.strategy", strategy])


def test_what_is_monitored_and_not_logged_is_a_mistake(loop: Any) -> None:
    stopper = EarlyStopping("loss", check_on_train_epoch_end=True)
    with pytest.raises(RuntimeError, match=r"conditioned on metric `loss` .*`reward`") as raised:
        loop.fit(loop.module(), loop.Problems(4), stopper)
    assert errors.is_mistake(raised.value)


@pytest.mark.parametrize("several", [False, True])
def test_why_a_logger_cannot_be_made_is_said(several: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """jsonargparse says of several that they are no loggers."""
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setattr(sys, "argv", ["masa"])
    logger = {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": "file:./mlruns"}}
    with pytest.raises(ValueError, match=r"^MLFlowLogger: MlflowException: .*MLFLOW_ALLOW_FILE_STORE"):
        main(["fit", "--config", "tiny", f"--trainer.logger={json.dumps([logger] if several else logger)}"])


def test_a_configuration_without_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    (tmp_path / "mine.yaml").write_text("model: {num_generations: 4}\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "mine.yaml")])
    assert capsys.readouterr().err.splitlines() == [
        "error: model: model is missing; expected it in YAML or as --model.model VALUE",
        "`masa COMMAND --help=all` lists all options; --debug shows where this comes from.",
    ]


def test_the_settings_of_a_class_come_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty lines of their names stood before."""
    monkeypatch.setattr(sys, "argv", ["masa"])
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "MASALightningModule"])
    said = capsys.readouterr().out
    first, second, *_ = said.splitlines()
    assert first.startswith("Trains a language model to solve problems")
    assert second.startswith("  --model.model")
    assert "](" not in said


def test_what_is_not_known_is_passed_on() -> None:
    assert readable("Something new\n  of several lines") == "Something new\nof several lines"
    assert readable("Errors:\n  - Expected a <class 'NoneType'>") == "Errors:\n  - Expected a <class 'NoneType'>"


def test_a_setting_before_its_class_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    with pytest.raises(SystemExit):
        main(["test", "--model=MASALightningModule", "--model.init_args.model=tiny", "--data.init_args.max_problems=8"])
    said = "data: LightningDataModule has no setting 'max_problems'; expected its class first, by class_path"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (
            '(self, budget): return {"type": "integer", "minimum": 9, "maximum": 3}',
            "of which nothing can be made (RuntimeError: ",
        ),
        ("(self): return {}", "failed in `schema` with TypeError: Pluses.schema() takes 1 positional argument but 2"),
    ],
)
def test_what_is_raised_on_purpose_is_told_and_not_its_cause(
    schema: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """jsonargparse wraps errors in others, and ours have causes: a line, and no traceback."""
    pytest.importorskip("xgrammar")
    (tmp_path / "own_pluses.py").write_text(
        "from masa_lightning import Quantity\nfrom masa_lightning.functional import Question\n"
        "class Pluses(Quantity):\n    key = 'pluses'\n"
        "    def ask(self, budget): return Question('pluses', 'how many', '<integer>')\n"
        "    def read(self, value): return value\n    def reward(self, predicted, group): return 0.0\n"
        f"    def truth(self, predicted, group): return 1\n    def schema{schema}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_pluses", raising=False)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.chdir(tmp_path)
    words = [
        "fit",
        "--config",
        "tiny",
        "--model.sampler",
        "TransformersSampler",
        "--model.meta.structured_outputs",
        "true",
    ]
    words += ["--model.quantities", "[{class_path: own_pluses.Pluses}]"]
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        main([*words, "--model.prompts.meta", "{problem} {quantities} {json}"])
    assert str(raised.value).startswith("the quantity 'pluses' (Pluses) ")
    assert errors.is_mistake(raised.value)  # so the command shows a line, and no traceback
