"""Problems that are given as texts, without answers: those of `masa predict --problem`."""

from __future__ import annotations

from masa_lightning.data.base import ProblemDataModule, Split
from masa_lightning.types import Problem


class TextDataModule(ProblemDataModule):
    """Problems to predict, as texts.

    Args:
        problems: The texts, at least one.
        val_batch_size: Problems a step on each process.

    Raises:
        ValueError: If there is no text, or an empty one.
    """

    def __init__(self, problems: list[str], val_batch_size: int = 64) -> None:
        super().__init__(val_batch_size=val_batch_size)
        if not problems or not all(text.strip() for text in problems):
            raise ValueError(f"problems are {problems!r}; expected at least one, and none that is empty")
        self.problems = list(problems)

    def load_split(self, split: Split) -> list[Problem]:
        """The problems, for `predict` alone: nobody knows their answers."""
        if split != "test" or (self.trainer is not None and self.stage() not in (None, "predict")):
            return []
        return [Problem(id=str(i), problem=text, answer="") for i, text in enumerate(self.problems, 1)]
