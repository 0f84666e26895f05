"""What the metrics of this package keep: a row of numbers a problem, gathered over processes as one flat list state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RowMetric(Metric):
    """A metric over problems, each a row of numbers.

    Figures of nothing are NaN by contract. So `compute` may be called without an `update` before, and warns of nothing.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    columns = 1
    """Numbers in a row."""

    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"compute_with_cache": False, **kwargs})  # rows come not by `update` alone
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.reset()

    @property
    def update_called(self) -> bool:
        """Always true."""
        return True

    def reset(self) -> None:
        """Forgets all rows."""
        super().reset()
        # Never an empty list: a process without entries must still enter the gathering, with the dtype of the others.
        self.rows.append(torch.empty(0, dtype=torch.float64, device=self.device))

    def add_rows(self, rows: Tensor) -> None:
        """Adds problems, [P, columns]."""
        self.rows.append(rows.detach().flatten().to(self.rows[0]))

    def gathered(self) -> Tensor:
        """Rows [P, columns] of this process, or of all within the synchronised state, on the CPU."""
        rows = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows
        return rows.cpu().double().view(-1, self.columns)

    def synced(self) -> Tensor:
        """Rows [P, columns] of all processes, on the CPU; every process has to call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync and not self._is_synced):
            return self.gathered()

    def axes(self, ax: Axes | None) -> tuple[Any, Axes]:
        """The figure and the axes to draw on; by default new ones of pyplot, as torchmetrics makes them."""
        if ax is None:
            from matplotlib import pyplot

            return pyplot.subplots()
        return ax.get_figure(), ax
