"""Pickles that run a command when they are opened as Python opens them."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def ran(mark: Path) -> bool:
    """Whether it did, since the last time."""
    if not mark.exists():
        return False
    mark.rmdir()
    return True


def works(pickled: bytes, mark: Path) -> bool:
    """Whether a pickle does its harm where nobody is on guard."""
    with suppress(Exception):  # some do it, and then are no object
        pickle.loads(pickled)
    return ran(mark)
