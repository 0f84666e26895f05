"""Self-alignment rewards: how well a meta prediction matches the solution rollouts of its problem."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Literal, get_args

from masa_lightning.checks import check_number
from masa_lightning.functional._singular import singular
from masa_lightning.types import MetaPrediction

Counting = Literal["count", "rate"]
Scoring = Literal["exponential", "brier"]

REWARD_PARTS: Final = ("length", "difficulty", "notion")
MAX_NOTIONS: Final = 64
"""Distinct notions of one prediction that are looked at; those after them are ignored."""
MAX_NOTION_CHARS: Final = 256
"""A longer notion counts as one that no text contains."""

# Scripts without spaces between words: every character is a word.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+(?:['\u2019]s\b)?")


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Solution texts reduced to words in singular lower case, once for all meta rollouts of their group."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)


def prepare_texts(texts: Sequence[str]) -> PreparedTexts:
    """Prepares the solution texts of one group for any number of `notion_reward` or `meta_reward` calls.

    Args:
        texts: Decoded solution completions of one problem.
    """
    return PreparedTexts(tuple(normalise_words(text) for text in texts))


def normalise_words(text: str) -> str:
    """Returns the words of a text in singular lower case, each between single spaces, so that `in` matches whole words.

    >>> normalise_words("Adjacency Matrices; Vieta's formulas")
    ' adjacency matrix vieta formula '
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    words = _WORD.findall(text.casefold())
    return f" {' '.join(map(singular, words))} " if words else " "


def length_reward(predicted: int | None, lengths: Sequence[int], correct: Sequence[bool]) -> float:
    r"""Scores a predicted length: inside the range of the correct rollouts, both ends included?

    .. math:: r = [\min_{i: c_i = 1} l_i \le \hat l \le \max_{i: c_i = 1} l_i]

    Args:
        predicted: Tokens; None if nothing was predicted.
        lengths: [G] generated tokens of each solution rollout.
        correct: [G] verified correctness.

    Returns:
        1.0 or 0.0; 0.0 without a prediction or without a correct rollout.

    Raises:
        ValueError: If there is not one length for each verdict.

    >>> length_reward(120, lengths=[120, 300, 900], correct=[True, True, False])
    1.0
    """
    _check_same_length("lengths", len(lengths), correct)
    right = [length for length, ok in zip(lengths, correct, strict=True) if ok]
    if predicted is None or not right:
        return 0.0
    return float(min(right) <= predicted <= max(right))


