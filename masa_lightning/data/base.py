"""What all datamodules share: splits of problems, their loaders, and the position in the training data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from masa_lightning.checks import check_number
from masa_lightning.data.loader import ProblemLoader
from masa_lightning.types import Problem

Split = Literal["train", "validation", "test", "predict"]

_SPLITS: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("test", "validation"),
    None: ("train", "validation", "test"),
}


class ProblemDataModule(LightningDataModule):
    """Holds the splits of a data set and makes their loaders. A subclass says in `load_split` where problems come from.

    Training shuffles anew each epoch and leaves out the last global batch when it is short; evaluation sees every
    problem once. Prediction runs over the test split, or over validation without one. The position in the training
    data is saved in checkpoints: a resumed run goes on with exactly the batches an undisturbed one would have seen.

    Args:
        batch_size: Problems a training step on each process, >= 1.
        val_batch_size: Problems a validation, test or prediction step on each process, >= 1.
        seed: Of the order of the training problems.

    Attributes:
        splits: Problems by split, filled by `setup` for the splits its stage needs.
    """

    def __init__(self, batch_size: int = 8, val_batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            check_number(name, value, ">= 1", whole=True, note="problems a step on each process")
        check_number("seed", seed, "", whole=True)
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.seed = seed
        self.splits: dict[Split, list[Problem]] = {}
        self._train_loader: _TrainLoader | None = None
        self._train_state: dict[str, Any] | None = None

    @abstractmethod
    def load_split(self, split: Split) -> list[Problem]:
        """Returns the problems of a split, in a fixed order; none if there is no such split."""

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits of a stage that are not loaded yet; problems once dropped stay dropped."""
        for split in _SPLITS[stage]:
            if split not in self.splits:
                self.splits[split] = self.load_split(split)

    def drop_problems(self, predicate: Callable[[Problem], bool]) -> int:
        """Removes the problems that `predicate` is true of from all loaded splits, and returns how many they were.

        For the module, which knows what a problem costs in tokens: Lightning calls its `setup` after the datamodule's
        and before any loader is made.
        """
        dropped = 0
        for split, problems in self.splits.items():
            kept = [p for p in problems if not predicate(p)]
            dropped += len(problems) - len(kept)
            self.splits[split] = kept
        return dropped

    def train_dataloader(self) -> ProblemLoader:
        """Makes the training loader, at the position of the checkpoint or of the same trainer's last loader.

        Raises:
            ValueError: If there are fewer training problems than one step takes.
        """
        rank, world_size = self._ranks()
        problems = self.problems_of("train")
        if len(problems) < self.batch_size * world_size:
            raise ValueError(
                f"{type(self).__name__} has {len(problems)} training problems, but a step takes"
                f" {self.batch_size * world_size} (batch_size {self.batch_size} on {world_size} processes): give"
                " more (`train`, `train_size`), lower batch_size, or look at the warnings on rows that could not be used"
                if problems
                else f"{type(self).__name__} has no training problems: its train split is not set, is empty, or all of"
                " its problems were dropped (as too long for the prompt limit, say)"
            )
        trainer = self.trainer
        overfit = getattr(trainer, "overfit_batches", 0)  # which needs the same batches each epoch
        if self._train_loader is not None and (trainer is None or self._train_loader.trainer is not trainer):
            self._train_loader = None  # another run: it starts from the beginning
        loader = _TrainLoader(
            problems,
            self.batch_size,
            trainer=trainer,
            shuffle=not overfit,
            seed=self.seed,
            drop_last=True,
            rank=rank,
            world_size=world_size,
        )
        if state := self.state_dict():
            loader.load_state_dict(state["train"])
        self._train_loader, self._train_state = loader, None
        return loader

    def val_dataloader(self) -> ProblemLoader | list[ProblemLoader]:
        """Makes the validation loader; during `fit`, no loaders if there are no validation problems."""
        if not self.problems_of("validation") and self.stage() == TrainerFn.FITTING:
            return []
        return self.evaluation_loader("validation")

    def test_dataloader(self) -> ProblemLoader:
        """Makes the test loader."""
        return self.evaluation_loader("test")

    def predict_dataloader(self) -> ProblemLoader:
        """Makes a loader of the test problems, or of the validation problems if there are none."""
        return self.evaluation_loader("test" if self.problems_of("test") else "validation")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves the batch alone: Lightning would copy every problem in search of tensors."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data; empty before there is one."""
        if self._train_state is not None:
            return {"train": self._train_state}
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next training loader start at the saved position. Evaluating a checkpoint moves nothing."""
        if self.stage() in (None, TrainerFn.FITTING):
            self._train_state = state_dict["train"]

    def evaluation_loader(self, split: Split) -> ProblemLoader:
        """Makes a loader that goes through a split once.

        Raises:
            ValueError: If it has no problems.
        """
        problems = self.problems_of(split)
        if not problems:
            raise ValueError(
                f"{type(self).__name__} has no {split} problems: its {split} split is not set, is empty, or all of its"
                " problems were dropped (as too long for the prompt limit, say)"
            )
        rank, world_size = self._ranks()
        return ProblemLoader(problems, self.val_batch_size, rank=rank, world_size=world_size)

    def problems_of(self, split: Split) -> list[Problem]:
        """The problems of a split, loaded the first time."""
        if split not in self.splits:
            self.splits[split] = self.load_split(split)
        return self.splits[split]

    def _ranks(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def stage(self) -> TrainerFn | None:
        """What the trainer is doing; None without one."""
        return None if self.trainer is None else self.trainer.state.fn


class _TrainLoader(ProblemLoader):
    """A loader that asks the trainer when an epoch ends and whether the last batch was trained on."""

    def __init__(self, problems: list[Problem], batch_size: int, *, trainer: Trainer | None, **kwargs: Any) -> None:
        super().__init__(problems, batch_size, **kwargs)
        self.trainer = trainer

    def epoch_length(self) -> int:
        length = len(self)
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        # Lightning keeps the kind of number apart: 1 is one batch and 1.0 is all of them.
        return min(length, limit) if isinstance(limit, int) else int(length * limit)

    def in_flight(self) -> int:
        # A checkpoint written inside a training step (on an exception or a scheduler's signal) must not skip its batch.
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.ready > progress.processed)  # type: ignore[attr-defined]
