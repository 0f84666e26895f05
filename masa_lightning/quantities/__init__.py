"""What a meta rollout predicts, one file each. `Quantities` is the list of them that a run has; the method is that list.

`confidence` is what a solution states of itself: calibrated and drawn beside them.
"""

from masa_lightning.quantities.collection import Quantities, quantities_of
from masa_lightning.quantities.confidence import StatedConfidence
from masa_lightning.quantities.defaults import SETTINGS, chosen_quantities, default_quantities
from masa_lightning.quantities.notions import Notions
from masa_lightning.quantities.pass_rate import PassRate
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.quantities.shown import LABELS, ShownQuantity, shown, shown_by_names
from masa_lightning.quantities.solution_length import SolutionLength

__all__ = [
    "LABELS",
    "SETTINGS",
    "Notions",
    "PassRate",
    "Quantities",
    "Quantity",
    "ShownQuantity",
    "SolutionLength",
    "StatedConfidence",
    "chosen_quantities",
    "default_quantities",
    "quantities_of",
    "shown",
    "shown_by_names",
]
