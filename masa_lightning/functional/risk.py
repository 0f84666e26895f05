"""Controls whose losses stay below a limit: an account of what was lost, and thresholds that follow it. Pure mathematics.

A fixed threshold on predictions has to guess what they mean. Here that is learned from problems whose outcome is known,
and an account by audits says at any time how much may have been lost at most, so that as much is risked as a limit
allows, and never more: `RiskGate` and `RiskCutoff` over `LossBudget`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from masa_lightning.types import Gate

Floats = NDArray[np.float64]

LEAST_AUDIT_SHARE: Final = 0.02
"""However much was learned: without audits nobody sees a drift."""

_STAKES: Final = 2.0 ** -np.arange(
    7
)  # per unit of the greatest loss: the smaller, the fewer audits and the more patience


class LossBudget:
    r"""How much may have been lost at most, at all times at once, by audits at known rates; and what is left to lose.

    A unit (a problem) that a control wants to change is audited with probability :math:`a_i`, whatever it would lose,
    :math:`x_i \in [0, b]`. With :math:`f_i(x) = -\log((1 - (1 - a_i) e^{sx/b}) / a_i)`, for a stake s, the product over
    units of :math:`e^{s x_i / b}` (not audited) and :math:`e^{-f_i(x_i)}` (audited) is 1 on average, whoever chooses
    units and rates and however the world drifts. So by Ville's inequality, with probability 1 - `error`, always

    .. math:: \sum_{\text{not audited}} x_i
        \le \frac{b}{s} \Big( \sum_{\text{audited}} f_i(x_i) + \log \frac{1}{\text{error}} \Big).

    Several stakes share the `error`, and the least bound holds. It is Learn then Test (Angelopoulos et al., arXiv
    2110.01052) by a test that may look at every step (Waudby-Smith and Ramdas, arXiv 2010.09686).

    Args:
        limit: Share that may be lost of all that is kept or lost, in [0, 1).
        greatest: Most that one unit can lose, b > 0.
        error: Chance that more is ever lost, in (0, 1).

    >>> budget = LossBudget(0.05, greatest=0.25, error=0.05)
    >>> budget.audit_share()  # nothing is granted yet
    1.0
    >>> budget.add(1000.0, np.zeros(0), share=1.0)
    >>> round(budget.granted, 1), round(budget.audit_share(), 2), round(budget.room(0.1), 1)
    (52.6, 0.15, 32.9)
    """

    def __init__(self, limit: float, greatest: float, error: float) -> None:
        self.limit, self.greatest, self.error = limit, greatest, error
        self.kept = 0.0
        """Sum of what was not lost, all of which was seen."""
        self.claims: Floats = np.zeros(len(_STAKES))
        """What audits say was lost, by stake; infinite once audits were too few for it."""

    @property
    def granted(self) -> float:
        """What may have been lost in all by now."""
        return self.limit / (1 - self.limit) * self.kept

    @property
    def lost_share(self) -> float:
        """Upper bound of the share that was lost, in [0, 1]; 1 at the start."""
        spent = self.granted - self.room(1.0)
        return spent / (self.kept + spent)

    def room(self, share: float) -> float:
        """What may still be lost, whatever happens, if units are audited at a rate of `share` from now on."""
        return float(self._rooms(share).max())

    def audit_share(self) -> float:
        """The least rate of audits that does not need too much of what is granted; 1 where there is none."""
        rooms = self._rooms(1.0)
        fixed = self._fixed() <= 0.4 * self.granted
        usable = _STAKES[fixed & (rooms >= 0.7 * rooms.max())]
        return max(LEAST_AUDIT_SHARE, float(-np.expm1(-1.3 * usable.min()))) if len(usable) else 1.0

    def price(self, share: float) -> float:
        """By how much the bound grows on average for a unit of loss that is risked, at a rate of audits."""
        best = int(self._rooms(share).argmax())
        typical = np.array([self.greatest / 2])
        return share * float(self._claims(typical, share)[0, best] / (_STAKES[best] / 2))

    def add(self, kept: float, audited: Floats, share: float) -> None:
        """Books a step.

        Args:
            kept: Sum over the problems that were solved, audited or not.
            audited: What each audited unit would have lost.
            share: Rate of audits; 1 where no unit was changed.
        """
        self.kept += kept
        claims = self._claims(np.clip(audited, 0.0, self.greatest), share).sum(axis=0)
        self.claims = np.where(_covered(share), self.claims + claims, np.inf)

    def book(self, kept: float, losses: Floats, share: float, acted: bool) -> None:
        """Books a step: `losses` of what was left alone of the units that the control wants to change.

        Where it does not act that is all of them. They count as if it had acted: as what is lost and, by the average of
        all audits, what those would have shown.
        """
        if acted or not len(losses) or share == 1:
            self.add(kept, losses, share if len(losses) or acted else 1.0)
            return
        before = self.claims
        self.add(kept - (1 - share) * float(losses.sum()), losses, share)
        seen = np.isfinite(self.claims)
        claims = np.where(seen, self.claims, 0.0) - np.where(seen, before, 0.0)
        self.claims = np.where(seen, before + share * claims, np.inf)

    def state_dict(self) -> dict[str, Any]:
        """What is booked, as plain numbers."""
        return {"kept": self.kept, "claims": self.claims.tolist()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes it up."""
        self.kept, self.claims = state_dict["kept"], np.array(state_dict["claims"], dtype=np.float64)

    def _fixed(self) -> Floats:
        return np.asarray(math.log(len(_STAKES) / self.error) * self.greatest / _STAKES, dtype=np.float64)

    def _rooms(self, share: float) -> Floats:
        spent = np.where(_covered(share), self.claims, np.inf) * self.greatest / _STAKES + self._fixed()
        rooms: Floats = self.granted - spent
        return rooms

    def _claims(self, losses: Floats, share: float) -> Floats:
        left = 1 - (1 - share) * np.exp(losses[:, None] / self.greatest * _STAKES)
        claims: Floats = -np.log(np.where(left > 0, left, 1.0) / share)
        return np.where(left > 0, claims, np.inf)


