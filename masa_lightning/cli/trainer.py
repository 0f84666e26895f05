"""`masa fit|validate|test|predict`: LightningCLI over any module and datamodule of the house, or of yours."""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from os.path import isfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_info

import masa_lightning
from masa_lightning.callbacks.prediction_writer import PredictionWriter
from masa_lightning.callbacks.progress import RolloutProgressBar
from masa_lightning.callbacks.run_summary import RunSummary
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.checks import parameters
from masa_lightning.cli import console
from masa_lightning.cli.errors import imported, is_mistake, readable, stop, with_old_names
from masa_lightning.cli.runs import with_run
from masa_lightning.cli.words import all_settings, taken
from masa_lightning.models.checkpoints import set_aside
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.room_for_a_run import last_checkpoint, room_for_a_run
from masa_lightning.modules.run_folder import TestOf, log_folder, run_folder, writable
from masa_lightning.modules.trainer_checks import check_strategy_name

_HELP: Final = """
The shortest way is a configuration: `masa configs` lists those that come with the package. `--config` takes a name or path,
and several of them. Each key of a configuration is an option, too: `--model.optimization.optimizer.lr 1e-6`. `--model.help
MASALightningModule` lists the settings of MASA, `--data.help MathDataModule` those of data. Models are MASALightningModule
and GRPOLightningModule; data are MathDataModule, ArithmeticDataModule and BenchmarkDataModule.
"""


_OF_DEVICES: Final = re.compile(r"(?i)device|accelerator|gpu|torch_xla")
_LINK: Final = re.compile(r"\[([^\]]+)\]\((\w+\.md)\)")


class _Parser(LightningArgumentParser):
    """Says what is wrong with a configuration, and not all options there are: those are hundreds of lines.

    Options are written out: argparse would take `--trainer.max_step` for `max_steps`, and `max_epoch` for another still.
    """

    folders: tuple[Path, ...] = ()
    """Where the command was started, and where the configurations of its command line are."""
    words: Sequence[str] = ()
    """Of the command line, as LightningCLI gets them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # With `--debug` jsonargparse would write hundreds of lines of what it reads, before the traceback.
        super().__init__(*args, **{"logger": {"level": "CRITICAL"}} | kwargs | {"allow_abbrev": False})

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Of a class, such as `--model.help MASALightningModule`: its settings, without a screen of their names before."""
        said = str(super().format_help(*args, **kwargs))
        if ".help=" in (self.description or ""):
            said = said.partition(f"{self.description}\n\n")[2] or said
        return _LINK.sub(r"\1: docs/\2", said)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG") == "true":
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "")
        said = readable(message, parser._option_string_actions, self.folders)
        here, *_ = self.folders or (Path(),)  # jsonargparse may be in that of a configuration
        model = all_settings(self.words, here).get("model", {})
        sys.stderr.write(f"error: {with_old_names(said, model.get('init_args') or {})}\n")
        command = command if " " in command else "masa COMMAND"
        sys.stderr.write(f"`{command} --help=all` lists all options; --debug shows where this comes from.\n")
        self.exit(2)
        raise AssertionError("exit ends the process")