def difficulty_reward(
    predicted_rate: float | None, correct: Sequence[bool], base: float = 0.01, scoring: Scoring = "exponential"
) -> float:
    r"""Scores a predicted pass rate by its distance to the actual one.

    .. math::
        r_\text{exponential} = b^{|\hat p - p|}, \quad r_\text{brier} = 1 - (\hat p - p)^2,
        \quad p = \frac1G \sum_i c_i

    "exponential" is the paper's. It is not a proper scoring rule: a model that does not know p for certain earns most by
    predicting its most likely value, so where pass rates are mostly 0 or 1, predictions go there. Under "brier" (Brier,
    1950) the best prediction is the expected pass rate.

    Args:
        predicted_rate: In [0, 1]; None if nothing was predicted.
        correct: [G] verified correctness, G >= 1.
        base: b in (0, 1] of "exponential"; the smaller, the sharper.
        scoring: "exponential" or "brier".

    Returns:
        In [b, 1] for "exponential", in [0, 1] for "brier"; 0.0 without a prediction.

    Raises:
        ValueError: If the rate or the base is out of range, the scoring is unknown, or there is no rollout to compare
            with.

    >>> difficulty_reward(0.5, correct=[True, False, False, False], base=0.01)  # 0.01 ** 0.25
    0.31622776601683794
    >>> difficulty_reward(0.5, correct=[True, False, False, False], scoring="brier")  # 1 - 0.25 ** 2
    0.9375
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring is {scoring!r}; expected one of {get_args(Scoring)}")
    if not 0 < base <= 1:
        raise ValueError(f"base is {base}; expected a value in (0, 1], the paper's is 0.01")
    if predicted_rate is None:
        return 0.0
    if not 0 <= predicted_rate <= 1:
        raise ValueError(f"predicted_rate is {predicted_rate}; expected a share in [0, 1], MetaPrediction.rate")
    _check_not_empty(correct)
    error = abs(predicted_rate - fmean(map(bool, correct)))
    return float(base**error) if scoring == "exponential" else 1.0 - error**2


def notion_reward(
    notions: Sequence[str] | None,
    problem: str,
    texts: Sequence[str] | PreparedTexts,
    correct: Sequence[bool],
    counting: Counting = "count",
) -> float:
    r"""Scores predicted notions by whether they occur in more correct than incorrect rollouts.

    .. math:: r = \frac{1}{|N|} \sum_{n \in N} [f(n, \text{correct}) > f(n, \text{incorrect})]

    N are the predicted notions that the problem text does not contain; f counts the rollouts whose text contains n.
    Case and number are ignored and only whole words match. Notions that differ in these alone count once; `MAX_NOTIONS`
    and `MAX_NOTION_CHARS` bound the work that hostile predictions can cause.

    Args:
        notions: Predicted notions; None if nothing was predicted.
        problem: The problem statement alone.
        texts: [G] solution texts; from `prepare_texts` where several predictions share them.
        correct: [G] verified correctness.
        counting: "count" compares numbers of rollouts (the paper), "rate" shares of the correct and of the incorrect.

    Returns:
        In [0, 1]; 0.0 if no notion is left.

    Raises:
        ValueError: If there is not one text for each verdict, or `counting` is unknown.
        TypeError: If `notions` is one string.

    >>> notion_reward(["Parity", "circles"], "How many?", ["by parity", "a circle", "none"], [True, False, False])
    0.5
    """
    _check_same_length("texts", len(texts), correct)
    if counting not in get_args(Counting):
        raise ValueError(f"counting is {counting!r}; expected one of {get_args(Counting)}")
    if isinstance(notions, str):
        raise TypeError(f"notions is the string {notions[:40]!r}; expected a sequence of strings")
    if not notions:
        return 0.0
    kept = _new_notions(notions, problem)
    if not kept:
        return 0.0
    prepared = texts if isinstance(texts, PreparedTexts) else prepare_texts(texts)
    right = [words for words, ok in zip(prepared.words, correct, strict=True) if ok]
    wrong = [words for words, ok in zip(prepared.words, correct, strict=True) if not ok]
    lifted = 0
    for notion in kept:
        in_right = sum(notion in words for words in right)
        in_wrong = sum(notion in words for words in wrong)
        if counting == "rate":  # in_right / |right| > in_wrong / |wrong|, in whole numbers; an empty side has rate 0
            in_right, in_wrong = in_right * max(len(wrong), 1), in_wrong * max(len(right), 1)
        lifted += in_right > in_wrong
    return lifted / len(kept)


def meta_reward(
    prediction: MetaPrediction,
    problem: str,
    correct: Sequence[bool],
    lengths: Sequence[int],
    texts: Sequence[str] | PreparedTexts,
    *,
    weights: Mapping[str, float],
    base: float = 0.01,
    scoring: Scoring = "exponential",
    counting: Counting = "count",
) -> tuple[float, dict[str, float]]:
    r"""Returns the reward of one meta rollout and its parts.

    .. math:: r = \frac{\sum_k w_k r_k}{\sum_k w_k}, \quad k \in \{\text{length}, \text{difficulty}, \text{notion}\}

    Args:
        prediction: What the meta rollout predicted.
        problem: The problem statement alone.
        correct: [G] verified correctness, G >= 1.
        lengths: [G] generated tokens.
        texts: [G] solution texts, or `prepare_texts` of them.
        weights: Weight >= 0 by part; a part that is absent or has weight 0 is left out of the mean and of the parts.
        base: See `difficulty_reward`.
        scoring: See `difficulty_reward`.
        counting: See `notion_reward`.

    Returns:
        The weighted mean in [0, 1], and each part with a positive weight in [0, 1].

    Raises:
        ValueError: If a weight is negative or of an unknown part, none is positive, or there are no solution rollouts
            (then the meta rollout has no reward and stays out of the update).

    >>> meta_reward(MetaPrediction(pass_rate=4, solution_length=9), "?", [True, False], [9, 5], ["", ""],
    ...             weights={"length": 1, "difficulty": 1, "notion": 0})
    (1.0, {'length': 1.0, 'difficulty': 1.0})
    """
    check_weights(weights)
    _check_not_empty(correct)
    parts: dict[str, float] = {}
    if weights.get("length", 0.0) > 0:
        parts["length"] = length_reward(prediction.solution_length, lengths, correct)
    if weights.get("difficulty", 0.0) > 0:
        parts["difficulty"] = difficulty_reward(prediction.rate, correct, base, scoring)
    if weights.get("notion", 0.0) > 0:
        parts["notion"] = notion_reward(prediction.notions, problem, texts, correct, counting)
    return weighted_mean(parts, weights), parts


def weighted_mean(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    r"""Returns the mean of the parts of a reward.

    .. math:: r = \frac{\sum_k w_k r_k}{\sum_k w_k}

    Args:
        parts: Reward r by name; at least one.
        weights: Weight w > 0 of each of them.

    >>> weighted_mean({"length": 1.0, "difficulty": 0.5}, {"length": 3, "difficulty": 1})
    0.875
    """
    total = sum(weights[name] for name in parts)
    return sum(weights[name] / total * value for name, value in parts.items())


def soft_overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    r"""Punishes completions that come close to the limit (DAPO, arXiv 2503.14476, equation 13).

    .. math:: r = \min\left(0, \max\left(-1, \frac{(L_{max} - L_{buffer}) - l}{L_{buffer}}\right)\right)

    Args:
        length: Generated tokens.
        max_length: Most tokens of a completion.
        buffer: Tokens before it over which the penalty grows, in 1..max_length.

    Returns:
        In [-1, 0].

    Raises:
        ValueError: If the buffer is out of range.

    >>> soft_overlong_penalty(80, 100, 20), soft_overlong_penalty(95, 100, 20), soft_overlong_penalty(100, 100, 20)
    (0.0, -0.75, -1.0)
    """
    if not 1 <= buffer <= max_length:
        raise ValueError(f"buffer is {buffer}; expected 1..max_length = {max_length} tokens")
    return min(0.0, max(-1.0, (max_length - buffer - length) / buffer))


def check_weights(weights: Mapping[str, float], parts: Sequence[str] = REWARD_PARTS) -> None:
    """Refuses weights that a meta reward cannot use.

    Args:
        weights: Weight by part.
        parts: Of the reward.

    Raises:
        ValueError: If a weight is negative, not finite or of an unknown part, or none is positive.
    """
    for name, weight in weights.items():
        if name not in parts:
            raise ValueError(f"there is no reward part {name!r}; expected weights for some of {tuple(parts)}")
        check_number(f"the weight of {name!r}", weight, ">= 0", note="(0 removes the part)")
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"no reward part has a positive weight in {dict(weights)}; give one of {tuple(parts)} a weight"
        )


def _new_notions(notions: Sequence[str], problem: str) -> list[str]:
    """Returns the distinct normalised notions that the problem does not contain; a too long one as a line break."""
    in_problem = normalise_words(problem)
    distinct: dict[str, None] = {}
    for notion in notions[: 16 * MAX_NOTIONS]:  # looked at even if all but the last few are duplicates
        if len(distinct) >= MAX_NOTIONS:
            break
        words = normalise_words(notion) if len(notion) <= MAX_NOTION_CHARS else "\n" + notion[:MAX_NOTION_CHARS]
        if words != " ":
            distinct.setdefault(words)
    return [words for words in distinct if words not in in_problem]


def _check_same_length(name: str, size: int, correct: Sequence[bool]) -> None:
    if size != len(correct):
        raise ValueError(f"{name} has {size} entries and correct has {len(correct)}; expected one each per rollout")


def _check_not_empty(correct: Sequence[bool]) -> None:
    if not len(correct):
        raise ValueError(
            "there are no solution rollouts to compare the prediction with; "
            "leave the meta rollouts of such a problem out of the update (reward None)"
        )
