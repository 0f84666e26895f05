"""How the processes of a run share a training step, and a batch of an evaluation.

Every process knows all problems and all rollouts of a step, and does its part of the work on them: it draws its part of
the completions, grades its part, and back-propagates its part, each time a run of neighbours of about equal cost.

What is small goes to all: lengths, verdicts, rewards, predictions, about 100 bytes a rollout. So advantages, controls,
metrics, counters and the parts themselves are computed by all processes alike, and as in one process with the same global
batch. Tokens, log-probabilities and texts, which are large, stay with the process that drew them (`Rollout.holder`) until
another one needs them: to score all rollouts of a problem together (`move`), to train on them, or to show some (`fetch`).
Files are written by the first process, of what each makes of its own texts (`collect`).
"""

from __future__ import annotations

import pickle
import re
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, groupby, pairwise
from typing import Any, Protocol, TypeVar, cast

import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from masa_lightning.types import Completion, Elsewhere, Rollout

T = TypeVar("T")
H = TypeVar("H", bound="Held")

# What gloo, NCCL and torch's store say when the other end is gone.
_GONE = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process|socket closed|connection refused", re.IGNORECASE
)


def rank_zero_warn(message: str) -> None:
    """Warns in the first process. Lightning numbers them when it is imported; a sampler alone has but one."""
    if not getattr(rank_zero_only, "rank", 0):
        warnings.warn(message, stacklevel=3)


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

    def exchange(self, values: Sequence[T]) -> list[T]:
        """Gives each process one value, and returns what each has for this one; a collective.

        They are pickled: an array or a tensor takes its own bytes, a list of numbers several times as many.

        Args:
            values: By rank of the receiver.

        Returns:
            By rank of the sender.
        """
        if self.size == 1:
            return list(values)
        own = values[self.rank]
        sent = [b"" if rank == self.rank else pickle.dumps(value, protocol=5) for rank, value in enumerate(values)]
        sizes = torch.tensor([len(each) for each in sent])
        coming = torch.empty_like(sizes)
        torch.distributed.all_to_all_single(coming, sizes, group=self._group)
        received = torch.empty(int(coming.sum()), dtype=torch.uint8)
        torch.distributed.all_to_all_single(
            received,
            torch.frombuffer(bytearray().join(sent), dtype=torch.uint8),
            coming.tolist(),
            sizes.tolist(),
            group=self._group,
        )
        parts = torch.split(received, coming.tolist())
        return [own if rank == self.rank else pickle.loads(part.numpy().data) for rank, part in enumerate(parts)]

    def send_to_first(self, value: object) -> None:
        """Sends a value to the first process, which takes it by `receive_from`; pickled, as in `exchange`."""
        data = torch.frombuffer(bytearray(pickle.dumps(value, protocol=5)), dtype=torch.uint8)
        torch.distributed.send(torch.tensor([len(data)]), 0, group=self._group)
        torch.distributed.send(data, 0, group=self._group)

    def receive_from(self, rank: int) -> Any:
        """Returns the next value that another process has sent this one, the first."""
        size = torch.empty(1, dtype=torch.int64)
        torch.distributed.recv(size, rank, group=self._group)
        data = torch.empty(int(size), dtype=torch.uint8)
        torch.distributed.recv(data, rank, group=self._group)
        return pickle.loads(data.numpy().data)

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


def announce(
    completions: Sequence[Completion], texts: Sequence[str], processes: Processes
) -> list[tuple[Completion, str, int | None]]:
    """Tells all processes how long the completions are that this one drew, and how they ended; a collective.

    Args:
        completions: What this process drew; together, by rank, those of a step.
        texts: The same completions, decoded.
        processes: Those of the run.

    Returns:
        Completion, text and `Rollout.holder` of those of all processes, by rank; what others drew is `Elsewhere`.
    """
    if processes.size == 1:
        return [(c, text, None) for c, text in zip(completions, texts, strict=True)]
    heads = processes.gather([(len(c.token_ids), c.finish_reason) for c in completions])
    drawn: list[tuple[Completion, str, int | None]] = []
    for rank, part in enumerate(heads):
        if rank == processes.rank:
            drawn += [(c, text, rank) for c, text in zip(completions, texts, strict=True)]
        else:
            drawn += [(*_elsewhere(rank, length, reason), rank) for length, reason in part]
    return drawn


class Held(Protocol):
    """A rollout, or a group of them."""

    @property
    def holder(self) -> int | None:
        """Rank of the process that has it, None where all have it."""


def share(held: Sequence[H], value: Callable[[H], T], processes: Processes) -> list[T]:
    """Returns something of each rollout, or group, that its holder alone can tell; a collective.

    Args:
        held: Rollouts or groups, the same in all processes.
        value: Asked of those that this process holds.
        processes: Those of the run.
    """
    told = iter([value(each) for each in held if each.holder in (None, processes.rank)])
    if all(each.holder is None for each in held):
        return list(told)
    by_rank = [iter(values) for values in processes.gather(list(told))]
    return [next(by_rank[processes.rank if each.holder is None else each.holder]) for each in held]