class _SaveConfig(SaveConfigCallback):
    """Keeps the configuration in the run's own folder: Lightning's takes one for all runs, if W&B or MLflow logs first.

    That of a training run says what a new run needs, and so no checkpoint: with it a new run would go on with that one.
    """

    begins = False
    """Whether a run begins, and none is gone on with."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes it, of a fit only when it is sure to begin."""
        if stage != "fit":
            self._write(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        self._write(trainer, pl_module, "fit")

    def _write(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.already_saved:
            return
        folder = run_folder(trainer)  # a collective
        if trainer.is_global_zero:
            writable(folder)
        file = folder / self.config_filename
        # Without a logger all runs have one folder.
        if trainer.is_global_zero and self.begins and file.exists():
            rank_zero_info(f"{file} was an earlier run's: it is kept as {set_aside(file).name}")
        if stage == "fit":
            self.config = self.config.clone()
            self.config["ckpt_path"] = None
        own = {"log_dir": str(folder), "strategy": trainer.strategy, "is_global_zero": trainer.is_global_zero}
        super().setup(cast("Trainer", SimpleNamespace(**own)), pl_module, stage)


_WHAT: Final = {
    "fit": "Train a model.",
    "validate": "Measure a checkpoint on the validation problems.",
    "test": "Measure a checkpoint, or any model, on test problems.",
    "predict": "Predict how problems will go (--problem TEXT, once or more, or --problems FILE); --solve solves them too.",
}
_TITLES: Final = {"model": "What is trained", "data": "On which problems", "trainer": "Lightning's Trainer"}


class _CLI(LightningCLI):
    """LightningCLI, with one folder for each run, one screen for each, and callbacks that fit the Trainer's switches."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the one setting of the command itself."""
        text = "fit: validate before the first step, for the closing panel to compare with"
        parser.add_argument("--validate_first", type=bool, default=True, help=text)

    def _prepare_subcommand_parser(self, *args: Any, **kwargs: Any) -> LightningArgumentParser:
        """Help begins with what is ours; Lightning's table of all metrics is off, for `RunSummary` has one to read."""
        parser = super()._prepare_subcommand_parser(*args, **kwargs)
        if "verbose" in parser.get_defaults():
            parser.set_defaults(verbose=False)
        # The Trainer's options, which Lightning's users know, come behind those of model, data and command.
        groups: list[Any] = parser._action_groups  # type: ignore[assignment]  # a list, which argparse prints in order
        groups.sort(key=lambda group: any(a.dest == "trainer" for a in group._group_actions))
        for group in groups:  # titled by the first lines of docstrings, of which Lightning's are half a sentence
            known = [_TITLES[a.dest] for a in group._group_actions if a.dest in _TITLES]
            group.title = known[0] if known else group.title
        parser.usage = f"masa {args[1]} [--config NAME ...] [--model MODULE] [--data DATAMODULE] [--OPTION VALUE ...]"
        parser.description = f"{_WHAT[args[1]]}\n{_HELP}"
        return parser

    def before_instantiate_classes(self) -> None:
        """A test in the folder of a training run leaves that run's config.yaml as it is; `prompts: null` is the default."""
        _check_given(self.config[self.subcommand])
        strategy = self.config[self.subcommand]["trainer"].get("strategy")
        check_strategy_name(str(getattr(strategy, "class_path", strategy)))
        model = self.config[self.subcommand]["model"]
        for name, parameter in parameters(imported(model["class_path"])).items():
            # jsonargparse makes such a group of settings of a mapping alone
            if is_dataclass(parameter.default) and model["init_args"].get(name, parameter.default) is None:
                model["init_args"][name] = Namespace()  # type: ignore[no-untyped-call]
        if self.subcommand != "fit":
            # Those that saved a checkpoint have nothing to do where it is measured.
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
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
            (True, RunSummary, RunSummary),
            (self.subcommand == "predict", PredictionWriter, PredictionWriter),  # what else would it be for
        ]
        callbacks += [kind() for want, base, kind in wanted if want and not any(isinstance(c, base) for c in callbacks)]
        first = self.subcommand == "fit" and self.config_init[self.subcommand]["validate_first"]
        if first and not any(isinstance(c, ValidateFirst) for c in callbacks):
            # Before `WeightAveraging`, which at the end puts the average in the place of what training would go on from.
            callbacks = [ValidateFirst(), *callbacks]
        try:
            trainer = super().instantiate_trainer(**{"callbacks": callbacks} | kwargs)
        except (MisconfigurationException, TypeError, ModuleNotFoundError) as error:
            if not _OF_DEVICES.search(str(error)):
                raise
            count = torch.cuda.device_count()
            there = f"{count} GPU{'s' * (count > 1)}" if count else "no GPU"
            some = f"--trainer.devices N up to {count}, or their numbers from 0 on; or " if count else ""
            raise ValueError(
                f"trainer.accelerator is {given['accelerator']} and trainer.devices {given['devices']}, and torch sees "
                f"{there} here; expected {some}--trainer.accelerator cpu with --trainer.devices N, a number of processes. "
                "`masa doctor` says what is there"
            ) from None
        if any(isinstance(logger, MLFlowLogger) for logger in trainer.loggers):
            rank_zero_info("MLflow allows no @ in names: val/pass@1 is val/pass1 there")
        return trainer

    def instantiate_classes(self) -> None:
        """Passes on what a constructor says: jsonargparse wraps it in all types it tried, with the whole configuration."""
        try:
            super().instantiate_classes()
        except Exception as error:
            causes: list[BaseException] = [error]
            while (cause := causes[-1].__cause__) is not None:
                causes.append(cause)
            inner = next(filter(is_mistake, causes), causes[-1])  # what was raised on purpose may have a cause, too
            if not isinstance(inner, ValueError) or "subclass of Logger" in str(inner):
                self._try_loggers()
            raise inner if isinstance(error, ValueError) else error from None
        console.without_bars_of_weights()

    def _try_loggers(self) -> None:
        """Says why a logger cannot be made, of which jsonargparse says nothing."""
        given = self.config[self.subcommand]["trainer"].get("logger")
        for each in given if isinstance(given, list) else [given]:
            path = getattr(each, "class_path", "")
            try:
                imported(path)(**each.get("init_args", {})) if path else None
            except Exception as error:
                raise ValueError(f"{path.rpartition('.')[2]}: {type(error).__name__}: {error}") from None

    def fit(self, **arguments: Any) -> None:
        """Trains, with an earlier run's folder kept under another name."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, _SaveConfig):
                callback.begins = arguments.get("ckpt_path") is None
        with room_for_a_run(self.trainer, arguments.get("ckpt_path")):
            if arguments.get("ckpt_path") == "last":
                arguments["ckpt_path"] = last = last_checkpoint(self.trainer)
                if last is None:
                    rank_zero_info(
                        f"--ckpt_path last: {log_folder(self.trainer)} has no checkpoint, so this run begins anew"
                    )
            self.trainer.fit(**arguments)

    def test(self, **arguments: Any) -> None:
        """Tests, beside an earlier test of another checkpoint or of other settings."""
        self.trainer.callbacks.append(TestOf(arguments.get("ckpt_path")))  # type: ignore[attr-defined]
        self.trainer.test(**arguments)

    def _parse_ckpt_path(self) -> None:
        """Takes no settings from a checkpoint: they name classes, which would be made, and it may be a stranger's."""


def _check_given(settings: Any, key: str = "") -> None:
    """Refuses classes that lack an argument: where one without default has no type, jsonargparse makes it None.

    Args:
        settings: Of a command, as jsonargparse has read them.
        key: Of them, as options are written; "" for all.

    Raises:
        ValueError: If an argument is lacking.
    """
    if isinstance(settings, list):
        for each in settings:
            _check_given(each, key)
    if not isinstance(settings, Namespace | Mapping):
        return
    kind, own = settings.get("class_path"), settings.get("init_args")
    if isinstance(kind, str) and inspect.isclass(found := imported(kind)) and own is not None:
        for name, parameter in parameters(found).items():
            untyped = parameter.annotation is parameter.empty and parameter.default is parameter.empty
            if untyped and name in own and own[name] is None:
                raise ValueError(
                    f"{key}: {found.__name__} needs {name!r}, which is not given; expected it under init_args: "
                    f"{{class_path: {kind}, init_args: {{{name}: VALUE}}}}"
                )
    for name, each in vars(settings).items() if isinstance(settings, Namespace) else settings.items():
        _check_given(each, key if name == "init_args" else f"{key}.{name}".lstrip("."))


def main(args: ArgsType = None) -> LightningCLI | None:
    """Runs one of Lightning's commands.

    Args:
        args: Command line to use in place of `sys.argv[1:]`.

    Returns:
        What ran, if `args` are given.
    """
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words[:1] not in ([], ["-h"], ["--help"]):
        try:
            words = with_run(words)
        except (FileNotFoundError, ValueError) as error:
            stop(error)
        configured = [Path(file).absolute().parent for file in taken(words, "--config")[0] if isfile(file)]
        _Parser.folders, _Parser.words = (Path.cwd(), *configured), words[1:]
        if args is None:
            sys.argv[1:] = words  # which LightningCLI wants to read by itself
        else:
            args = words
    for name in masa_lightning.__all__:  # jsonargparse finds classes by their short names once they are imported
        getattr(masa_lightning, name)
    console.quiet()
    try:
        cli = _run(args)
    except Exception as error:
        if args is not None or os.environ.get("JSONARGPARSE_DEBUG") == "true" or not is_mistake(error):
            raise
        stop(error, 1)
    return None if args is None else cli


def _run(args: ArgsType) -> LightningCLI:
    return _CLI(
        GRPOLightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # the optimiser is made by the module, after the weights are loaded
        trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0},  # the screen's callbacks do both
        save_config_callback=_SaveConfig,
        save_config_kwargs={"overwrite": True},  # a resumed run writes into the folder of the interrupted one
        parser_class=_Parser,
        parser_kwargs={"prog": "masa"},
        args=args,
    )
