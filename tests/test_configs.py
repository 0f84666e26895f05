"""Every shipped YAML parses and builds, on a machine without its GPUs."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningCLI

from masa_lightning import cli as command
from masa_lightning.data.benchmarks import BenchmarkDataModule
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "predict")
EVALUATIONS = sorted((FOLDER / "eval").glob("*.yaml"))
OVERLAYS = [FOLDER / "with" / f"{name}.yaml" for name in ("dapo", "efficient", "grpo", "risk", "rlcr", "shadow")]
GPUS = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true", "--trainer.strategy=auto"]


def build(config: Path, *args: str) -> LightningCLI:
    return LightningCLI(
        GRPOLightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=["--config", str(config), *GPUS, *args],
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_parses_and_builds(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    cli = build(config)
    assert isinstance(cli.model, MASALightningModule)
    assert cli.model.policy is None  # building loads no weights
    assert cli.model.num_meta_generations > 0


@pytest.mark.parametrize("base", [FOLDER / "masa.yaml", FOLDER / "masa_1gpu.yaml"], ids=lambda path: path.stem)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_methods_are_laid_over_any_other(
    base: Path, overlay: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    plain, cli = build(base), build(base, "--config", str(overlay))
    assert isinstance(plain.model, MASALightningModule)
    assert isinstance(cli.model, MASALightningModule)
    changed = {
        "num_meta_generations": cli.model.num_meta_generations != plain.model.num_meta_generations,
        "algorithm": cli.model.algorithm != plain.model.algorithm,
        "confidence": cli.model.confidence is not plain.model.confidence,
        "callbacks": len(cli.trainer.callbacks) - len(plain.trainer.callbacks)
        == {"risk": 3, "shadow": 2}.get(overlay.stem, 4),
    }
    own = {"grpo": "num_meta_generations", "dapo": "algorithm", "rlcr": "confidence"}
    expected = own.get(overlay.stem, "callbacks")
    assert [name for name, is_other in changed.items() if is_other] == [expected]
    assert (cli.model.num_meta_generations == 0) == (overlay.stem == "grpo")
    assert cli.model.algorithm.dynamic_sampling == (overlay.stem == "dapo")
    assert cli.trainer.log_dir != plain.trainer.log_dir


def test_lora_and_the_efficient_tiny_are_laid_over_what_they_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    lora = build(FOLDER / "masa_1gpu.yaml", "--config", str(FOLDER / "with" / "lora.yaml"))
    sampler = lora.model.sampler
    assert (lora.model.lora.rank, lora.model.lora.alpha, lora.model.model_name) == (32, 64, "Qwen/Qwen3-8B-Base")
    assert (sampler.dtype, sampler.gpu_memory_utilization, sampler.enable_sleep_mode) == ("bfloat16", 0.45, True)
    assert Path(lora.trainer.log_dir or "") == Path("runs/masa_lora")
    tiny = build(FOLDER / "tiny.yaml", "--config", str(FOLDER / "with" / "tiny_efficient.yaml"))
    names = [type(callback).__name__ for callback in tiny.trainer.callbacks]
    assert {"ExpertSFT", "PredictiveGating", "EarlyCutoff", "CalibrationPlots"} <= {*names}
    assert names[-1] == "ModelCheckpoint"  # behind what has a state
    assert (tiny.model.model_name, tiny.model.optimization.optimizer.keywords["lr"]) == ("tiny", 2e-4)
    assert Path(tiny.trainer.log_dir or "") == Path("runs/tiny_efficient")


def test_quantities_are_chosen_in_yaml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    (tmp_path / "own.yaml").write_text("""
model:
  init_args:
    quantities:
      - class_path: masa_lightning.Notions
      - class_path: masa_lightning.PassRate
        init_args: {scale: 4, scoring: brier}
    meta: {reward_weights: {notion: 1, difficulty: 5}}
    prompts: {meta: "{quantities} {json} {problem}"}
