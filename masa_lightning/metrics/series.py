"""What the metrics of this package keep: series of numbers, gathered over processes, and nothing of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SeriesMetric(Metric):
    """A metric that keeps series of numbers.

    Metrics of nothing are NaN by contract. So `compute` may be called without an `update` before, and warns of nothing.

    Args:
        series: Their names.
        kwargs: Those of every `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    def __init__(self, series: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**{"compute_with_cache": False, **kwargs})  # numbers come not by `update` alone
        self.states = {name: f"series_{index}" for index, name in enumerate(series)}  # a name may be any text
        for state in self.states.values():
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.reset()

    @property
    def update_called(self) -> bool:
        """Always true."""
        return True

    def reset(self) -> None:
        """Forgets all numbers."""
        super().reset()
        # Never an empty list: a process without entries must still enter the gathering, with the dtype of the others.
        for state in self.states.values():
            getattr(self, state).append(torch.empty(0, dtype=torch.float64, device=self.device))

    def add(self, name: str, values: Tensor | Sequence[float]) -> None:
        """Adds numbers to a series."""
        state: list[Tensor] = getattr(self, self.states[name])
        tensor = values.detach() if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64)
        state.append(tensor.flatten().to(state[0]))

    def gathered(self, name: str) -> Tensor:
        """A series of this process, or of all within the synchronised state, on the CPU, float64."""
        state: list[Tensor] | Tensor = getattr(self, self.states[name])
        return (torch.cat(state) if isinstance(state, list) else state).cpu().double()


class RowMetric(SeriesMetric):
    """A metric over problems, each a row of numbers."""

    columns = 1
    """Numbers in a row."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(("rows",), **kwargs)

    def add_rows(self, rows: Tensor) -> None:
        """Adds problems, [P, columns]."""
        self.add("rows", rows)

    def rows(self) -> Tensor:
        """Rows [P, columns] of this process, or of all within the synchronised state, on the CPU."""
        return self.gathered("rows").view(-1, self.columns)

    def synced_rows(self) -> Tensor:
        """Rows [P, columns] of all processes, on the CPU; every process has to call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            return self.rows()


class DrawnMetric(RowMetric):
    """A metric over problems that has a picture of its own."""

    def draw(self, axes: Axes) -> None:
        """Draws what was added on axes; every process has to call it."""
        raise NotImplementedError

    def plot(self, val: Any = None, ax: Axes | None = None) -> tuple[Any, Any]:
        """Draws what was added, of all processes (`draw`); every process has to call it.

        Args:
            val: What `compute` or `forward` returned, or several of these: draws these metrics, as torchmetrics does.
            ax: Axes to draw on; by default a new figure's, which pyplot makes, as for torchmetrics.

        Returns:
            Figure and axes.
        """
        if val is not None:
            return self._plot(val, ax)
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots()
        self.draw(ax)
        return ax.get_figure(), ax
