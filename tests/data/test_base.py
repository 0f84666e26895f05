"""What every datamodule has: splits by stage, errors, dropping problems, ranks."""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from masa_lightning.data.arithmetic import ArithmeticDataModule
from masa_lightning.data.base import ProblemDataModule, Split
from masa_lightning.data.math import MathDataModule
from masa_lightning.data.reasoning_gym import ReasoningGymDataModule
from masa_lightning.types import Problem

SIZES: dict[Split, int] = {"train": 10, "validation": 5, "test": 3}


class Data(ProblemDataModule):
    def __init__(self, sizes: dict[Split, int] = SIZES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = sizes
        self.loaded: list[str] = []

    def load_split(self, split: Split) -> list[Problem]:
        self.loaded.append(split)
        return [Problem(id=f"{split}{i}", problem=f"{split} {i}", answer="1") for i in range(self.sizes[split])]


def attach(data: Data, fn: TrainerFn = TrainerFn.FITTING, rank: int = 0, world_size: int = 1) -> Data:
    progress = SimpleNamespace(current=SimpleNamespace(ready=0, processed=0))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world_size,
        overfit_batches=0.0,
        limit_train_batches=1.0,
        state=SimpleNamespace(fn=fn),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )
    return data


@pytest.mark.parametrize(
    ("stage", "splits"),
    [
        ("fit", ["train", "validation"]),
        ("validate", ["validation"]),
        ("test", ["test"]),
        ("predict", ["test", "validation"]),
        (None, ["train", "validation", "test"]),
    ],
)
def test_setup_loads_what_the_stage_needs_once(stage: str | None, splits: list[str]) -> None:
    data = Data()
    data.setup(stage)
    data.setup(stage)
    assert data.loaded == splits


def test_loaders() -> None:
    data = Data(batch_size=4, val_batch_size=2)
    data.setup(None)
    assert len(data.train_dataloader()) == 2  # the short batch is left out
    assert [len(b) for b in data.train_dataloader()] == [4, 4]
    assert [[p.id for p in b] for b in data.val_dataloader()] == [
        ["validation0", "validation1"],
        ["validation2", "validation3"],
        ["validation4"],
    ]
    assert [p.id for b in data.test_dataloader() for p in b] == ["test0", "test1", "test2"]
    assert [p.id for b in data.predict_dataloader() for p in b] == ["test0", "test1", "test2"]
    assert len(list(Data({"train": 0, "validation": 4, "test": 0}).predict_dataloader())) == 1


def test_ranks_come_from_the_trainer() -> None:
    parts = [attach(Data(batch_size=2, val_batch_size=2), rank=r, world_size=3) for r in range(3)]
    train = [[p.id for p in batch] for data in parts for batch in data.train_dataloader()]
    assert len(train) == 3
    assert len({i for batch in train for i in batch}) == 6
    validation = [[len(batch) for batch in data.val_dataloader()] for data in parts]
    assert validation == [[2], [2], [1]]


def test_drop_problems_stays() -> None:
    data = Data(batch_size=4)
    data.setup("fit")
    assert data.drop_problems(lambda p: p.id in {"train3", "validation0", "test0"}) == 2
    data.setup(None)
    assert [len(data.splits[s]) for s in ("train", "validation", "test")] == [9, 4, 3]
    assert data.drop_problems(lambda p: p.id in {"train3", "test0"}) == 1


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("wrong", [-1, 2.5, True, math.nan, "8", None])
def test_sizes_are_whole_numbers(split: str, wrong: Any) -> None:
    makers: list[Callable[..., ProblemDataModule]] = [ArithmeticDataModule, partial(ReasoningGymDataModule, ["basic"])]
    for make in makers:
        with pytest.raises(ValueError, match=f"^{split}_size is {wrong!r}; expected"):
            make(**{f"{split}_size": wrong})


@pytest.mark.parametrize("wrong", [-1, -0.5, 1.0, True, math.nan, "5", None])
def test_the_size_of_a_held_out_part_is_a_number_or_a_share(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^validation_size is .*expected .*share"):
        MathDataModule(train="rows.jsonl", validation_size=wrong)


def test_errors() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        Data(batch_size=0)
    with pytest.raises(ValueError, match="val_batch_size is -1"):
        Data(val_batch_size=-1)
    for name in ("batch_size", "val_batch_size", "seed"):
        for wrong in (2.5, True, math.nan, "8", None):
            with pytest.raises(ValueError, match=f"^{name} is {wrong!r}"):
                Data(**{name: wrong})
    nothing: dict[Split, int] = {"train": 0, "validation": 0, "test": 0}
    with pytest.raises(ValueError, match="no training problems"):
        Data(nothing).train_dataloader()
    with pytest.raises(ValueError, match=r"has 10 training problems, but a step takes 12 \(batch_size 6 on 2 proc"):
        attach(Data(batch_size=6), world_size=2).train_dataloader()
    with pytest.raises(ValueError, match="no test problems"):
        Data(nothing).test_dataloader()
    with pytest.raises(ValueError, match="no validation problems"):
        attach(Data(nothing), TrainerFn.VALIDATING).val_dataloader()
    assert attach(Data(nothing)).val_dataloader() == []


def test_evaluating_a_checkpoint_moves_nothing() -> None:
    data = Data(batch_size=2)
    loader = iter(data.train_dataloader())
    first, second = next(loader), next(loader)
    state = data.state_dict()
    evaluated = attach(Data(batch_size=2), TrainerFn.VALIDATING)
    evaluated.load_state_dict(state)
    assert next(iter(evaluated.train_dataloader())) == first
    resumed = attach(Data(batch_size=2))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert next(iter(resumed.train_dataloader())) not in (first, second)
    assert Data().state_dict() == {}


def test_a_batch_is_not_copied() -> None:
    batch = Data().load_split("test")
    assert Data().transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