def _covered(share: float) -> NDArray[np.bool_]:
    return np.asarray(-np.expm1(-_STAKES) < share)


def scores(rates: Sequence[float], right: float = 0.0, wrong: float = 0.0) -> tuple[float, float]:
    """How hopeless and how trivial a problem looks, from the mean, spread and number of its predicted pass rates in [0, 1].

    With one more prediction of 0 and one of 1 among them: mean plus, and mean minus standard deviation. The first is
    low where many predictions agree on 0, the second high where many agree on 1. Rollouts of its past count like as many
    predictions of 1 and 0.

    Args:
        rates: Predicted pass rates.
        right: Right rollouts of its past, discounted, >= 0.
        wrong: Wrong ones.

    >>> [tuple(round(s, 2) for s in scores(r)) for r in ([0.0] * 8, [0.0, 0.0], [1.0] * 8, [0.0, 1.0], [])]
    [(0.4, -0.2), (0.68, -0.18), (1.2, 0.6), (1.0, 0.0), (1.0, 0.0)]
    >>> [round(s, 2) for s in scores([0.0] * 2, wrong=6.0)]  # as of eight predictions
    [0.4, -0.2]
    """
    values = np.array([0.0, 1.0, *rates])
    weights = np.array([1.0 + wrong, 1.0 + right, *(1.0 for _ in rates)])
    mean = float(np.average(values, weights=weights))
    spread = float(np.average((values - mean) ** 2, weights=weights)) ** 0.5
    return mean + spread, mean - spread


