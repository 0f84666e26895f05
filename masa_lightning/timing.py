"""How long the phases of a step take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by phase.

    >>> watch = Stopwatch()
    >>> with watch.phase("generate"):
    ...     pass
    >>> list(watch.seconds), watch.seconds["generate"] >= 0
    (['generate'], True)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By phase, since the last `restart`."""

    def restart(self) -> None:
        """Forgets what was measured."""
        self.seconds = {}

    @contextmanager
    def phase(self, name: str, *, since: float | None = None) -> Iterator[None]:
        """Adds the seconds of its body to those of a phase.

        Args:
            name: Of the phase.
            since: When it began, by `time.perf_counter`, where that was before.
        """
        start = time.perf_counter() if since is None else since
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
