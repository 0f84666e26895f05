"""How the processes of a run share a training step.

Every process knows all problems and all rollouts of a step, and does its part of the work on them: it draws its part of
the completions, grades its part, and back-propagates its part, each time a run of neighbours of about equal cost. What the
parts give is gathered, so that advantages, controls, metrics and counters are computed by all processes alike, and as in
one process with the same global batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# What gloo, NCCL and torch's store say when the other end is gone.
_GONE = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process|socket closed|connection refused", re.IGNORECASE
)


class Processes:
    """The processes of a trainer, as seen from one of them. To be made by all of them at the same time.

    Objects travel over gloo, so not through the memory of an accelerator, and the end of one process is noticed by the
    others at once.

    Args:
        rank: Of this process, in [0, size).
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._group: Any = None
        if size > 1 and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")

    def gather(self, value: T) -> list[T]:
        """Returns the value of each process, by rank; a collective."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def concatenate(self, values: Sequence[T]) -> list[T]:
        """Returns the values of all processes, by rank; a collective."""
        return list(chain.from_iterable(self.gather(list(values))))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Explains the error that this process gets, whatever it is busy with, when another one has ended.

        Raises:
            RuntimeError: In place of an error of torch.distributed.
        """
        try:
            yield
        except RuntimeError as error:
            explanation = end_of_another(error, self.rank, self.size)
            if explanation is None:
                raise
            raise RuntimeError(explanation) from error

    def part(self, costs: Sequence[float]) -> slice:
        """Which of these pieces of work this process does; see `cut`."""
        return cut(costs, self.size)[self.rank]


def end_of_another(error: BaseException, rank: int, size: int) -> str | None:
    """Returns what to tell the user if an error comes of the end of another process, else None.

    Args:
        error: Any.
        rank: Of this process.
        size: Number of processes.
    """
    if size == 1 or not isinstance(error, RuntimeError) or not _GONE.search(str(error)):
        return None
    return (
        f"process {rank} of {size} ends because another process of this run has ended. Its own error is "
        "above or in its log; if there is none it was killed, as the system does when memory is short. Go on from "
        "the last checkpoint: --ckpt_path last"
    )


def cut(costs: Sequence[float], count: int) -> list[slice]:
    """Cuts pieces of work into `count` runs of neighbours of about equal cost, some of them empty where there are few.

    A run differs from its fair share by less than the costliest piece.

    Args:
        costs: Of each piece, >= 0.
        count: Number of runs, >= 1.

    >>> cut([1, 1, 1, 1, 4], 2), cut([5], 2)
    ([slice(0, 4, None), slice(4, 5, None)], [slice(0, 0, None), slice(0, 1, None)])
    """
    if not sum(costs):
        costs = [1.0] * len(costs)
    ends, before, total = [0] * count, 0.0, sum(costs)
    for cost in costs:  # each goes to the run that its middle falls into
        ends[min(int(count * (before + cost / 2) / total), count - 1)] += 1
        before += cost
    bounds = [sum(ends[:i]) for i in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


def imbalance(loads: Sequence[Sequence[float]]) -> float:
    """How much longer work takes than if it were spread evenly, >= 1: the greatest load over the mean, NaN without any.

    Args:
        loads: Of each process, one sequence for each time that the processes wait for one another.
    """
    total = sum(sum(each) for each in loads)
    return sum(max(each) * len(each) for each in loads) / total if total else float("nan")
