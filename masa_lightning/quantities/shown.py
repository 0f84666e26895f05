"""What tables, charts and cards show of quantities: as these say of themselves or, of a file, as its names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from masa_lightning.quantities.confidence import StatedConfidence
    from masa_lightning.quantities.quantity import Quantity

_METRIC: Final = re.compile(r"(?:(?:val|test)/)?calibration/([A-Za-z]\w{0,39})/\w+", re.ASCII)
_MOST: Final = 12  # quantities of files, which may be a stranger's

LABELS: Final[dict[str, tuple[str, str, int]]] = {
    "pearson": ("correlation", "r", 2),
    "spearman": ("rank correlation", "rho", 2),
    "mae": ("abs. error", "error", 3),
    "abs_rel_error": ("rel. error", "rel. error", 2),
    "bias": ("bias", "bias", 3),
    "brier": ("Brier score", "Brier", 3),
    "ece": ("ECE", "ECE", 3),
    "auroc": ("AUROC", "AUROC", 3),
    "in_range": ("in range", "in range", 2),
}
"""Of the metrics that calibrate a quantity: a label, the head of a column, and the digits."""


DEFAULT: Final = ("pearson", "mae", "abs_rel_error", "bias", "in_range")
"""Of a quantity that does not say which."""


@dataclass(frozen=True, kw_only=True)
class ShownQuantity:
    """What is said of a quantity where its metrics are shown."""

    metric_name: str
    """As of `Quantity`, and so are the next ones."""
    title: str
    unit: str
    greatest: float | None
    shown: tuple[str, ...]
    """Names of the metrics that tables show, the first ones first."""

    @property
    def words(self) -> str:
        """Its name in front of a metric's, such as "pass rate"."""
        return self.metric_name.replace("_", " ")

    def tag(self, metric: str, stage: str = "") -> str:
        """The name that one of its metrics is logged by.

        Args:
            metric: Such as "pearson".
            stage: "val/", "test/", or nothing for training.
        """
        return f"{stage}calibration/{self.metric_name}/{metric}"

    def rows(self) -> Iterator[tuple[str, str, str, int]]:
        """Name, label, head and digits of each metric that a table shows."""
        return ((self.tag(metric), *LABELS.get(metric, (metric, metric, 3))) for metric in self.shown)


def shown(quantities: Iterable[Quantity | StatedConfidence]) -> list[ShownQuantity]:
    """What quantities say of themselves; of those that show no metric nothing is said."""
    return [
        ShownQuantity(metric_name=q.metric_name, title=q.title, unit=q.unit, greatest=q.greatest, shown=tuple(q.shown))
        for q in quantities
        if q.shown
    ]


def shown_by_names(names: Iterable[str], known: Sequence[ShownQuantity]) -> list[ShownQuantity]:
    """What there is to say of the quantities whose metrics have these names.

    Args:
        names: Of logged metrics.
        known: Those that are known otherwise come first, in their order; of the others their names are all that is known.

    Returns:
        At most 12.
    """
    found = dict.fromkeys(match[1] for name in names if (match := _METRIC.fullmatch(name)))
    by_name = {quantity.metric_name: quantity for quantity in known}
    chosen = [quantity for quantity in known if quantity.metric_name in found]
    for name in found:
        if name not in by_name:
            words = name.replace("_", " ")
            chosen.append(
                ShownQuantity(
                    metric_name=name, title=words[:1].upper() + words[1:], unit="", greatest=None, shown=DEFAULT
                )
            )
    return chosen[:_MOST]