""")
    model = build(FOLDER / "masa.yaml", "--config", "own.yaml").model
    assert model.quantities.names == ["notions", "pass_rate"]
    assert (model.quantities.pass_rate_scale, model.meta.reward_weights) == (4, {"notion": 1, "difficulty": 5})


def test_two_nodes_are_laid_over_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    printed = []
    for more in ([], ["--config", "with/two_nodes"]):
        with pytest.raises(SystemExit):
            command.main(["fit", "--config", "masa", *more, "--print_config"])
        printed.append(yaml.safe_load(capsys.readouterr().out))
    one, two = printed
    assert (one["trainer"]["num_nodes"], two["trainer"]["num_nodes"]) == (1, 2)
    devices = [run["trainer"]["devices"] * run["trainer"]["num_nodes"] for run in printed]
    assert [run["trainer"]["strategy"]["init_args"]["data_parallel_size"] for run in printed] == devices
    batches = [run["data"]["init_args"]["batch_size"] * n for run, n in zip(printed, devices, strict=True)]
    assert batches == [128, 128]
    sampler = two["model"]["init_args"]["sampler"]["init_args"]
    assert sampler == one["model"]["init_args"]["sampler"]["init_args"] | {"tensor_parallel_size": 4}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_another_surrogate_takes_its_papers_settings(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the command line, of a config that is silent about what goes with it; what is said there wins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    args = ["--model.init_args.algorithm.loss_type=gspo", "--model.init_args.algorithm.clip_high=0.001"]
    algorithm = build(config, *args).model.algorithm
    assert (algorithm.aggregation, algorithm.clip_low, algorithm.clip_high) == ("seq-mean-token-mean", 3e-4, 0.001)


BENCHMARKS = {
    "math": ["aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"],
    "logic": ["ar_lsat", "folio", "logical_deduction", "prontoqa", "proofwriter"],
    "science": ["arc_challenge", "gpqa_diamond", "rbench", "scibench"],
    "code": ["mbpp", "mbpp_plus", "humaneval", "humaneval_plus"],
    "local": ["asdiv", "gsm8k", "folio", "prontoqa"],
}
BENCHMARKS["all"] = [name for kind in ("math", "logic", "science", "code") for name in BENCHMARKS[kind]]


@pytest.mark.parametrize("config", EVALUATIONS, ids=lambda path: path.stem)
def test_evaluations_parse_and_build_as_the_command_does(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards: seed_everything sets it
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    asked: dict[str, Any] = {}
    # The parser reads the signature of what it will call.
    monkeypatch.setattr(
        Trainer, "test", functools.wraps(Trainer.test)(lambda self, *args, **kwargs: asked.update(kwargs))
    )
    args = ["--model.init_args.model=tiny", "--model.init_args.evaluation.num_meta_generations=8"]
    cli = command.main(["test", "--config", str(config), *GPUS, *args])
    assert cli is not None
    assert asked["verbose"] is False
    assert isinstance(cli.datamodule, BenchmarkDataModule)
    assert cli.datamodule.benchmarks == BENCHMARKS[config.stem]
    assert isinstance(cli.model, MASALightningModule)
    evaluation = cli.model.evaluation
    assert (evaluation.num_meta_generations, evaluation.temperature, evaluation.top_p) == (8, 0.6, 1.0)
    assert evaluation.pass_at == (evaluation.num_generations,)
    if config.stem != "local":  # as the paper
        assert (evaluation.num_generations, cli.model.max_completion_length) == (32, 16384)
    assert Path(cli.trainer.log_dir or "") == Path(f"runs/eval_{config.stem}")
    assert not cli.trainer.checkpoint_callbacks


@pytest.mark.parametrize("solve", [False, True])
def test_predict_parses_and_builds_as_the_command_does(
    solve: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        Trainer, "predict", functools.wraps(Trainer.predict)(lambda self, *args, **kwargs: asked.update(kwargs))
    )
    config = ["--config", str(FOLDER / "predict.yaml"), *GPUS, "--data.init_args.predict=problems.txt"]
    monkeypatch.setattr(sys, "argv", ["masa", "predict", *config, *["--solve"] * solve])
    command.main()
    assert asked["return_predictions"] is False
    assert isinstance(asked["model"], MASALightningModule)
    assert asked["model"].evaluation.solve is solve
    assert asked["datamodule"].sources["predict"][0] == "problems.txt"


def test_there_are_configs_and_each_fits_a_screen() -> None:
    assert {path.stem for path in EVALUATIONS} == {*BENCHMARKS}
    assert {"tiny", "smollm2_asdiv", "masa", "masa_1gpu"} == {path.stem for path in CONFIGS}
    others = {FOLDER / "with" / f"{name}.yaml" for name in ("lora", "tiny_efficient", "two_nodes")}
    assert {*(FOLDER / "with").glob("*.yaml")} == {*OVERLAYS, *others}
    assert all(len(path.read_text().splitlines()) <= 45 for path in FOLDER.glob("**/*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_last_checkpoint_is_of_the_last_step(config: Path) -> None:
    """Lightning writes none at the end of a run that ends between two checkpoints."""
    settings = yaml.safe_load(config.read_text())
    trainer, data = settings["trainer"], settings["data"]["init_args"]
    if (steps := trainer.get("max_steps")) is None:
        steps = trainer["max_epochs"] * data["train_size"] // data["batch_size"]
    every = [
        c["init_args"]["every_n_train_steps"] for c in trainer["callbacks"] if c["class_path"].endswith("Checkpoint")
    ]
    assert len(every) == 1
    assert steps % every[0] == 0
