"""Every shipped YAML parses and builds, on a machine without its GPUs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("**/*.yaml"))
GPUS = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true", "--trainer.strategy=auto"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_parses_and_builds(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    cli = LightningCLI(
        GRPOLightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=["--config", str(config), *GPUS],
    )
    assert isinstance(cli.model, MASALightningModule)
    assert cli.model.policy is None  # building loads no weights
    assert (cli.model.num_meta_generations == 0) == (config.stem in ("grpo", "dapo"))


def test_there_are_configs_and_each_fits_a_screen() -> None:
    assert {"tiny", "tiny_efficient", "smollm2_asdiv", "grpo", "masa", "dapo", "masa_dapo", "masa_efficient"} <= {
        path.stem for path in CONFIGS
    }
    assert all(len(path.read_text().splitlines()) <= 60 for path in CONFIGS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_last_checkpoint_is_of_the_last_step(config: Path) -> None:
    """Lightning writes none at the end of a run that ends between two checkpoints."""
    settings = yaml.safe_load(config.read_text())
    trainer, data, model = settings["trainer"], settings["data"]["init_args"], settings["model"]["init_args"]
    if (steps := trainer.get("max_steps")) is None:
        steps = trainer["max_epochs"] * data["train_size"] // data["batch_size"] * model["num_mini_batches"]
    every = [
        c["init_args"]["every_n_train_steps"] for c in trainer["callbacks"] if c["class_path"].endswith("Checkpoint")
    ]
    assert len(every) == 1
    assert steps % every[0] == 0
