"""The decisions of MASA-efficient over parsed predictions, and what they would cost: pure functions.

Gating, cutoff and hinting (docs/method.md, section 5) each decide one problem at a time. Where one acts, what it prevented
is not seen any more; a random share of its problems is therefore audited, run in full anyway, and weighs as much as the
problems it stands for (Horvitz and Thompson, 1952), so that every metric estimates the whole population.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from statistics import median
from typing import Final

from masa_lightning.checks import check_number
from masa_lightning.functional.rewards import MAX_NOTION_CHARS, normalise_words
from masa_lightning.types import Gate, MetaPrediction, RolloutGroup

NAN: Final = float("nan")


def gate(rates: Sequence[float], *, max_std: float = 0.1, margin: float = 0.1, min_predictions: int = 2) -> Gate | None:
    """Decides whether the solution rollouts of a problem would teach nothing, all being wrong or all right.

    Args:
        rates: Predicted pass rates of the problem's parsed predictions, each in [0, 1].
        max_std: The predictions' standard deviation (population) has to be below it.
        margin: Their mean has to be within it of 0 or of 1; exactly so, whatever the scale that rates are shares of.
        min_predictions: With fewer predictions nothing is decided.

    Returns:
        "hopeless", "trivial", or None to solve the problem.

    >>> gate([0.0, 0.125, 0.0, 0.0]), gate([1.0, 1.0]), gate([0.0, 1.0]), gate([0.0])
    ('hopeless', 'trivial', None, None)
    """
    if len(rates) < max(min_predictions, 1):
        return None
    shares = [exact(rate) for rate in rates]
    mean = sum(shares, Fraction()) / len(shares)
    if sum((share - mean) ** 2 for share in shares) >= len(shares) * exact(max_std) ** 2:
        return None
    if mean <= exact(margin):
        return "hopeless"
    return "trivial" if mean >= 1 - exact(margin) else None


@lru_cache(maxsize=4096)
def exact(number: float) -> Fraction:
    """The fraction, of a denominator of at most 10^9, that a binary number stands for, so that bounds mean what they say.

    >>> exact(0.1), 3 * 0.1 <= 0.3, 3 * exact(0.1) <= exact(0.3)
    (Fraction(1, 10), False, True)
    """
    return Fraction(number).limit_denominator(10**9)


def cutoff_tokens(lengths: Sequence[int], *, budget: int, factor: float = 2.0) -> int:
    """Decides how many tokens a solution rollout may use: `factor` times the median predicted length.

    Args:
        lengths: Predicted solution lengths of the problem's parsed predictions, in tokens.
        budget: Never more than this, >= 1; without predictions exactly this.
        factor: > 0.

    >>> cutoff_tokens([100, 120, 900], budget=512), cutoff_tokens([10**18], budget=512), cutoff_tokens([], budget=512)
    (240, 512, 512)
    """
    if not lengths:
        return budget
    return max(1, min(budget, math.ceil(exact(factor) * median(map(Fraction, lengths)))))


def sample_count(rates: Sequence[float], count: int) -> int:
    """Decides how many solutions of a problem to draw, for an answer that is voted on: more where the vote is open.

    With p the mean predicted pass rate it is 1 plus (count - 1) times 6 p (1 - p), so 1 for certain success or failure, one
    and a half times `count` at 1/2, and `count` on average where predictions are uniform in [0, 1].

    Args:
        rates: Predicted pass rates of the problem's parsed predictions, each in [0, 1]; without any it is `count`.
        count: >= 1.

    >>> [sample_count([rate], 9) for rate in (0.0, 0.25, 0.5, 1.0)], sample_count([], 9)
    ([1, 10, 13, 1], 9)
    """
    if not rates:
        return count
    p = sum(map(exact, rates), Fraction()) / len(rates)
    return 1 + round((count - 1) * 6 * p * (1 - p))


def hint_notions(
    predictions: Sequence[MetaPrediction], problem: str, *, count: int = 3, min_agreement: float = 0.0
) -> tuple[str, ...]:
    """Chooses the notions that are put into the solution prompt: those that most predictions name.

    Args:
        predictions: Of one problem, those that name no notion too.
        problem: The problem statement; notions that it contains are no hint.
        count: Most notions to choose.
        min_agreement: More than this share of the predictions has to name a notion, in [0, 1).

    Returns:
        Notions as first written, the most frequent first, and of equally frequent ones that seen first.

    Raises:
        ValueError: If `min_agreement` is out of range.

    >>> hint_notions([MetaPrediction(notions=("lemma", "Parity")), MetaPrediction(notions=("parity",))], "Prove it.")
    ('Parity', 'lemma')
    """
    check_number("min_agreement", min_agreement, ">= 0", "< 1")
    in_problem, needed = normalise_words(problem), exact(float(min_agreement)) * len(predictions)
    named = (notion for notion, votes in named_notions(predictions) if votes > needed)
    return tuple(notion for notion in named if normalise_words(notion) not in in_problem)[:count]


def named_notions(predictions: Sequence[MetaPrediction]) -> list[tuple[str, int]]:
    """Counts how many predictions name each notion; over-long ones do not count.

    Returns:
        Notions as first written, the most frequent first, and of equally frequent ones that seen first.

    >>> named_notions([MetaPrediction(notions=("lemma", "Parity")), MetaPrediction(notions=("parity",))])
    [('Parity', 2), ('lemma', 1)]
    """
    written: dict[str, str] = {}
    votes: dict[str, int] = {}
    for prediction in predictions:
        named = {normalise_words(n): n for n in prediction.notions or () if len(n) <= MAX_NOTION_CHARS}
        for words, notion in named.items():
            if words != " ":
                written.setdefault(words, notion)
                votes[words] = votes.get(words, 0) + 1
    return [(written[words], votes[words]) for words in sorted(votes, key=lambda words: -votes[words])]  # a stable sort


def training_weights(groups: Sequence[RolloutGroup]) -> list[float]:
    r"""How much the predictions of each problem of a step count in training, so that on average all problems count as much.

    Only a problem whose statistics no control changed can train. Which ones these are is chosen by the outcome, as of a
    problem with short solutions none is cut; so each counts for those that it stands for (Horvitz and Thompson, 1952):

    .. math:: w_q = \frac{n}{N} \cdot \frac{[\text{true statistics}]}{P(\text{true statistics})}

    with n of the N problems of the step training. A loss that is a mean over these n is then on average the mean over all N.

    Args:
        groups: Of a step, with settled decisions.

    Returns:
        >= 0, one a group; all exactly 1 where no control acted.
    """
    share = sum(g.is_unbiased for g in groups) / max(len(groups), 1)
    return [g.weight * share if g.is_unbiased else 0.0 for g in groups]


def uniform(key: str) -> float:
    """A number in [0, 1) that is a function of `key` alone, so that a resumed run decides what it would have decided.

    >>> 0 <= uniform("0/gating/12/3") < 1
    True
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64


