"""Scored rollouts as JSON lines of one form, written as they come, and read back after a kill."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from masa_lightning.models.checkpoints import replaced, set_aside
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

VERSION = 1
"""Version of the records; those of other versions are not read."""

_NONE = type(None)
_TYPES: dict[str, tuple[type, ...]] = {  # of what is read back
    **dict.fromkeys(("source", "problem_id", "kind", "problem", "answer", "text", "finish_reason"), (str,)),
    "correct": (bool, _NONE),
    "ungraded": (bool,),
    "prediction": (dict, _NONE),
    "reward": (float, int, str, _NONE),  # texts are nan and inf
    "rewards": (dict,),
    "rollouts": (int,),
    "token_ids": (list,),
}

_NO_VALUES = ("failures", "pass_rate_scale")  # of a prediction, beside what was predicted

Name = tuple[str, str]  # source and id of a problem
Settings = Mapping[str, Any]


class RolloutFile:
    """The rollouts of a test, one a line, those of a problem together.

    What an interrupted write left of the last problem is cut off when the file is opened.

    Args:
        path: Of the file; made when something is written.

    Raises:
        ValueError: If a line before that is no rollout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[Name, list[int]] = {}  # bytes, of the lines of a problem
        if path.exists():
            self._open()

    def __len__(self) -> int:
        """Number of problems whose rollouts are there."""
        return len(self._offsets)

    def read(self, problem: Problem) -> list[Rollout]:
        """Returns the rollouts of a problem, without prompt ids; none if they are not there.

        Raises:
            ValueError: If they are there, but of another text or answer, or no rollouts.
        """
        rollouts = []
        offsets = self._offsets.get((problem.source, problem.id), [])
        if offsets:
            with self.path.open("rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    record = to_record(file.readline())
                    if (record["problem"], record["answer"]) != (problem.problem, problem.answer):
                        raise ValueError(
                            f"{self.path} has rollouts of {problem.source!r}, problem {problem.id!r}, with another text "
                            "or answer: the data has changed since; give another folder, or remove this one"
                        )
                    try:
                        rollouts.append(to_rollout(record))
                    except (KeyError, TypeError, ValueError, OverflowError) as error:
                        raise ValueError(
                            f"{self.path} has a record of {problem.source!r}, problem {problem.id!r}, that is no rollout "
                            f"({type(error).__name__}: {error}): give another folder, or remove this file"
                        ) from error
        return rollouts

    def append(self, lines: Iterable[str]) -> None:
        """Writes lines of `to_line`, those of a problem together, and returns when they are on the disk."""
        first = next(lines := iter(lines), None)
        if first is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(chain([first], lines))
                file.flush()
                os.fsync(file.fileno())

    def _open(self) -> None:
        wanted: dict[Name, int] = {}
        offset = end = 0  # bytes; end of the last problem that is complete
        last: Name | None = None
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # an interrupted write
                try:
                    record = to_record(line)
                    last, wanted[last] = (name := (record["source"], record["problem_id"])), record["rollouts"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"line {number} of {self.path} is not a rollout ({type(error).__name__}: {error}); expected what "
                        "BenchmarkReport writes: give another folder, or remove this file"
                    ) from error
                self._offsets.setdefault(name, []).append(offset)
                offset += len(line)
                if len(self._offsets[name]) == wanted[name]:
                    end = offset
        incomplete = [name for name, offsets in self._offsets.items() if len(offsets) != wanted[name]]
        if incomplete not in ([], [last]):
            raise ValueError(
                f"{self.path} has {len(self._offsets[incomplete[0]])} rollouts of the problem {incomplete[0]}, expected "
                f"{wanted[incomplete[0]]}: give another folder, or remove this file"
            )
        for name in incomplete:
            del self._offsets[name]
        if end < self.path.stat().st_size:
            os.truncate(self.path, end)


class TrainingRolloutFile:
    """Some rollouts of each training step, as they come; one run's, also where it was interrupted.

    Args:
        path: Of the file; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int | None) -> Path | None:
        """Prepares the file for a run.

        Args:
            step: Training steps before the checkpoint that the run is resumed from: records of later steps, which are taken
                again, are removed, as is what an interrupted write left. None for a new run.

        Returns:
            Where the records of another run, or what else the file held, are kept now; None if there were none.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        if step is not None:
            end = 0
            with self.path.open("rb") as file:
                for line in file:
                    record = _readable(line)
                    if record is None or record.get("step") is None or record["step"] > step:
                        break
                    end += len(line)
                left = file.readline() if record is None else b""
            if record is not None or not left:  # at most the last line is unreadable
                os.truncate(self.path, end)
                return None
        return set_aside(self.path)

    def append(self, step: int, rollouts: Sequence[tuple[RolloutGroup, Rollout]]) -> None:
        """Writes rollouts of a step, with their groups."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(to_line(group, rollout, step) for group, rollout in rollouts)


class EvaluationRolloutFile:
    """All rollouts of an evaluation, to be looked at: in short, and without token ids. There when it is finished.

    Args:
        path: Of the file, which is replaced.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as stack:
            temporary = stack.enter_context(replaced(path))
            self._file = stack.enter_context(temporary.open("w", encoding="utf-8"))
            self._stack = stack.pop_all()

    def append(self, lines: Sequence[str]) -> None:
        """Writes lines of `to_short_line`."""
        self._file.writelines(lines)

    def finish(self) -> None:
        """Renames the file to its final name."""
        self._stack.close()

    def abandon(self) -> None:
        """Removes what was written; an earlier file of that name stays."""
        error = RuntimeError("abandoned")
        with suppress(OSError):  # the disk may be full
            self._stack.__exit__(type(error), error, None)


def to_line(group: RolloutGroup, rollout: Rollout, step: int | None = None, settings: Settings | None = None) -> str:
    """Writes a rollout as a line of JSON, in ASCII; numbers that are not finite, which JSON lacks, as texts.

    Args:
        group: Of the rollout.
        rollout: With or without rewards.
        step: Training steps done when it was trained on; None in a test.
        settings: Of `evaluation_settings`, where it is of an evaluation; the first rollout of a group has them.
    """
    return json.dumps(_record(group, rollout, step, settings), allow_nan=False) + "\n"


def to_short_line(
    group: RolloutGroup, rollout: Rollout, step: int, settings: Settings, shorten: Callable[[str], str]
) -> str:
    """As `to_line`, without token ids.

    Args:
        group: Of the rollout.
        rollout: Scored.
        step: Training steps done.
        settings: Of `evaluation_settings`.
        shorten: What is done to problem, answer and text.
    """
    record = _record(group, rollout, step, settings, tokens=False)
    record |= {name: shorten(record[name]) for name in ("problem", "answer", "text")}
    return json.dumps(record, allow_nan=False) + "\n"


def _record(
    group: RolloutGroup, rollout: Rollout, step: int | None, settings: Settings | None, *, tokens: bool = True
) -> dict[str, Any]:
    prediction = rollout.prediction
    record = {
        "version": VERSION,
        "step": step,
        "source": group.problem.source,
        "problem_id": group.problem.id,
        "kind": rollout.kind,
        "problem": group.problem.problem,
        "answer": str(group.problem.answer),
        "text": rollout.text,
        "correct": rollout.correct if rollout.kind == "solution" else None,
        "ungraded": rollout.ungraded,
        "prediction": None if prediction is None else {**prediction.values, **_no_values(prediction)},
        "reward": _number(rollout.reward),
        "rewards": {name: _number(value) for name, value in rollout.rewards.items()},
        "advantage": _number(rollout.advantage),
        "group_pass_rate": group.pass_rate,
        "tokens": rollout.length,
        "finish_reason": rollout.completion.finish_reason,
        "rollouts": len(group.rollouts),
    }
    if group.metas and rollout is group.metas[0] and group.comparisons:
        record["comparisons"] = {
            n: [[_number(v) for v in row] for row in rows] for n, rows in group.comparisons.items()
        }
    if settings and rollout is group.rollouts[0]:
        record["settings"] = dict(settings)
    return record | ({"token_ids": list(rollout.completion.token_ids)} if tokens else {})


def _no_values(prediction: MetaPrediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in _NO_VALUES}


def to_record(line: str | bytes) -> dict[str, Any]:
    """Reads such a line.

    Raises:
        ValueError: If it is none, or of another version.
    """
    record = json.loads(line)
    if not isinstance(record, dict) or record.get("version") != VERSION:
        found = record.get("version") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"found version {found}, expected {VERSION}")
    for name, kinds in _TYPES.items():
        if type(record.get(name)) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"found {name} {str(record.get(name))[:80]!r}, expected {expected}")
    if record["kind"] not in ("solution", "meta") or (record["correct"] is None) is (record["kind"] == "solution"):
        raise ValueError(f"found kind {record['kind'][:80]!r} with correct {record['correct']}")
    return record


def to_rollout(record: dict[str, Any]) -> Rollout:
    """Makes the rollout of a record, without prompt ids and log-probabilities."""
    prediction = record["prediction"]
    if prediction is not None:
        values = {n: tuple(v) if isinstance(v, list) else v for n, v in prediction.items() if n not in _NO_VALUES}
        prediction = MetaPrediction(values=values, **{name: prediction[name] for name in _NO_VALUES})
    return Rollout(
        kind=record["kind"],
        prompt_ids=[],
        completion=Completion(
            token_ids=array("I", record["token_ids"]), logprobs=(), finish_reason=record["finish_reason"]
        ),
        text=record["text"],
        correct=record["correct"] is True,
        ungraded=record["ungraded"],
        prediction=prediction,
        rewards={name: float(value) for name, value in record["rewards"].items()},
        reward=None if record["reward"] is None else float(record["reward"]),
        advantage=float(record["advantage"]),
    )


def _readable(line: bytes) -> dict[str, Any] | None:
    try:
        return to_record(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(float(value))
