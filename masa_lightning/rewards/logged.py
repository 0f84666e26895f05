"""What reward functions log of themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

from masa_lightning.distributed import Processes
from masa_lightning.rewards.names import is_fit
from masa_lightning.rewards.values import number, shown

LogMetric = Callable[[str, float], None]


class LoggedMetrics:
    """Metrics that reward functions log, added up until somebody takes them; may be added to from any thread."""

    def __init__(self) -> None:
        self._given: list[tuple[str, float]] = []
        self._known: dict[str, None] = {}

    def restart(self) -> None:
        """Forgets what was added."""
        self._given = []

    def log_metric(self, name: str) -> LogMetric:
        """Makes what a reward function logs metrics of its own with.

        Args:
            name: Of the reward function.
        """

        def log_metric(metric: str, value: float) -> None:
            """Adds to the mean of a metric.

            Args:
                metric: Its name, of letters, digits, '_', '-', '.' and, for groups, '/'.
                value: A finite number.

            Raises:
                ValueError: If one of them is not so.
            """
            if not isinstance(metric, str) or metric == "mean" or not all(map(is_fit, metric.split("/"))):
                raise ValueError(
                    f"log_metric was given the name {shown(metric)}; expected letters, digits, '_', '-', '.' and '/', and "
                    "not 'mean'"
                )
            read = number(value)
            if read is None or not math.isfinite(read):
                raise ValueError(f"log_metric was given {shown(value)} as {metric!r}; expected a finite number")
            self._given.append((f"rewards/{name}/{metric}", read))

        return log_metric

    def take(self, processes: Processes) -> dict[str, float]:
        """Returns what was added since, and begins anew; a collective.

        Args:
            processes: Those of the run: metrics are means over what was added in all of them.

        Returns:
            By ``rewards/NAME/METRIC``; NaN for those that were added before and now were not.
        """
        given, self._given = self._given, []
        values: dict[str, list[float]] = {}
        for name, value in given:
            values.setdefault(name, []).append(value)
        # Exact sums: in which order calls ended does not show.
        parts = processes.gather({name: (_sum(of), len(of)) for name, of in values.items()})
        self._known |= dict.fromkeys(name for part in parts for name in part)
        taken = {}
        for name in self._known:
            totals, counts = zip(*(part.get(name, (0.0, 0)) for part in parts), strict=True)
            taken[name] = sum(totals) / sum(counts) if any(counts) else math.nan
        return taken


def _sum(values: list[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