def signal_by_score(score: Floats, rate: Floats, weight: Floats, at: Floats) -> tuple[Floats, Floats]:
    """What problems of a score did: their mean pass rate p, and the mean of p (1 - p), what GRPO could learn of them.

    The means of p and of its square are each monotone in the score (isotonic regression). Each level counts one problem
    more, of the average p (1 - p), as conformal risk control does (Angelopoulos et al., arXiv 2208.02814), so that a
    few lucky problems are not taken for certain.

    Args:
        score: Of N known problems, [N].
        rate: Share of right rollouts of each, in [0, 1], [N].
        weight: Problems that each stands for, > 0, [N].
        at: Scores asked about, [M].

    Returns:
        Both at each score asked about, [M] and [M].

    >>> score, rate = np.array([0.1, 0.1, 0.4, 0.6, 0.9]), np.array([0.0, 0.0, 0.5, 0.5, 1.0])
    >>> [values.round(2).tolist() for values in signal_by_score(score, rate, np.ones(5), np.array([0.1, 0.5, 0.9]))]
    [[0.0, 0.5, 1.0], [0.03, 0.2, 0.05]]
    """
    known, place, units = np.unique(score, return_inverse=True, return_counts=True)
    total = np.bincount(place, weight)
    first, second = (
        isotonic_regression(np.bincount(place, weight * v) / total, weights=total) for v in (rate, rate**2)
    )
    members = np.repeat(np.add.reduceat(units, first.blocks[:-1]), np.diff(first.blocks))
    average = float((weight * rate * (1 - rate)).sum() / weight.sum())
    signal = (members * np.clip(first.x - second.x, 0.0, None) + average) / (members + 1)
    return np.interp(at, known, first.x), np.interp(at, known, signal)


