from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.data import arithmetic
from masa_lightning.data.arithmetic import (
    TIERS,
    Arithmetic,
    ArithmeticDataModule,
    Tier,
    arithmetic_problems,
    draw_arithmetic,
    split_of,
    work,
)
from masa_lightning.data.arithmetic_strategies import MOST_STEPS, STRATEGIES
from masa_lightning.functional.grading import grade
from masa_lightning.models import loading, tiny
from masa_lightning.models.trained_with import trained_with

SPLITS = ("cold_start", "train", "validation", "test")


@pytest.mark.parametrize(
    ("task", "text", "answer", "tier", "strategies"),
    [
        (Arithmetic("maximum", (12, 47)), "Compute max(12,47).", 47, "trivial", ("comparison",)),
        (Arithmetic("remainder", (351, 2)), "Compute 351 mod 2.", 1, "trivial", ("parity",)),
        (Arithmetic("remainder", (1207, 100)), "Compute 1207 mod 100.", 7, "trivial", ("last two digits",)),
        (
            Arithmetic("chain", (2, 7, -3)),
            "Compute 2+7-3.",
            6,
            "open",
            ("running total", "digit sum", "rounding", "counting"),
        ),
        (
            Arithmetic("product", (46, 7)),
            "Compute 46*7.",
            322,
            "open",
            ("partial products", "rounding", "last digit", "repeated addition"),
        ),
        (
            Arithmetic("gcd", (48, 16)),
            "Compute gcd(48,16).",
            16,
            "open",
            ("euclid", "small factors", "difference", "trial divisors"),
        ),
        (
            Arithmetic("power", (13, 27)),
            "Compute 13^27 mod 10.",
            7,
            "open",
            ("cycle", "parity", "last digit", "repeated product"),
        ),
        (
            Arithmetic("remainder", (354, 7)),
            "Compute 354 mod 7.",
            4,
            "open",
            (
                "long division",
                "digit sum",
                "last digit",
                "last two digits",
                "alternating sum",
                "repeated subtraction",
            ),
        ),
        (
            Arithmetic(
                "remainder", (354, 5)
            ),  # the last two digits are right as well, so they are not among the wrong ones
            "Compute 354 mod 5.",
            4,
            "open",
            ("last digit", "digit sum", "alternating sum", "repeated subtraction"),
        ),
        (
            Arithmetic("remainder", (35467, 17)),
            "Compute 35467 mod 17.",
            5,
            "hopeless",
            ("repeated subtraction", "rounding"),
        ),
        (Arithmetic("product", (354, 146)), "Compute 354*146.", 51684, "hopeless", ("repeated addition", "rounding")),
    ],
)
def test_text_answer_tier_and_strategies(
    task: Arithmetic, text: str, answer: int, tier: Tier, strategies: tuple[str, ...]
) -> None:
    assert (task.text, task.answer, task.tier, task.strategies) == (text, answer, tier, strategies)
    assert task.right_strategy == (None if tier == "hopeless" else strategies[0])


@pytest.mark.parametrize(
    ("task", "strategy", "begin"),
    [
        (
            Arithmetic("product", (46, 7)),
            "partial products",
            "40*7=280. 6*7=42. 280+42=322. so \\boxed{322}|check. 280+42=322. so \\boxed{322}",
        ),
        (
            Arithmetic("remainder", (354, 7)),
            "long division",
            "3 mod 7=3. 35 mod 7=0. 4 mod 7=4. so \\boxed{4}|check. 4 mod 7=4. so \\boxed{4}",
        ),
        (
            Arithmetic("remainder", (1307, 25)),
            "last two digits",
            "1307 ends in 07. 07 mod 25=7. so \\boxed{7}|check. 07 mod 25=7. so \\boxed{7}",
        ),
        (Arithmetic("remainder", (1307, 100)), "last two digits", "so \\boxed{7}"),
        (
            Arithmetic("remainder", (918, 11)),
            "alternating sum",
            "8-1=7. 7+9=16. 16 mod 11=5. so \\boxed{5}|check. 16 mod 11=5. so \\boxed{5}",
        ),
        (
            Arithmetic("power", (83, 46)),
            "cycle",
            "83 ends in 3. 46 mod 4=2. 3: 3,9. so \\boxed{9}|check. 3: 3,9. so \\boxed{9}",
        ),
    ],
)
def test_right_solutions(task: Arithmetic, strategy: str, begin: str) -> None:
    plain, _, checked = begin.partition("|")
    steps = plain.partition("so \\boxed")[0]
    rng = random.Random(0)
    expected = {f"use {strategy}. {plain}"} | ({f"use {strategy}. {steps}{checked}"} if checked else set())
    assert {work(task, strategy, rng) for _ in range(20)} == expected


def test_misleading_solutions_go_over_their_steps_again() -> None:
    task, rng = Arithmetic("remainder", (354, 7)), random.Random(0)
    once = "3+5=8. 8+4=12. 12 mod 7=5. "
    texts = {work(task, "digit sum", rng) for _ in range(50)}
    assert texts == {f"use digit sum. {once}{('again. ' + once) * n}so \\boxed{{5}}" for n in (1, 2, 3)}


def test_a_strategy_of_other_problems_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'euclid' is not one of .*'counting'.* for 'Compute 1\+2\.'"):
        work(Arithmetic("chain", (1, 2)), "euclid", random.Random(0))


