"""The rollouts that a run kept, problem by problem: of its first and last validation, of tests, and some of its training.

Files are those of `RolloutTable` and `BenchmarkReport`. They may be half-written or a stranger's: lines that are no rollouts
are counted and left out.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

from masa_lightning.functional.confidence import CONFIDENCE
from masa_lightning.report.text import shown

Stage = Literal["train", "validate", "test"]

MOST_BYTES: Final = 192 << 20
"""Of a file; what follows is not read, and the page says so."""
LONGEST: Final = 3000
"""Characters of a text."""
MOST_ROLLOUTS: Final = 64
"""Of a problem, and of its rewards by name and notions: how many are shown."""

_SHOWN_APART: Final = ("pass_rate", "pass_rate_scale", "solution_length", "notions", "failures")  # of predictions
_DRAWN_APART: Final = ("pass_rate", "length")  # read from the predictions, which older files have alone
# What the share of right solutions depends on, beside the weights: more rollouts only make it more certain.
_OF_SOLUTIONS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "max_completion_length",
    "stop",
    "stop_token_ids",
    "grader",
    "grader_settings",
    "solution_prompt",
)
_NAME: Final = re.compile(r"[A-Za-z]\w{0,39}", re.ASCII)
_FILE: Final = re.compile(r"(validate|test)_step(\d{1,12})\.jsonl")


@dataclass(slots=True, kw_only=True)
class ProblemRecord:
    """What one evaluation, or one training step, found out about a problem."""

    source: str
    id: str
    problem: str
    answer: str
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    """Both kinds, as they are shown."""
    verdicts: list[bool] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    """Tokens of each solution."""
    right_lengths: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Predicted, in [0, 1]."""
    predicted_lengths: list[float] = field(default_factory=list)
    meta_rewards: list[float] = field(default_factory=list)
    compared: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Predicted and actual values of other quantities, by `Quantity.metric_name`."""
    settings: dict[str, str] = field(default_factory=dict)
    """How its rollouts were drawn."""
    group_rate: float | None = None
    """Of the whole group, of which `rollouts` may be a part."""

    @property
    def actual(self) -> float | None:
        """Pass rate."""
        return fmean(self.verdicts) if self.group_rate is None and self.verdicts else self.group_rate

    @property
    def predicted(self) -> float | None:
        """Mean predicted pass rate."""
        return fmean(self.rates) if self.rates else None

    @property
    def length(self) -> float | None:
        """Mean tokens of the right solutions, which the predictions are about."""
        return fmean(self.right_lengths) if self.right_lengths else None

    @property
    def predicted_length(self) -> float | None:
        """Mean predicted tokens, each at most ten times the longest solution of the problem."""
        longest = max(self.lengths, default=math.inf)
        return fmean(min(v, 10 * longest) for v in self.predicted_lengths) if self.predicted_lengths else None


@dataclass(slots=True, kw_only=True)
class Evaluated:
    """All that was kept of one validation or test, or of one training step."""

    stage: Stage
    step: int | None
    problems: list[ProblemRecord]

    @property
    def rates(self) -> dict[tuple[str, ...], float]:
        """Pass rates by problem: what is only called alike, or has another answer now, is another one."""
        return {(r.source, r.id, r.problem, r.answer): r.actual for r in self.problems if r.actual is not None}

    @property
    def settings(self) -> dict[str, str]:
        """How rollouts were drawn; empty where the file does not say."""
        return next((r.settings for r in self.problems if r.settings), {})


def unlike(one: Evaluated, other: Evaluated) -> str:
    """Says in which settings two evaluations measured solutions otherwise, as far as both say how; "" in none.

    >>> def drawn(**settings):
    ...     problem = ProblemRecord(source="", id="", problem="", answer="", settings=settings)
    ...     return Evaluated(stage="test", step=None, problems=[problem])
    >>> unlike(drawn(temperature="1.0", num_generations="4"), drawn(temperature="0.0", num_generations="8"))
    'temperature 1.0 and 0.0'
    """
    first, second = one.settings, other.settings
    names = [n for n in _OF_SOLUTIONS if n in first and n in second and first[n] != second[n]]
    return ", ".join("other prompts" if n == "solution_prompt" else f"{n} {first[n]} and {second[n]}" for n in names)


def read_records(folder: Path, all_steps: bool = False) -> tuple[list[Evaluated], list[str]]:
    """Reads a run's rollouts: of its validations and tests, and what was kept of its training.

    Args:
        folder: Of the run.
        all_steps: Of every validation and test, and not of the first and the last alone.

    Returns:
        In the order of their steps, training first; and what could not be read.
    """
    notes: list[str] = []
    found: list[Evaluated] = []
    training: dict[int, list[ProblemRecord]] = {}
    for (step, *_), record in _read(folder / "train_rollouts.jsonl", notes).items():
        training.setdefault(step if isinstance(step, int) else 0, []).append(record)
    found += [Evaluated(stage="train", step=step, problems=records) for step, records in sorted(training.items())]
    files: dict[Stage, dict[int, Path]] = {"validate": {}, "test": {}}
    if (rollouts := folder / "rollouts").is_dir():
        for file in rollouts.iterdir():
            if match := _FILE.fullmatch(file.name):
                files["validate" if match[1] == "validate" else "test"][int(match[2])] = file
    for stage, by_step in files.items():
        steps = sorted(by_step)
        for step in steps if all_steps else sorted({*steps[:1], *steps[-1:]}):
            records = list(_read(by_step[step], notes).values())
            found.append(Evaluated(stage=stage, step=step, problems=records))
    if not files["test"] and (records := list(_read(folder / "rollouts.jsonl", notes).values())):
        found.append(Evaluated(stage="test", step=None, problems=records))
    return [each for each in found if each.problems], notes


def _read(file: Path, notes: list[str]) -> dict[tuple[Any, ...], ProblemRecord]:
    records: dict[tuple[Any, ...], ProblemRecord] = {}
    bad = read = 0
    if not file.is_file():
        return records
    chosen = file.name == "train_rollouts.jsonl"  # some of each group, from the best to the worst
    try:
        with file.open("rb") as stream:
            while line := stream.readline(MOST_BYTES):
                read += len(line)
                if read > MOST_BYTES:
                    whole = file.stat().st_size
                    notes.append(f"{file.name} has {whole >> 20} MiB: only the first {MOST_BYTES >> 20} were read")
                    break
                try:
                    _take(records, json.loads(line), chosen)
                except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                    bad += 1
    except OSError as error:
        notes.append(f"{file.name} could not be read: {error.strerror}")
    if bad:
        notes.append(f"{file.name}: {bad} of its lines are no rollouts, and left out")
    return records


def _take(records: dict[tuple[Any, ...], ProblemRecord], line: Any, chosen: bool) -> None:
    kind, correct = line["kind"], line["correct"]
    if kind not in ("solution", "meta") or (kind == "solution" and not isinstance(correct, bool)):
        raise ValueError("no rollout")
    if line["step"] is not None and type(line["step"]) is not int:
        raise ValueError("no step")
    source, name, text = (_text(line[key]) for key in ("source", "problem_id", "text"))
    problem, answer = _text(line["problem"]), _text(line["answer"])
    prediction = line["prediction"] if isinstance(line["prediction"], dict) else {}
    rewards = line["rewards"] if isinstance(line["rewards"], dict) else {}
    tokens, reward, rate = _number(line["tokens"]), _number(line["reward"]), _rate(prediction)
    group_rate = _number(line["group_pass_rate"])
    key = (line["step"], source, name)
    if (record := records.get(key)) is None:
        record = records[key] = ProblemRecord(
            source=shown(source, 100), id=shown(name, 100), problem=shown(problem, LONGEST), answer=shown(answer, 400)
        )
    if chosen and group_rate is not None:
        record.group_rate = min(1.0, max(0.0, group_rate))
    length = _number(prediction.get("solution_length"))
    if kind == "solution":
        record.verdicts.append(correct)
        if tokens is not None:
            record.lengths.append(tokens)
            if correct:
                record.right_lengths.append(tokens)
        if (stated := _number(prediction.get(CONFIDENCE))) is not None and 0 <= stated <= 1:
            record.compared.setdefault(CONFIDENCE, []).append((stated, float(correct)))
    else:
        record.rates += [rate] if rate is not None else []
        record.predicted_lengths += [length] if length is not None else []
        record.meta_rewards += [reward] if reward is not None else []
    if isinstance(settings := line.get("settings"), dict):
        record.settings = {shown(n, 40): shown(str(v), 200) for n, v in list(settings.items())[:MOST_ROLLOUTS]}
    record.compared |= _compared(line.get("comparisons"))
    if len(record.rollouts) < MOST_ROLLOUTS:
        notions = prediction.get("notions")
        failures = prediction.get("failures")
        record.rollouts.append(
            {
                "kind": kind,
                "text": shown(text, LONGEST),
                "correct": correct if kind == "solution" else None,
                "ungraded": line.get("ungraded") is True,
                "reward": reward,
                "rewards": [[shown(n, 40), _number(v)] for n, v in list(rewards.items())[:MOST_ROLLOUTS]],
                "tokens": tokens,
                "cut": line.get("finish_reason") == "length",
                "rate": rate,
                "length": length,
                "others": [
                    [shown(n, 40), shown(str(v), 80)] for n, v in list(prediction.items())[:12] if n not in _SHOWN_APART
                ],
                "notions": [shown(n, 80) for n in notions[:12]] if isinstance(notions, list) else [],
                "failures": [f"{shown(n, 40)}: {shown(why, 40)}" for n, why in list(failures.items())[:8]]
                if isinstance(failures, dict)
                else [],
            }
        )


def _compared(found: Any) -> dict[str, list[tuple[float, float]]]:
    """Rows of `Quantity.compare`, which begin with what was predicted and what happened."""
    compared = {}
    for name, rows in list(found.items())[:12] if isinstance(found, dict) else ():
        if name not in _DRAWN_APART and _NAME.fullmatch(name) and isinstance(rows, list):
            pairs = [(_number(r[0]), _number(r[1])) for r in rows[:MOST_ROLLOUTS] if isinstance(r, list) and len(r) > 1]
            compared[name] = [(p, a) for p, a in pairs if p is not None and a is not None]
    return compared


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, expected a text")
    return value


def _number(value: Any) -> float | None:
    """A finite number, those that JSON lacks and that are written as texts, and huge ones, left out."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return None
    return float(value)


def _rate(prediction: dict[str, Any]) -> float | None:
    rate, scale = _number(prediction.get("pass_rate")), _number(prediction.get("pass_rate_scale"))
    return rate / scale if rate is not None and scale and 0 <= rate <= scale else None
