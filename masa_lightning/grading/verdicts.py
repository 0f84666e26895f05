"""The verdicts of one call of `grade`, in which equal tasks are graded once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from masa_lightning.protocols import ProgressFn
from masa_lightning.types import Problem

Task = TypeVar("Task", bound=Hashable)


class Verdicts(Generic[Task]):
    """Verdicts on N completions, as they come in.

    Args:
        problems: [N].
        completions: [N].
        on_progress: Told (done, total) as verdicts come in.

    Attributes:
        found: [N] None where there is no verdict, or not yet.
        waiting: The tasks that are still to be graded, with the indices of the completions that each decides.

    Raises:
        ValueError: If there is not one problem a completion.
    """

    def __init__(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> None:
        if len(problems) != len(completions):
            raise ValueError(f"got {len(problems)} problems and {len(completions)} completions; expected one each")
        self.found: list[bool | None] = [None] * len(completions)
        self.waiting: dict[Task, list[int]] = {}
        self._done = len(completions)
        self._on_progress = on_progress

    def wait(self, index: int, task: Task) -> None:
        """Leaves the verdict on a completion to a task."""
        self.waiting.setdefault(task, []).append(index)
        self._done -= 1

    def tell(self) -> None:
        """Tells how many verdicts are not waited for, if any."""
        if self._on_progress is not None and self._done:
            self._on_progress(self._done, len(self.found))

    def settle(self, task: Task, verdict: bool | None) -> None:
        """Takes the verdict of a task, and tells of it."""
        for index in self.waiting[task]:
            self.found[index] = verdict
        self._done += len(self.waiting.pop(task))
        self.tell()