class RiskGate:
    """Gates as many problems as two limits on what is lost by it allow, by scores whose meaning is learned on the way.

    Those go first whose expected loss is least (`signal_by_score`), and never one that is expected to teach more than
    half of the average. How much a step may lose follows what the budgets say was spent, as in adaptive conformal
    inference (Gibbs and Candes, arXiv 2106.00170): what is left is given out over a window of steps. And no step gates
    more problems than the budgets can bear if its scores mean nothing any more, and each problem loses the average: the
    limits hold for any predictions, but for what one step could lose beyond that.

    Args:
        max_lost_signal: Limit on the share of the sum of k / G (1 - k / G) over all problems that is lost, in [0, 1).
        max_lost_correct: Limit on the share of all correct rollouts that is lost with hopeless problems, in [0, 1).
        confidence: Probability that both hold, at all steps at once, in (0, 1).
        window: Steps that meanings are learned from, >= 1.
    """

    def __init__(self, max_lost_signal: float, max_lost_correct: float, confidence: float, window: int) -> None:
        error = (1 - confidence) / 2
        self.budgets = (LossBudget(max_lost_signal, 0.25, error), LossBudget(max_lost_correct, 1.0, error))
        self.window: deque[dict[str, Floats]] = deque(maxlen=window)
        self._pending = (0, 0)  # problems, and hopeless ones, that were gated and are not booked yet

    @property
    def audit_share(self) -> float:
        """Share of the gated problems that is audited now; the same until the next step is booked."""
        return max(budget.audit_share() for budget in self.budgets)

    def ready(self) -> bool:
        """Whether any problem can be gated now."""
        return self.audit_share < 1 and bool(self.window) and min(self._places()) >= 1

    def plan(self, scores: Floats) -> list[Gate | None]:
        """Decides what to gate of a step, as it would be audited at the rate of now.

        Args:
            scores: How hopeless and how trivial each problem looks, NaN for one of which nothing is known, [N, 2].
        """
        gates: list[Gate | None] = [None] * len(scores)
        averages = self._averages()
        if not len(scores) or not averages[0] or not self.ready():
            return gates
        seen = {name: np.concatenate([step[name] for step in self.window]) for name in ("scores", "rate", "weight")}
        known = np.isfinite(seen["rate"]) & np.isfinite(seen["scores"]).all(axis=1)
        if not known.any():
            return gates
        rate, weight = seen["rate"][known], seen["weight"][known]
        asked = np.concatenate([seen["scores"], scores])
        (low, dull), (_, sharp) = (
            signal_by_score(seen["scores"][known, side], rate, weight, asked[:, side]) for side in (0, 1)
        )
        hopeless = low < 0.5
        losses = np.stack([np.where(hopeless, dull, sharp), np.where(hopeless, low, 0.0)])
        allowed = self._allowed(averages, len(scores))
        cost = np.max([loss / max(most, 1e-12) for loss, most in zip(losses, allowed, strict=True)], axis=0)
        cost[~(losses[0] <= averages[0] / 2)] = np.inf
        past, now = cost[: len(seen["rate"])], cost[len(seen["rate"]) :]
        most = _threshold(past, losses[:, : len(past)], allowed)
        places = self._places()
        for place in np.argsort(now, kind="stable"):
            is_hopeless = bool(hopeless[len(past) + place])
            if now[place] <= most and places[0] >= 1 and (places[1] >= 1 or not is_hopeless):
                gates[place] = "hopeless" if is_hopeless else "trivial"
                places = (places[0] - 1, places[1] - is_hopeless)
                self._pending = (self._pending[0] + 1, self._pending[1] + is_hopeless)
        return gates

    def _averages(self) -> tuple[float, float]:
        """Signal and pass rate of a problem of the window, on average."""
        rate, weight = (np.concatenate([[0.0], *(step[name] for step in self.window)]) for name in ("rate", "weight"))
        known = np.isfinite(rate)
        total = max(float(weight[known].sum()), 1.0)
        signal, right = (float((weight * values)[known].sum()) / total for values in (rate * (1 - rate), rate))
        return signal, right

    def _allowed(self, averages: Sequence[float], count: int) -> list[float]:
        """What each problem may lose on average, now: the limit, and what is left over a window of steps."""
        share, steps = self.audit_share, len(self.window)
        gated = sum(float(step["wanted"].sum()) for step in self.window) / steps
        return [
            max(0.0, b.limit * average + (b.room(share) - gated * average) / (steps * count)) / b.price(share)
            for b, average in zip(self.budgets, averages, strict=True)
        ]

    def _places(self) -> tuple[float, float]:
        """How many problems, and how many hopeless ones, may be gated in one step, whatever they look like."""
        rooms = (budget.room(self.audit_share) for budget in self.budgets)
        places = (room / max(average, 1e-9) for room, average in zip(rooms, self._averages(), strict=True))
        signal, correct = (place - taken for place, taken in zip(places, self._pending, strict=True))
        return signal, correct

    def add(self, scores: Floats, gates: Sequence[Gate | None], rate: Floats, weight: Floats, acted: bool) -> None:
        """Books a step. Where nothing acted, what was wanted counts as if it had, with audits at the rate of now.

        Args:
            scores: Of its problems, [N, 2].
            gates: What was decided on each.
            rate: Share of right rollouts of each, NaN where none were drawn, [N].
            weight: Problems that each stands for; 0 for one that is not to be learned from, [N].
            acted: Whether gates were carried out, but for audits.
        """
        wanted = np.array([gate is not None for gate in gates], dtype=bool)
        hopeless = np.array([gate == "hopeless" for gate in gates], dtype=bool)
        share, solved = self.audit_share, np.isfinite(rate)
        for budget, values, mine in zip(self.budgets, (rate * (1 - rate), rate), (wanted, hopeless), strict=True):
            budget.book(float(values[solved].sum()), values[solved & mine], share, acted and bool(mine.any()))
        self._pending = (0, 0)
        learned = np.where(weight > 0, rate, np.nan)
        self.window.append({"scores": scores, "rate": learned, "weight": weight, "wanted": wanted.astype(np.float64)})

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned and booked, as plain numbers."""
        window = [{name: values.tolist() for name, values in step.items()} for step in self.window]
        return {"window": window, "budgets": [budget.state_dict() for budget in self.budgets]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes it up."""
        self.window.clear()
        for step in state_dict["window"]:
            arrays = {name: np.array(values, dtype=np.float64) for name, values in step.items()}
            self.window.append(arrays | {"scores": arrays["scores"].reshape(-1, 2)})
        for budget, state in zip(self.budgets, state_dict["budgets"], strict=True):
            budget.load_state_dict(state)