@dataclass(slots=True, kw_only=True)
class ControlCounts:
    """What a control prevented, or would have: weighted sums over the units that were observed in full.

    The unit is a problem for gating and a rollout for the cutoff. A unit *deserves* it when preventing it costs
    nothing: a problem whose rollouts are all right or all wrong, a rollout that is not right.
    """

    true_positive: float = 0.0
    """Prevented, and deserved it."""
    false_positive: float = 0.0
    false_negative: float = 0.0
    true_negative: float = 0.0
    correct: float = 0.0
    """Correct rollouts in all."""
    lost: float = 0.0
    """Correct rollouts among the prevented ones; a problem gated as trivial loses none, for it counts as solved."""
    tokens: float = 0.0
    """Generated tokens in all, had nothing been prevented."""
    saved: float = 0.0
    """Those among them that were prevented."""
    evidence: float = 0.0
    """Prevented units that were observed in full, unweighted: what the metrics rest on."""

    def add(
        self,
        *,
        prevented: bool,
        deserved: bool,
        weight: float = 1.0,
        correct: int = 0,
        lost: int = 0,
        tokens: int = 0,
        saved: int = 0,
    ) -> None:
        """Adds one unit that was observed in full; `weight` units are represented by it."""
        name = f"{'true' if prevented == deserved else 'false'}_{'positive' if prevented else 'negative'}"
        setattr(self, name, getattr(self, name) + weight)
        self.correct += weight * correct
        self.lost += weight * lost
        self.tokens += weight * tokens
        self.saved += weight * saved
        self.evidence += prevented

    def __add__(self, other: ControlCounts) -> ControlCounts:
        return ControlCounts(**{n: getattr(self, n) + getattr(other, n) for n in self.__slots__})

    @property
    def lost_share(self) -> float:
        """Correct rollouts lost, of all correct ones, in [0, 1]; NaN without any."""
        return _share(self.lost, self.correct)

    def excess(self, limit: float) -> float:
        """Correct rollouts lost beyond the share `limit` of all correct ones; negative below it."""
        return self.lost - limit * self.correct

    def metrics(self) -> dict[str, float]:
        """Estimates for the whole population; NaN where nothing was observed.

        ``precision``, ``recall`` and ``f1`` in [0, 1]; ``share`` of the units prevented; ``lost_correct``: correct
        rollouts lost, of all correct ones; ``saved_tokens``: tokens prevented, of all there would have been.
        """
        tp, fp, fn, tn = astuple(self)[:4]
        return {
            "precision": _share(tp, tp + fp),
            "recall": _share(tp, tp + fn),
            "f1": _share(2 * tp, 2 * tp + fp + fn),
            "share": _share(tp + fp, tp + fp + fn + tn),
            "lost_correct": self.lost_share,
            "saved_tokens": _share(self.saved, self.tokens),
        }


