from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.data import arithmetic
from masa_lightning.data.arithmetic import (
    STRATEGIES,
    Arithmetic,
    ArithmeticDataModule,
    arithmetic_problems,
    draw_arithmetic,
    split_of,
    work,
)
from masa_lightning.functional.grading import grade

SPLITS = ("cold_start", "train", "validation", "test")


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        (Arithmetic("chain", (12, 7, -30)), "Compute 12+7-30.", -11),
        (Arithmetic("product", (7, 46)), "Compute 7*46.", 322),
        (Arithmetic("remainder", (354, 7)), "Compute 354 mod 7.", 4),
        (Arithmetic("gcd", (48, 18)), "Compute gcd(48,18).", 6),
    ],
)
def test_text_and_answer(task: Arithmetic, text: str, answer: int) -> None:
    assert (task.text, task.answer) == (text, answer)
    assert 0 <= task.difficulty <= 1


def test_worked_solutions() -> None:
    rng = random.Random(0)
    right = {work(Arithmetic("product", (7, 46)), "partial products", rng) for _ in range(20)}
    steps = "use partial products. 7*40=280. 7*6=42. 280+42=322. "
    assert right == {steps + "so \\boxed{322}", steps + "check. 280+42=322. so \\boxed{322}"}
    wrong = work(Arithmetic("remainder", (354, 7)), "digit sum", rng)
    assert wrong.startswith("use digit sum. 3+5=8. 8+4=12. 12 mod 7=5. again. ") and wrong.endswith("\\boxed{5}")
    with pytest.raises(ValueError, match=r"euclid.*chain"):
        work(Arithmetic("chain", (1, 2)), "euclid", rng)


@given(st.integers(0, 10**6))
def test_the_right_strategy_is_right_and_its_steps_are_true(seed: int) -> None:
    rng = random.Random(seed)
    task = draw_arithmetic(rng)
    text = work(task, STRATEGIES[task.kind][0], rng)
    assert grade(text, str(task.answer))
    for left, result in re.findall(r"(-?\d[\d+*\-]*|\d+ mod \d+)=(-?\d+)\.", text):
        assert eval(left.replace(" mod ", "%")) == int(result), text


def test_wrong_strategies_are_mostly_wrong_and_longer() -> None:
    rng = random.Random(0)
    longer, right = [], []
    for _ in range(500):
        task = draw_arithmetic(rng)
        best, *others = STRATEGIES[task.kind]
        text = work(task, rng.choice(others), rng)
        right.append(grade(text, str(task.answer)))
        longer.append(len(text) > len(work(task, best, rng)))
    assert sum(right) / 500 < 0.4
    assert sum(longer) / 500 > 0.8


def test_no_text_is_in_two_splits_and_equal_seeds_give_equal_problems() -> None:
    splits = {split: arithmetic_problems(split, 300, seed=1) for split in SPLITS}
    texts = [p.problem for problems in splits.values() for p in problems]
    assert len(set(texts)) == len(texts) == 1200
    assert all(split_of(p.problem) == split for split, problems in splits.items() for p in problems)
    assert arithmetic_problems("train", 300, seed=1) == splits["train"]
    assert arithmetic_problems("train", 300, seed=2) != splits["train"]


def test_more_problems_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "draw_arithmetic", lambda rng: Arithmetic("product", (2, rng.randint(1, 9))))
    with pytest.raises(ValueError, match=r"different train problems.*lower the size"):
        arithmetic_problems("train", 10, seed=0)


def test_datamodule() -> None:
    data = ArithmeticDataModule(train_size=6, validation_size=4, test_size=2, batch_size=3, val_batch_size=3)
    data.setup("fit")
    assert [len(batch) for batch in data.train_dataloader()] == [3, 3]
    validation = [p for batch in data.val_dataloader() for p in batch]
    assert len(validation) == 4
    assert all(p.source == "arithmetic" for p in validation)
