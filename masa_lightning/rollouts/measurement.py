"""What an evaluation finds, batch by batch: metrics that are updated once a batch, and no rollout is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from masa_lightning.protocols import GroupMetric
from masa_lightning.types import Problem, RolloutGroup

Named = tuple[str, GroupMetric]


class Measurement:
    """Metrics of the rollouts of some problems.

    Args:
        metrics: With names. A metric of one number gives its name to it; several numbers with names have the metric's
            before theirs and a slash, or nothing where it is empty.
    """

    def __init__(self, metrics: Sequence[Named]) -> None:
        self.metrics = list(metrics)
        self.problems: list[Problem] = []
        self.pass_rates: list[tuple[str, str, float]] = []
        """Source, id and pass rate of each problem that was solved, for a later evaluation to be compared with."""

    def named(self, name: str) -> Any:
        """The metric of a name; None if there is none."""
        return dict(self.metrics).get(name)

    def add(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds the scored groups of a batch."""
        self.problems += [g.problem for g in groups]
        self.pass_rates += [(g.problem.source, g.problem.id, g.pass_rate) for g in groups if g.pass_rate is not None]
        for _, metric in self.metrics:
            metric.add_groups(groups)

    def compute(self) -> dict[str, float]:
        """All that was measured, by name."""
        numbers: dict[str, float] = {}
        for name, metric in self.metrics:
            value = metric.compute()
            if isinstance(value, dict):
                numbers |= {f"{name}/{key}" if name else key: float(each) for key, each in value.items()}
            else:
                numbers[name] = float(value)
        return numbers


def measure(metrics: Sequence[Named], groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Returns what metrics, as `Measurement` takes them, say of groups; they know of no others yet."""
    measured = Measurement(metrics)
    measured.add(groups)
    return measured.compute()


class BenchmarkMeasurements:
    """A `Measurement` of each benchmark (`Problem.source`) of an evaluation.

    Args:
        metrics: Makes new metrics, as `Measurement` takes them.
    """

    def __init__(self, metrics: Callable[[], Sequence[Named]]) -> None:
        self.metrics = metrics
        self.by_name: dict[str, Measurement] = {}
        """In the order in which they came; a benchmark of whose problems none was drawn for is not among them."""
        self.left_out: list[Problem] = []

    def add(self, groups: Sequence[RolloutGroup], left_out: Sequence[Problem]) -> None:
        """Adds the scored groups of a batch, and its problems whose prompts are too long."""
        parts: dict[str, list[RolloutGroup]] = {}
        for group in groups:
            parts.setdefault(group.problem.source, []).append(group)
        for name, part in parts.items():
            if name not in self.by_name:
                self.by_name[name] = Measurement(self.metrics())
            self.by_name[name].add(part)
        self.left_out += left_out

    @property
    def problems(self) -> list[Problem]:
        """Those of all benchmarks, but of what is left out."""
        return [problem for measured in self.by_name.values() for problem in measured.problems]

    @property
    def pass_rates(self) -> list[tuple[str, str, float]]:
        """As of `Measurement`, of all benchmarks."""
        return [rate for measured in self.by_name.values() for rate in measured.pass_rates]

    def compute(self) -> dict[str, dict[str, float]]:
        """Metrics of each benchmark, with the numbers of its ``problems`` and of those ``left_out``."""
        empty = {p.source: Measurement(self.metrics()) for p in self.left_out if p.source not in self.by_name}
        return {
            name: {
                "problems": float(len(measured.problems)),
                "left_out": float(sum(p.source == name for p in self.left_out)),
                **measured.compute(),
            }
            for name, measured in {**self.by_name, **empty}.items()
        }
