"""The command `masa`: which part of it a command line is for. Each is imported when it is asked for."""

from __future__ import annotations

import importlib
import os
import select
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from masa_lightning import __version__
from masa_lightning.cli.errors import stop
from masa_lightning.cli.screens import asks_for_all, screen
from masa_lightning.cli.threads import set_threads
from masa_lightning.cli.words import arguments, check_command, check_configured, debugging, is_own

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType, LightningCLI

_COMMANDS: Final = ("fit", "validate", "test", "predict", "export", "report", "configs", "doctor")
_HELP: Final = f"""\
masa_lightning {__version__}: train reasoning language models that predict themselves
(MASA), with PyTorch Lightning.

usage: masa COMMAND [arguments]

  fit        train: masa fit --config tiny
  validate   measure a checkpoint on the validation problems
  test       measure a checkpoint, or any model, on benchmarks:
             masa test --config eval/math
  predict    predict how problems will go, and with --solve solve them:
             masa predict --ckpt_path runs/tiny --problem "Compute 354 mod 7."
  export     write a checkpoint as a Hugging Face folder with a model card
  report     one HTML page of runs: masa report runs/tiny
  configs    list, show or copy the configurations that come with it
  doctor     whether this machine is ready, and how fast it is

  masa COMMAND --help    what a command needs; --help=all lists every option
  masa COMMAND --debug   where an error comes from
  masa --version         the version

fit, validate, test and predict are LightningCLI's: each argument of the module,
datamodule, callbacks and Trainer is a YAML key and an option. Several --config
are laid over each other: masa fit --config masa --config with/grpo
"""


def main(args: ArgsType = None) -> LightningCLI | None:
    """Runs `masa fit|validate|test|predict|export|report|configs|doctor`.

    Args:
        args: Command line to use in place of `sys.argv[1:]`.

    Returns:
        What ran, if `args` are given and it is one of Lightning's; else nothing: the installed command would take it for
        a failure.
    """
    if args is not None:  # a program that calls this decides for its own process
        return _run(args)
    set_threads(os.environ)
    try:
        try:
            _run(None)
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        _end_unread(error)
    return None


def _end_unread(error: BrokenPipeError) -> NoReturn:
    """Ends the command where nobody reads what it prints any more, as with `| head -1`; other pipes are its own fault."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not poll.poll(0):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be printed, by Python too
    for note in getattr(error, "__notes__", ()):  # of a run that trained
        sys.stderr.write(f"Nobody reads the output any more. {note}\n")
    raise SystemExit(1) from None


def _run(args: ArgsType) -> LightningCLI | None:
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list):
        words = debugging(words)
        match words:
            case [] | ["-h" | "--help" | "--help=all", *_]:
                print(_HELP, end="")
                return None
            case ["-V" | "--version", *_]:
                print(f"masa_lightning {__version__}")
                return None
            case ["fit" | "validate" | "test" | "predict" as name, *rest] if (every := asks_for_all(rest)) is not None:
                if not every:
                    print(screen(name), end="")
                    return None
                words = [name, "--help"]
            case ["export" | "report" | "configs" | "doctor" as name, *rest]:
                _part(name).main(rest)
                return None
        try:  # before torch is imported, which takes seconds
            check_command(words[0], _COMMANDS)
            check_configured(words)
            if args is None and "" not in sys.path and is_own(words):
                # Behind all packages: a class that it names may be in this folder. By the folder's name, for jsonargparse
                # goes to that of a configuration to read it.
                sys.path.append(os.getcwd())
            words = arguments(words)
        except (FileNotFoundError, ValueError) as error:
            stop(error)
        if args is None:
            sys.argv[1:] = words
        else:
            args = words
    made: LightningCLI | None = _part("trainer").main(args)
    return made


def _part(name: str) -> Any:
    """Imports one of the modules beside this one.

    Raises:
        SystemExit: If a package that it needs does not import, as where builds for CPU and for CUDA are mixed.
    """
    try:
        return importlib.import_module(f"masa_lightning.cli.{name}")
    except (ImportError, OSError, RuntimeError) as error:
        if os.environ.get("JSONARGPARSE_DEBUG"):  # `--debug` sets it
            raise
        said = f"a package does not import: {type(error).__name__}: {error}"
        remedy = "expected packages that fit each other; `masa doctor` says which do not, and what to do"
        stop(ImportError(f"{said}\n{remedy}"), status=1)
