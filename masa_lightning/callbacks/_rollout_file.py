"""Scored rollouts as JSON lines, written as they come and read back after a kill."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

Name = tuple[str, str]  # source and id of a problem


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
        self._places: dict[Name, list[int]] = {}  # where the lines of a problem begin
        if path.exists():
            self._open()

    def __len__(self) -> int:
        """Number of problems whose rollouts are there."""
        return len(self._places)

    def read(self, problem: Problem) -> list[Rollout]:
        """Returns the rollouts of a problem, without prompt ids; none if they are not there.

        Raises:
            ValueError: If they are there, but of another text or answer.
        """
        rollouts = []
        places = self._places.get((problem.source, problem.id), [])
        if places:
            with self.path.open("rb") as file:
                for place in places:
                    file.seek(place)
                    record = json.loads(file.readline())
                    if (record["problem"], record["answer"]) != (problem.problem, problem.answer):
                        raise ValueError(
                            f"{self.path} has rollouts of {problem.source!r}, problem {problem.id!r}, with another text "
                            "or answer: the data has changed since; give another folder, or remove this one"
                        )
                    rollouts.append(_rollout(record))
        return rollouts

    def append(self, groups: Sequence[RolloutGroup]) -> None:
        """Writes the rollouts of groups, and returns when they are on the disk."""
        lines = [json.dumps(_record(g, r), allow_nan=False) + "\n" for g in groups for r in g.rollouts]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def _open(self) -> None:
        wanted: dict[Name, int] = {}
        place = end = 0  # end of the last problem that is complete
        last: Name | None = None
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # an interrupted write
                try:
                    record = json.loads(line)
                    last, wanted[last] = (name := (record["source"], record["problem_id"])), record["rollouts"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"line {number} of {self.path} is not a rollout ({type(error).__name__}: {error}); expected what "
                        "BenchmarkReport writes: give another folder, or remove this file"
                    ) from error
                self._places.setdefault(name, []).append(place)
                place += len(line)
                if len(self._places[name]) == wanted[name]:
                    end = place
        incomplete = [name for name, places in self._places.items() if len(places) != wanted[name]]
        if incomplete not in ([], [last]):
            raise ValueError(
                f"{self.path} has {len(self._places[incomplete[0]])} rollouts of the problem {incomplete[0]}, expected "
                f"{wanted[incomplete[0]]}: give another folder, or remove this file"
            )
        for name in incomplete:
            del self._places[name]
        if end < self.path.stat().st_size:
            os.truncate(self.path, end)


def _record(group: RolloutGroup, rollout: Rollout) -> dict[str, Any]:
    prediction = rollout.prediction
    return {
        "source": group.problem.source,
        "problem_id": group.problem.id,
        "kind": rollout.kind,
        "problem": group.problem.problem,
        "answer": group.problem.answer,
        "text": rollout.text,
        "correct": rollout.correct if rollout.kind == "solution" else None,
        "ungraded": rollout.ungraded,
        "prediction": None if prediction is None else asdict(prediction),
        "reward": _finite(rollout.reward),
        "rewards": {name: _finite(value) for name, value in rollout.rewards.items()},
        "tokens": rollout.length,
        "finish_reason": rollout.completion.finish_reason,
        "rollouts": len(group.rollouts),
        "token_ids": list(rollout.completion.token_ids),
    }


def _rollout(record: dict[str, Any]) -> Rollout:
    prediction = record["prediction"]
    if prediction is not None:
        notions = prediction["notions"]
        prediction = MetaPrediction(**prediction | {"notions": None if notions is None else tuple(notions)})
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
        rewards=record["rewards"],
        reward=record["reward"],
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