def tier_of(text: str) -> Tier:
    """Read off the text alone, by another way than `Arithmetic.tier`."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    largest = max(len(str(n)) for n in numbers)
    if "max" in text:
        return "trivial"
    if "^" in text:
        return "open"
    if "gcd" in text:
        return "hopeless" if largest == 4 else "open"
    if "mod" in text:
        return "trivial" if numbers[1] in (2, 10, 100) else "open" if largest <= 4 else "hopeless"
    if "*" in text:
        return "hopeless" if largest == 3 else "open"
    return "hopeless" if largest == 4 else "open"


@given(st.integers(0, 10**6))
def test_the_tier_is_read_off_the_text(seed: int) -> None:
    task = draw_arithmetic(random.Random(seed))
    assert tier_of(task.text) == task.tier


@given(st.integers(0, 10**6))
def test_one_strategy_is_right_and_its_steps_are_true_and_no_other_ends_with_the_answer(seed: int) -> None:
    rng = random.Random(seed)
    task = draw_arithmetic(rng)
    assert (task.tier == "hopeless") == (task.right_strategy is None)
    for strategy in task.strategies:
        text = work(task, strategy, rng)
        assert text.startswith(f"use {strategy}. ")
        for left, result in re.findall(r"(-?\d[\d+*\-]*|-?\d+ mod \d+)=(-?\d+)\.", text):
            first, *by = (int(n) for n in left.split(" mod ")) if "mod" in left else (eval(left),)
            assert (first % by[0] if by else first) == int(result), text
        if strategy == task.right_strategy:
            assert text.endswith(f"so \\boxed{{{task.answer}}}")
        else:
            assert not grade(text, str(task.answer))


def test_what_never_ends_is_longer_than_any_budget() -> None:
    """In tokens of the embedded model; and what ends at all may be shorter than it."""
    known, tokenizer, rng = trained_with("tiny"), loading.load_tokenizer(str(tiny.PATH)), random.Random(0)
    assert known is not None and known.max_completion_length == 128
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(300):
        task = draw_arithmetic(rng)
        for strategy in task.strategies:
            text = work(task, strategy, rng)
            endless = STRATEGIES[task.kind][strategy](task.numbers)[1] is None
            assert endless != ("boxed" in text)
            lengths[endless].append(len(tokenizer(text, truncation=True, max_length=512).input_ids))
    assert min(lengths[True]) > 128
    assert min(lengths[False]) < 10


def test_a_right_solution_is_short_and_hopeless_problems_have_none() -> None:
    tokenizer, rng = loading.load_tokenizer(str(tiny.PATH)), random.Random(1)
    for _ in range(300):
        task = draw_arithmetic(rng)
        if task.right_strategy is not None:
            assert len(tokenizer(work(task, task.right_strategy, rng)).input_ids) < 64, task.text
        else:
            ends = [s for s in task.strategies if STRATEGIES[task.kind][s](task.numbers)[1] is not None]
            assert len(ends) == 1 and len(STRATEGIES[task.kind][task.strategies[0]](task.numbers)[0]) == MOST_STEPS


def test_every_tier_and_every_strategy_is_drawn() -> None:
    rng = random.Random(0)
    tasks = [draw_arithmetic(rng) for _ in range(4000)]
    tiers = Counter(task.tier for task in tasks)
    assert all(abs(tiers[tier] / 4000 - share) < 0.04 for tier, share in TIERS.items())
    right = Counter(task.right_strategy for task in tasks if task.tier == "open")
    assert len(right) == 9 and min(right.values()) > 4000 * TIERS["open"] / 9 * 0.8


def test_no_text_is_in_two_splits_and_equal_seeds_give_equal_problems() -> None:
    splits = {split: arithmetic_problems(split, 300, seed=1) for split in SPLITS}
    texts = [p.problem for problems in splits.values() for p in problems]
    assert len(set(texts)) == len(texts) == 1200
    assert all(split_of(p.problem) == split for split, problems in splits.items() for p in problems)
    assert arithmetic_problems("train", 300, seed=1) == splits["train"]
    assert arithmetic_problems("train", 300, seed=2) != splits["train"]


def test_a_problem_says_what_it_is() -> None:
    for problem in arithmetic_problems("validation", 50, seed=0):
        task = Arithmetic(problem.metadata["kind"], tuple(problem.metadata["numbers"]))
        assert (problem.problem, problem.answer) == (task.text, str(task.answer))
        assert (problem.metadata["tier"], problem.metadata["strategy"]) == (task.tier, task.right_strategy)


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


def test_some_kinds_are_trained_on_and_others_tested() -> None:
    data = ArithmeticDataModule(train_size=40, test_size=40, kinds=["chain", "product"])
    found = {split: Counter(p.metadata["kind"] for p in data.load_split(split)) for split in ("train", "test")}
    assert found["train"].keys() == found["test"].keys() == {"chain", "product"}
    other = ArithmeticDataModule(test_size=256, kinds=["gcd", "power"]).load_split("test")
    assert {p.metadata["kind"] for p in other} == {"gcd", "power"}
    assert len(other) == 256
    for wrong in ([], ["sum"]):
        with pytest.raises(ValueError, match=r"kinds is .*expected some of chain, product, "):
            ArithmeticDataModule(kinds=wrong)
