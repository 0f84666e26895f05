"""Batches of problems in an order that a resumed run can take up exactly where it was left."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from masa_lightning.checks import check_number
from masa_lightning.types import Problem


class ProblemLoader:
    """Iterates over problems in batches; the order of an epoch is a pure function of (seed, epoch).

    Problems are text in memory, so this is no torch `DataLoader` and has no workers. Every `for` loop goes on where the
    last one, or the saved state, stopped, up to the end of that epoch; the loop after it is the next epoch.

    A *global batch* is `batch_size * world_size` consecutive problems of the epoch's order, whatever the number of
    processes they are dealt to: rank r takes every `world_size`-th one, from r on. All ranks yield the same number of
    batches. In the last one, when it is short, some ranks get fewer problems or an empty list; no problem is ever
    repeated or lost unless `drop_last` leaves that batch out.

    Being sized it is not prefetched by Lightning (2.6), so the state that Lightning saves in a checkpoint counts the
    batches that were trained on. Lightning restores that state when the run was cut off inside an epoch, but not from a
    checkpoint written after a finished epoch: `ProblemDataModule` carries it there. Nor does Lightning's count of
    batches always agree after resuming: going on where one stopped keeps the stream of problems whole in any case.

    Args:
        problems: What to iterate over; copied.
        batch_size: Problems in a batch on each rank, >= 1.
        shuffle: Draw a new order each epoch; otherwise the order of `problems`.
        seed: Of the shuffling.
        drop_last: Leave out the last global batch of an epoch if it is short.
        rank: Of this process, in [0, world_size).
        world_size: Number of processes that share the problems, >= 1.

    Raises:
        ValueError: If a number is out of its range.

    >>> problems = [Problem(id=str(i), problem="?", answer="1") for i in range(5)]
    >>> [[p.id for p in batch] for batch in ProblemLoader(problems, batch_size=2)]
    [['0', '1'], ['2', '3'], ['4']]
    >>> [[p.id for p in batch] for batch in ProblemLoader(problems, batch_size=2, rank=1, world_size=2)]
    [['1', '3'], []]
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_number("batch_size", batch_size, ">= 1", whole=True, note="problems a batch on each process")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of world_size {world_size}; expected 0 <= rank < world_size")
        self.problems = list(problems)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._taken = 0  # batches of this epoch
        self._resumed = True  # whether no batch was taken since construction or load_state_dict

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        full, rest = divmod(len(self.problems), self.batch_size * self.world_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Problem]]:
        """Yields the batches that are left of this epoch; all of the next one after the last.

        Nothing happens before the first batch is asked for: Lightning calls `iter` more often than it iterates.
        """
        epoch, first = self._position(self._taken)
        order = self._order(epoch)
        step = self.batch_size * self.world_size
        for i in range(first, self.epoch_length()):
            self._epoch, self._taken, self._resumed = epoch, i + 1, False
            yield [self.problems[j] for j in order[i * step : (i + 1) * step][self.rank :: self.world_size]]

    def rewind(self) -> None:
        """Makes the next loop begin at the first batch, as an evaluation has to: the one before may have left some out."""
        self._epoch, self._taken, self._resumed = 0, 0, True

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch, equal on all ranks, and what tells whether it means the same on loading."""
        epoch, batch = self._position(self._taken if self._resumed else self._taken - self.in_flight())
        return {"epoch": epoch, "batch": batch, **self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next loop begin at a saved position.

        With another number of processes and the same global batch all goes on as if nothing had changed. With other
        problems, another seed or global batch, the position is kept, with a warning: what was seen and what is to come no
        longer make up one epoch.
        """
        changed = [
            f"{name} was {state_dict[name]}, is {now}"
            for name, now in self._identity().items()
            if name in state_dict and state_dict[name] != now
        ]
        if changed:
            rank_zero_warn(
                f"the order of the problems differs from that of the checkpoint ({'; '.join(changed)}): some problems"
                " of this epoch will be seen twice and some not at all. Restore the old settings to resume exactly."
            )
        self._epoch, self._taken, self._resumed = state_dict["epoch"], state_dict["batch"], True

    def _position(self, taken: int) -> tuple[int, int]:
        return (self._epoch + 1, 0) if taken >= max(1, self.epoch_length()) else (self._epoch, taken)

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.problems)))
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order

    def epoch_length(self) -> int:
        """Batches after which whoever iterates goes to the next epoch."""
        return len(self)

    def in_flight(self) -> int:
        """Batches taken but not yet trained on."""
        return 0

    def _identity(self) -> dict[str, int]:
        texts = "\0".join(p.problem for p in self.problems)
        return {
            "seed": self.seed,
            "global batch": self.batch_size * self.world_size,
            "problems": len(self.problems),
            "checksum of the problems": zlib.crc32(texts.encode("utf-8", "surrogatepass")),
        }
