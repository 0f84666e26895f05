"""The shipped configurations by name: `masa fit --config tiny`, `masa configs [list|show|copy]`.

They stand in `configs/` of the repository, and a wheel has them as `masa_lightning/configs`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "configs"


def names() -> list[str]:
    """Returns the names of the shipped configurations, "tiny" or "eval/math" say, those of folders last."""
    found = (path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
    return sorted(found, key=lambda name: (name.count("/"), name))


def config_path(config: str) -> str:
    """Returns the path that a configuration is read from.

    Args:
        config: A path, which wins, or the name of a shipped configuration.

    Raises:
        FileNotFoundError: If it is neither; the message says what there is.

    >>> config_path("tiny").endswith("tiny.yaml")
    True
    """
    if config in names() and not os.path.isfile(config):
        return str(FOLDER / f"{config}.yaml")
    if os.path.exists(config):
        return config
    raise FileNotFoundError(
        f"there is no file {config!r}, and no shipped configuration of that name.{_meant(config)} `masa configs` lists "
        "them"
    )


def main(args: Sequence[str]) -> None:
    """Runs `masa configs` with its arguments: lists, shows or copies."""
    parser = argparse.ArgumentParser(
        prog="masa configs", description="The configurations that come with masa_lightning."
    )
    commands = parser.add_subparsers(dest="command", metavar="{list,show,copy}")
    commands.add_parser("list", help="all names, with a line each (the default)")
    show = commands.add_parser("show", help="print one")
    show.add_argument("name", help="its name")
    copy = commands.add_parser("copy", help="copy one, to change it")
    copy.add_argument("name", help="its name")
    copy.add_argument("file", nargs="?", type=Path, help="where to; NAME.yaml in this folder by default")
    given = parser.parse_args(args)
    if given.command in (None, "list"):
        print(*_lines(shutil.get_terminal_size().columns if sys.stdout.isatty() else None), sep="\n")
        return
    if given.name not in names():
        parser.error(
            f"there is no shipped configuration {given.name!r};{_meant(given.name)} expected one of {', '.join(names())}"
        )
    text = (FOLDER / f"{given.name}.yaml").read_text(encoding="utf-8")
    if given.command == "show":
        print(text, end="")
        return
    own = f"{Path(given.name).name}.yaml"
    target = given.file or Path(own)
    if target.is_dir():
        target /= own
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        parser.error(f"{target} is there already; remove it, or give another file")
    except OSError as error:
        parser.error(f"{target} cannot be written ({error.strerror}); expected a file in a folder that exists")
    print(f"{target}: change it, then `masa {_use(given.name)} --config {target}`")


def _lines(columns: int | None) -> list[str]:
    """Returns the list: a line each, or as many as a terminal needs, without words broken at its edge."""
    width = max(map(len, names())) + 2
    lines = [f"{name:<{width}}{_first_line(name)}" for name in names()]
    if columns is None:
        return lines
    return [part for line in lines for part in textwrap.wrap(line, columns, subsequent_indent=" " * width)]


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name.removesuffix(".yaml").removeprefix("configs/"), names(), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _use(name: str) -> str:
    """Returns the command that a shipped configuration is for."""
    match name.partition("/")[0]:
        case "eval":
            return "test"
        case "with" | "paper":  # its first line ends with a whole command
            base = re.search(rf"(--config \S+) --config {name}$", _first_line(name))
            return f"fit {base[1]}" if base else "fit --config masa"
        case "predict":
            return "predict"
    return "fit"


def _first_line(name: str) -> str:
    with open(FOLDER / f"{name}.yaml", encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