class RiskCutoff:
    """The least factor of predicted lengths that a limit on the correct rollouts lost allows, learned on the way.

    It follows from the lengths of right rollouts in the window, and is steered as `RiskGate` is.

    Args:
        max_lost_correct: Limit on the share of correct rollouts that is lost, in [0, 1).
        confidence: Probability that it holds, at all steps at once, in (0, 1).
        window: Steps that lengths are learned from, >= 1.
    """

    def __init__(self, max_lost_correct: float, confidence: float, window: int) -> None:
        self.budget = LossBudget(max_lost_correct, 1.0, 1 - confidence)
        self.window: deque[dict[str, Floats]] = deque(maxlen=window)
        self._pending = 0

    @property
    def audit_share(self) -> float:
        """Share of the limited problems that is audited now; the same until the next step is booked."""
        return self.budget.audit_share()

    @property
    def places(self) -> int:
        """How many problems may be limited in one step, whatever they lose."""
        share = self.audit_share
        return max(0, math.floor(self.budget.room(share)) - self._pending) if share < 1 else 0

    def reserve(self, count: int) -> None:
        """Notes that `count` problems are limited; what they lose is booked with the step."""
        self._pending += count

    def factor(self) -> float:
        """Times the predicted length that solutions may use; infinite while nothing may be lost."""
        if not self.window or not self.places:
            return math.inf
        ratio, share = (np.concatenate([step[name] for step in self.window]) for name in ("ratio", "share"))
        problems, right, wanted = (sum(float(step[name][0]) for step in self.window) for name in _TOTALS)
        room = self.budget.room(self.audit_share) - wanted / len(self.window)
        allowed = max(0.0, self.budget.limit * right + room) / self.budget.price(self.audit_share)
        order = np.argsort(-ratio, kind="stable")
        lost = np.cumsum(share[order]) + 1.0  # as if one more problem were lost whole
        count = int(np.searchsorted(lost, allowed * (problems + 1) / max(problems, 1.0), side="right"))
        return float(ratio[order[min(count, len(order) - 1)]]) if len(order) and count else math.inf

    def add(self, step: Mapping[str, Floats], losses: Floats, wanted: Floats, kept: Floats, acted: bool) -> None:
        """Books a step of N problems.

        Args:
            step: "ratio" of actual to predicted length of each right rollout of problems without a cut, [K], and its
                "share" of the right ones: 1 / G times the problems that its own stands for, [K].
            losses: Share of its rollouts that a problem's limit loses, NaN where that is not known, [N].
            wanted: 1 for a problem that was to be limited, else 0, [N].
            kept: Share of right rollouts of each, 0 without rollouts, [N].
            acted: Whether limits were set, but for audits.
        """
        mine = wanted > 0
        self.budget.book(
            float(kept.sum()), losses[mine & np.isfinite(losses)], self.audit_share, acted and bool(mine.any())
        )
        self._pending = 0
        totals = zip(_TOTALS, (len(kept), step["share"].sum(), wanted.sum()), strict=True)
        self.window.append({**step, **{name: np.array([total], dtype=np.float64) for name, total in totals}})

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned and booked, as plain numbers."""
        window = [{name: values.tolist() for name, values in step.items()} for step in self.window]
        return {"window": window, "budget": self.budget.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes it up."""
        self.window.clear()
        for step in state_dict["window"]:
            self.window.append({name: np.array(values, dtype=np.float64) for name, values in step.items()})
        self.budget.load_state_dict(state_dict["budget"])


_TOTALS: Final = ("problems", "right", "wanted")


def _threshold(cost: Floats, losses: Floats, allowed: Sequence[float]) -> float:
    """The greatest cost at which all that cost no more lose what is allowed, on average over all; -1 if there is none."""
    order = np.argsort(cost, kind="stable")
    ordered = cost[order]
    within = np.isfinite(ordered)
    for loss, most in zip(losses, allowed, strict=True):
        within &= np.cumsum(loss[order]) <= most * len(cost)
    count = len(cost) if within.all() else int(within.argmin())
    if 0 < count < len(cost) and ordered[count] == ordered[count - 1]:  # of equal ones all or none
        count = int(np.searchsorted(ordered, ordered[count]))
    return float(ordered[count - 1]) if count else -1.0