@dataclass(slots=True, kw_only=True)
class HintCounts:
    """How problems fared with and without a hint: sums over solution rollouts, weighted for the shares of both."""

    hinted: float = 0.0
    hinted_correct: float = 0.0
    plain: float = 0.0
    """Rollouts of problems that a hint was kept from by chance."""
    plain_correct: float = 0.0
    evidence: float = 0.0
    """Problems that were hinted."""

    def __add__(self, other: HintCounts) -> HintCounts:
        return HintCounts(**{n: getattr(self, n) + getattr(other, n) for n in self.__slots__})

    @property
    def lost_share(self) -> float:
        """Share by which the hinted pass rate falls behind the plain one; negative where hints help, NaN if unknown."""
        return 1 - _share(_share(self.hinted_correct, self.hinted), _share(self.plain_correct, self.plain))

    def add(self, *, hinted: bool, weight: float, count: int, correct: int) -> None:
        """Adds a problem with `count` solutions, `correct` of them right; `weight` is 1 over the chance of its side."""
        side = "hinted" if hinted else "plain"
        setattr(self, side, getattr(self, side) + weight * count)
        setattr(self, f"{side}_correct", getattr(self, f"{side}_correct") + weight * correct)
        self.evidence += hinted and count > 0

    def excess(self, limit: float) -> float:
        """Correct rollouts lost by hints beyond the share `limit` of the plain ones; negative below it."""
        return (1 - limit) * self.plain_correct - self.hinted_correct

    def metrics(self) -> dict[str, float]:
        """``hinted_pass_rate`` and ``plain_pass_rate`` of problems with a hint to give, and ``lift``, their difference."""
        hinted, plain = _share(self.hinted_correct, self.hinted), _share(self.plain_correct, self.plain)
        return {"hinted_pass_rate": hinted, "plain_pass_rate": plain, "lift": hinted - plain}


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else NAN
