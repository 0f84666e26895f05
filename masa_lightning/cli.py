"""The command `masa`: LightningCLI over any module and datamodule of the house, or of yours."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.run_folder import room_for_a_run


class _CLI(LightningCLI):
    """LightningCLI, with one folder for each run and callbacks that fit the Trainer's switches."""

    def before_instantiate_classes(self) -> None:
        """A test in the folder of a training run leaves that run's config.yaml as it is."""
        if self.subcommand != "fit":
            self.save_config_kwargs = self.save_config_kwargs | {"config_filename": f"{self.subcommand}_config.yaml"}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Leaves out those callbacks that are switched off: Lightning refuses them."""
        given = self.config_init[self.subcommand]["trainer"]
        callbacks = given.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        for switch, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", Checkpoint)):
            dropped = [c for c in callbacks if isinstance(c, kind) and given.get(switch) is False]
            callbacks = [c for c in callbacks if c not in dropped]
            if dropped:
                names = ", ".join(type(c).__name__ for c in dropped)
                rank_zero_info(f"trainer.{switch} is false: {names} of the configuration is left out")
        return super().instantiate_trainer(**{"callbacks": callbacks} | kwargs)

    def fit(self, **arguments: Any) -> None:
        """Trains, with an earlier run's folder kept under another name."""
        with room_for_a_run(self.trainer, arguments.get("ckpt_path")):
            self.trainer.fit(**arguments)

    def _parse_ckpt_path(self) -> None:
        """Takes no settings from a checkpoint: they name classes, which would be made, and it may be a stranger's."""


def main(args: ArgsType = None) -> LightningCLI | None:
    """Runs `masa fit|validate|test|predict|export`.

    Args:
        args: Command line to use in place of `sys.argv[1:]`.

    Returns:
        What ran, if `args` are given and it was not an export; else nothing: the installed command would take it for a
        failure.
    """
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words[:1] == ["export"]:
        from masa_lightning import export

        export.main(words[1:])
        return None
    if isinstance(words, list) and words[:1] == ["predict"] and "--solve" in words:
        words = [*(word for word in words if word != "--solve"), "--model.init_args.inference.solve=true"]
        if args is None:
            sys.argv[1:] = words  # which LightningCLI wants to read by itself
        else:
            args = words
    cli = _CLI(
        GRPOLightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # the optimiser is made by the module, after the weights are loaded
        save_config_kwargs={"overwrite": True},  # a resumed run writes into the folder of the interrupted one
        parser_kwargs={
            "epilog": "Also: masa export CHECKPOINT OUT_DIR writes a Hugging Face folder with a model card; "
            "masa predict ... --solve solves the problems, under the controls of model.init_args.inference."
        },
        args=args,
    )
    return None if args is None else cli


if __name__ == "__main__":
    main()
