"""The command `masa`: LightningCLI over any module and datamodule of the house, or of yours."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import ArgsType, LightningCLI

from masa_lightning.modules.grpo import GRPOLightningModule


def main(args: ArgsType = None) -> LightningCLI:
    """Runs `masa fit|validate|test|predict`.

    Args:
        args: Command line to use in place of `sys.argv[1:]`.
    """
    return LightningCLI(
        GRPOLightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # the optimiser is made by the module, after the weights are loaded
        save_config_kwargs={"overwrite": True},  # a resumed run writes into the folder of the interrupted one
        args=args,
    )


if __name__ == "__main__":
    main()
