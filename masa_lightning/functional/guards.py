r"""When a control has shown that it loses too much, or that it does not: tests by betting over weighted audits.

A guard looks after every step, so that a point estimate would cross any limit by chance sooner or later. It bets instead.
Each problem i gives a gain :math:`x_i`, 0 on average if the loss is just the limit: the weighted correct rollouts that were
lost less `limit` times the correct ones. A bettor who stakes the share s of the most that can be lost has, from step r on,

.. math:: W_r^s = \prod_{i \text{ since step } r} (1 + s \, x_i / |\min x|),

which cannot grow on average while the limit is kept, whenever one looks (Waudby-Smith and Ramdas, Estimating means of
bounded random variables by betting, 2024; Howard et al., Time-uniform confidence sequences, 2021). A control may go bad
late, so a new bettor begins at every step, and all are added up: the mean over s of :math:`\sum_r W_r^s` reaches A on
average not before A steps, and within n steps with a chance of at most n / A (Shin, Ramdas and Rinaldo, E-detectors, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

ALARM: Final = 3_000.0
"""A in the above: a control that just keeps its limit is held back once in that many steps, on average, or less often."""

_STAKES: Final = torch.tensor([0.8 * 0.6**k for k in range(12)], dtype=torch.float64)  # 0.8 to 0.003


@dataclass(slots=True, kw_only=True)
class LossGuard:
    """Holds a control back once it has shown to lose more than its limit, and lets it go once it has shown to lose less.

    >>> guard = LossGuard()
    >>> while not guard.held_back:  # 8 of 80 correct rollouts lost each step, of which 4 are allowed
    ...     changed = guard.look([4.0], least=-4.0, greatest=76.0)
    >>> guard.look([], least=-4.0, greatest=76.0), guard.held_back
    (False, True)
    """

    held_back: bool = False
    """Whether more was lost than the limit, as far as one knows."""
    log_wealth: list[float] = field(default_factory=lambda: [-math.inf] * len(_STAKES))
    """Logarithm of what the bettors of each stake own, against what `held_back` says."""
    least: float = 0.0
    """Least gain of a problem in the present test, < 0."""
    greatest: float = 0.0

    def look(self, gains: Sequence[float], *, least: float, greatest: float, speaks: bool = True) -> bool:
        """Takes the evidence of a step.

        Args:
            gains: One a problem that shows something: above 0 for more loss than the limit.
            least: Bound on gains, <= 0, known before this step's were.
            greatest: The same, >= 0.
            speaks: Whether it may change its mind at this step.

        Returns:
            Whether it changed its mind.
        """
        if not gains:
            return False
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        sign, floor = (-1, self.greatest) if self.held_back else (1, -self.least)
        shares = sign * torch.tensor(gains, dtype=torch.float64) / max(floor, 1e-9)
        factors = torch.log1p((_STAKES[:, None] * shares).clamp(min=-1 + 1e-9)).sum(1)
        wealth = torch.tensor(self.log_wealth, dtype=torch.float64)
        self.log_wealth = (torch.logaddexp(wealth, wealth.new_zeros(())) + factors).tolist()
        if not speaks or self.evidence < 1:
            return False
        self.begin(held_back=not self.held_back)
        return True

    def begin(self, *, held_back: bool) -> None:
        """Forgets the evidence, and begins the test against what is said."""
        self.held_back, self.least, self.greatest = held_back, 0.0, 0.0
        self.log_wealth = [-math.inf] * len(_STAKES)

    @property
    def evidence(self) -> float:
        """How far it is from changing its mind: 0 for no evidence, 1 for enough (a logarithmic scale)."""
        wealth = torch.tensor(self.log_wealth, dtype=torch.float64)
        mean = torch.logsumexp(wealth, 0).item() - math.log(len(self.log_wealth))
        return max(0.0, mean / math.log(ALARM))