def move(rollouts: Sequence[Rollout], holders: Sequence[int], processes: Processes) -> None:
    """Gives rollouts to other holders, with tokens, log-probabilities and text; in place, and a collective.

    Args:
        rollouts: The same in all processes.
        holders: Rank of the new holder of each.
        processes: Those of the run.
    """
    if processes.size == 1:
        return
    brought = _bring(rollouts, holders, processes, with_text=True)
    for rollout, holder, goods in zip(rollouts, holders, brought, strict=True):
        if holder != processes.rank:
            goods = _elsewhere(holder, rollout.length, rollout.completion.finish_reason)
        if goods is not None:
            rollout.completion, rollout.text = goods
        rollout.holder = holder


def fetch(
    rollouts: Sequence[Rollout], takers: Sequence[int], processes: Processes, *, with_text: bool = True
) -> list[Rollout]:
    """Lends tokens and log-probabilities of rollouts, and their texts; a collective.

    Args:
        rollouts: The same in all processes.
        takers: Rank of the process that each is for.
        processes: Those of the run.
        with_text: Whether texts are wanted.

    Returns:
        The rollouts; in place of those for this process that it does not hold, copies with all of it.
    """
    brought = _bring(rollouts, takers, processes, with_text=with_text)
    return [
        r if goods is None else replace(r, completion=goods[0], text=goods[1])
        for r, goods in zip(rollouts, brought, strict=True)
    ]


def collect(held: Sequence[H], value: Callable[[H], T], processes: Processes) -> Iterator[T]:
    """Brings the first process something of each rollout, or group, that its holder alone can tell; all have to call it.

    Args:
        held: Rollouts or groups, the same in all processes.
        value: Asked of those that this process holds; what the first one holds as it comes to them.
        processes: Those of the run.

    Returns:
        In the first process the values in their order, to be taken to the end: what one other process holds is in memory at
        a time. Nothing in the others, which have sent theirs.
    """
    runs = [(holder or 0, list(run)) for holder, run in groupby(held, key=lambda each: each.holder)]
    if processes.rank == 0:
        return _collected(runs, value, processes)
    for holder, run in runs:
        if holder == processes.rank:
            processes.send_to_first([value(each) for each in run])
    return iter(())


def _collected(runs: Sequence[tuple[int, Sequence[H]]], value: Callable[[H], T], processes: Processes) -> Iterator[T]:
    for holder, run in runs:
        yield from map(value, run) if holder == 0 else processes.receive_from(holder)


def without_texts(rollout: Rollout, holder: int) -> Rollout:
    """Returns what other processes know of a rollout.

    Args:
        rollout: With all of it.
        holder: Rank of the process that has it.
    """
    completion, text = _elsewhere(holder, rollout.length, rollout.completion.finish_reason)
    return replace(rollout, completion=completion, text=text, holder=holder)


def _bring(
    rollouts: Sequence[Rollout], takers: Sequence[int], processes: Processes, *, with_text: bool
) -> list[tuple[Completion, str] | None]:
    """Completion and text of each rollout that this process takes and did not have; a collective."""
    rank = processes.rank
    parcels: list[list[tuple[Completion, str | None]]] = [[] for _ in range(processes.size)]
    for rollout, taker in zip(rollouts, takers, strict=True):
        if rollout.holder == rank != taker:
            completion, text = _packed(rollout)
            parcels[taker].append((completion, text if with_text else None))
    arrived = [iter(parcel) for parcel in processes.exchange(parcels)]
    brought: list[tuple[Completion, str] | None] = [None] * len(rollouts)
    for i, (rollout, taker) in enumerate(zip(rollouts, takers, strict=True)):
        if taker == rank and rollout.holder not in (None, rank):
            completion, sent = next(arrived[rollout.holder])
            brought[i] = completion, _missing_text(rollout.holder) if sent is None else sent
    return brought


def _packed(rollout: Rollout) -> tuple[Completion, str]:
    """What a rollout's holder alone has, in four bytes a token id and four a log-probability."""
    c = rollout.completion
    ids, logprobs = array("i", list(c.token_ids)), array("f", list(c.logprobs))
    return Completion(token_ids=ids, logprobs=logprobs, finish_reason=c.finish_reason), rollout.text


def _elsewhere(holder: int, length: int, finish_reason: Any) -> tuple[Completion, str]:
    """What the other processes have of a rollout."""
    ids: Any = Elsewhere("tokens", holder, length)
    logprobs: Any = Elsewhere("log-probabilities", holder)
    return Completion(token_ids=ids, logprobs=logprobs, finish_reason=finish_reason), _missing_text(holder)


def _missing_text(holder: int) -> str:
    return cast("str", Elsewhere("text", holder))


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
