"""What a check is, what it finds, and the line that becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "note", "failed", "not run"]


@dataclass(frozen=True)
class Found:
    """What a step of a check found.

    Args:
        text: In a few words, numbers with their units.
        state: "note" is for what a user should know and may leave as it is.
        remedy: What to do, where something is to be done.
        facts: The numbers, as JSON has them.
    """

    text: str
    state: Literal["ok", "note", "failed"] = "ok"
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Failed(Exception):  # it is a finding
    """Ends a check: what it has still to do cannot be done.

    Args:
        text: What was found.
        remedy: What to do.
    """

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


@dataclass(frozen=True)
class Check:
    """A generator that runs in processes of its own.

    Args:
        name: Of its first line, or the beginning of all its lines.
        run: Yields a `Found` for each of `steps`, in order; what it raises ends it. A function of a module, to be pickled.
        steps: Their names; the steps behind one that cannot go on are not run.
        arguments: Of `run`.
        seconds: Most that it may take, > 0.
        processes: Number of processes that run it together, with the environment of a launcher; the first one tells.
    """

    name: str
    run: Callable[..., Iterator[Found]]
    steps: tuple[str, ...] = ("",)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 60.0
    processes: int = 1

    def line(self, step: str) -> str:
        """Returns the name of a step's line."""
        return f"{self.name}: {step}" if step else self.name


@dataclass(frozen=True)
class Line:
    """What is told of a step.

    Args:
        name: Of the step.
        state: How it went.
        found: In a few words.
        seconds: That it took.
        remedy: What to do.
        facts: Numbers.
    """

    name: str
    state: State
    found: str
    seconds: float = 0.0
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
