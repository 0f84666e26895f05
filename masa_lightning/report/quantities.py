"""Which quantities runs predicted, as the names of what they logged tell."""

from __future__ import annotations

from collections.abc import Sequence

from masa_lightning.quantities import ShownQuantity, default_quantities, shown, shown_by_names
from masa_lightning.report.runs import Arm


def predicted(arms: Sequence[Arm]) -> list[ShownQuantity]:
    """The paper's come first."""
    runs = [run for arm in arms for run in arm.runs]
    names = [tag for run in runs for tag in run.scalars]
    names += [name for run in runs for benchmark in run.benchmarks for name in benchmark["metrics"]]
    return shown_by_names(names, shown(default_quantities()))
