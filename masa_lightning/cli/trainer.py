"""`masa fit|validate|test|predict`: LightningCLI over any module and datamodule of the house, or of yours."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, Final, NoReturn

import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import masa_lightning
from masa_lightning.callbacks.progress import RolloutProgressBar
from masa_lightning.callbacks.run_summary import RunSummary
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.cli import console
from masa_lightning.cli.configs import config_path
from masa_lightning.cli.errors import readable
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.run_folder import room_for_a_run

_SETTING: Final = re.compile(r"--(?:model|data|trainer)\.[\w.]+")


class _Parser(LightningArgumentParser):
    """Says what is wrong with a configuration, and not all options there are: those are hundreds of lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or "JSONARGPARSE_DEBUG" in os.environ:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"error: {readable(message)}\n")
        sys.stderr.write(f"`{command} --help` lists all options; JSONARGPARSE_DEBUG=1 shows where this comes from.\n")
        self.exit(2)
        raise AssertionError("exit ends the process")


class _CLI(LightningCLI):
    """LightningCLI, with one folder for each run, one screen for each, and callbacks that fit the Trainer's switches."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the one setting of the command itself."""
        text = "fit: validate before the first step, for the closing panel to compare with"
        parser.add_argument("--validate_first", type=bool, default=True, help=text)

    def _prepare_subcommand_parser(self, *args: Any, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's table of all figures is off: `RunSummary` has one to read, the loggers have all."""
        parser = super()._prepare_subcommand_parser(*args, **kwargs)
        if "verbose" in parser.get_defaults():
            parser.set_defaults(verbose=False)
        return parser

    def before_instantiate_classes(self) -> None:
        """A test in the folder of a training run leaves that run's config.yaml as it is."""
        if self.subcommand != "fit":
            self.save_config_kwargs = self.save_config_kwargs | {"config_filename": f"{self.subcommand}_config.yaml"}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds those of the screen, and leaves out those that are switched off: Lightning refuses them."""
        given = self.config_init[self.subcommand]["trainer"]
        callbacks = given.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        for switch, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", Checkpoint)):
            dropped = [c for c in callbacks if isinstance(c, kind) and given.get(switch) is False]
            callbacks = [c for c in callbacks if c not in dropped]
            if dropped:
                names = ", ".join(type(c).__name__ for c in dropped)
                rank_zero_info(f"trainer.{switch} is false: {names} of the configuration is left out")
        wanted: list[tuple[bool, type[Callback], type[Callback]]] = [
            (given.get("enable_progress_bar") is not False, ProgressBar, RolloutProgressBar),
            (
                self.subcommand == "fit" and self.config_init[self.subcommand]["validate_first"],
                ValidateFirst,
                ValidateFirst,
            ),
            (True, RunSummary, RunSummary),
        ]
        callbacks += [kind() for want, base, kind in wanted if want and not any(isinstance(c, base) for c in callbacks)]
        return super().instantiate_trainer(**{"callbacks": callbacks} | kwargs)

    def instantiate_classes(self) -> None:
        """Passes on what a constructor says: jsonargparse wraps it in all types it tried, with the whole configuration."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            inner: BaseException = error
            while inner.__cause__ is not None:
                inner = inner.__cause__
            raise inner from None

    def fit(self, **arguments: Any) -> None:
        """Trains, with an earlier run's folder kept under another name."""
        with room_for_a_run(self.trainer, arguments.get("ckpt_path")):
            self.trainer.fit(**arguments)

    def _parse_ckpt_path(self) -> None:
        """Takes no settings from a checkpoint: they name classes, which would be made, and it may be a stranger's."""


def main(args: ArgsType = None) -> LightningCLI | None:
    """Runs one of Lightning's commands.

    Args:
        args: Command line to use in place of `sys.argv[1:]`.

    Returns:
        What ran, if `args` are given.
    """
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list):
        try:
            words = arguments(words)
        except FileNotFoundError as error:
            sys.stderr.write(f"error: --config: {error}\n")
            raise SystemExit(2) from None
        if args is None:
            sys.argv[1:] = words  # which LightningCLI wants to read by itself
        else:
            args = words
    for name in masa_lightning.__all__:  # jsonargparse finds classes by their short names once they are imported
        getattr(masa_lightning, name)
    console.quiet()
    cli = _CLI(
        GRPOLightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # the optimiser is made by the module, after the weights are loaded
        trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0},  # the screen's callbacks do both
        save_config_kwargs={"overwrite": True},  # a resumed run writes into the folder of the interrupted one
        parser_class=_Parser,
        args=args,
    )
    return None if args is None else cli


def arguments(words: list[str]) -> list[str]:
    """Translates what `masa` adds to LightningCLI's command line.

    Names of shipped configurations become their paths, and those of our classes their class paths; `--solve` becomes its
    setting; and text stays text where YAML would read a dictionary or a list for a colon or a dash in it (those need
    braces or brackets here).

    Args:
        words: The command and its arguments.

    Raises:
        FileNotFoundError: If a configuration is neither a file nor a name.

    >>> arguments(["fit", "--model.init_args.prompts.solution", "Solve: {problem}"])
    ['fit', '--config', '{"model": {"init_args": {"prompts": {"solution": "Solve: {problem}"}}}}']
    """
    translated: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        option, equals, value = word.partition("=")
        apart = not equals and option.startswith("-") and place < len(words) and not words[place].startswith("--")
        if apart:
            value = words[place]
        if option in ("-c", "--config") and value:
            translated += ["--config", value if value.lstrip().startswith("{") else config_path(value)]
        elif option.startswith("--") and value in masa_lightning.__all__:  # no short names of protocols otherwise
            translated += [option, f"masa_lightning.{value}"]
        elif _SETTING.fullmatch(option) and _is_text(value):
            translated += ["--config", json.dumps(_nested(option.removeprefix("--"), value))]
        elif word == "--solve" and words[0] == "predict":
            translated.append("--model.init_args.inference.solve=true")
            continue
        else:
            translated.append(word)
            continue
        place += apart
    return translated


def _is_text(value: str) -> bool:
    try:
        return not value.lstrip().startswith(("{", "[")) and isinstance(yaml.safe_load(value), dict | list)
    except yaml.YAMLError:
        return False


def _nested(key: str, value: str) -> Any:
    """Returns a configuration that sets one key; "model.prompts" is short for "model.init_args.prompts"."""
    first, *parts = key.split(".")
    if first in ("model", "data") and parts[0] != "init_args":
        parts = ["init_args", *parts]
    nested: Any = value
    for part in reversed([first, *parts]):
        nested = {part: nested}
    return nested
