"""What a solution says of its own chance to be right: a hostile text states nothing, and stating the truth earns most."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.functional.boxes import last_box
from masa_lightning.functional.confidence import (
    CONFIDENCE_FAILURES,
    answer_text,
    confidence_reward,
    parse_confidence,
    without_confidence,
)
from masa_lightning.types import Completion, MetaPrediction, Rollout

BOX = r"so \boxed{4}"
MARKS = ["<confidence>", "</confidence>", "<think>", "</think>", "0.8", "1", "\\boxed{4}", " ", "%", "nan", "-", "."]


def tag(value: str) -> str:
    return f"<confidence>{value}</confidence>"


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("0.8", 0.8), ("0", 0.0), ("1", 1.0), ("1.0", 1.0), (".5", 0.5), ("1.", 1.0), (" 0.25\n", 0.25), ("0.80", 0.8),
        ("80%", 0.8), ("100%", 1.0), ("1%", 0.01), ("0.5%", 0.005), ("80 %", 0.8), ("00.5", 0.5),
    ],
)  # fmt: skip
def test_a_confidence_is_a_number_or_a_percentage(said: str, value: float) -> None:
    assert parse_confidence(BOX + tag(said)) == (value, None)
    assert parse_confidence(f"<think>{tag('0.1')} no</think>{BOX}\n\n{tag(said)} \n") == (value, None)
    assert parse_confidence(f"thoughts of the prompt's <think> </think> {BOX} {tag(said)}") == (value, None)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "missing"),
        (BOX, "missing"),
        (f"{BOX} confidence: 0.8", "missing"),
        (f"{BOX} <Confidence>0.8</Confidence>", "missing"),
        (f"<confidence> 0.8 {BOX}", "unclosed"),
        (f"{BOX} <confidence>0.", "unclosed"),  # cut short
        (f"{BOX} 0.8</confidence>", "unclosed"),
        (f"{BOX} </confidence>0.8<confidence>", "unclosed"),
        (f"{BOX} <confidence>{tag('0.8')}", "unclosed"),
        (f"{BOX} {tag(tag('0.8'))}", "unclosed"),
        (f"{tag('0.8')} {BOX}", "misplaced"),
        (f"{BOX} {tag('0.8')}.", "misplaced"),
        (f"{BOX} {tag('0.8')} or so", "misplaced"),
        (f"<think>{tag('0.8')}</think> {BOX}", "misplaced"),
        (f"<think> hm {BOX} {tag('0.8')}", "misplaced"),  # it never stopped thinking
        (f"{tag('0.8')} {BOX} {tag('0.7')}", "several"),
        (f"{BOX} {tag('0.8')} {tag('8%')}", "several"),
        (BOX + tag(""), "not_a_number"),
        (BOX + tag("."), "not_a_number"),
        (BOX + tag("%"), "not_a_number"),
        (BOX + tag("high"), "not_a_number"),
        (BOX + tag("nan"), "not_a_number"),
        (BOX + tag("inf"), "not_a_number"),
        (BOX + tag("8/10"), "not_a_number"),
        (BOX + tag("0,8"), "not_a_number"),
        (BOX + tag("8e-1"), "not_a_number"),
        (BOX + tag("0x1"), "not_a_number"),
        (BOX + tag("+0.8"), "not_a_number"),
        (BOX + tag("0_1"), "not_a_number"),
        (BOX + tag("~0.8"), "not_a_number"),
        (BOX + tag("0.8 0.9"), "not_a_number"),
        (BOX + tag("\u0660.\u0668"), "not_a_number"),  # digits of Arabic
        (BOX + tag("0.\u0668"), "not_a_number"),
        (BOX + tag("0." + "3" * 5000), "not_a_number"),
        (BOX + tag("1.01"), "out_of_range"),
        (BOX + tag("80"), "out_of_range"),
        (BOX + tag("-0.1"), "out_of_range"),
        (BOX + tag("101%"), "out_of_range"),
        (BOX + tag("9" * 20), "out_of_range"),
        (f"{tag('high')} {BOX} {tag('0.7')}", "not_a_number"),
    ],
)
def test_what_states_nothing_says_why(text: str, failure: str) -> None:
    assert parse_confidence(text) == (None, failure)


def test_the_same_twice_is_no_contradiction() -> None:
    assert parse_confidence(f"{tag('0.5')} {BOX} {tag('50%')}").value == 0.5


@given(st.one_of(st.text(), st.lists(st.sampled_from(MARKS)).map("".join)))
def test_any_text_is_read(text: str) -> None:
    value, failure = parse_confidence(text)
    assert (value is None) is (failure is not None)
    assert failure is None or failure in CONFIDENCE_FAILURES
    if value is not None:
        assert 0 <= value <= 1
        assert text.rstrip().endswith("</confidence>")
        assert "<think>" not in text.rpartition("</think>")[2]
    kept = without_confidence(text)
    assert "<confidence>" not in kept
    assert kept == text or "<confidence>" in text or "</confidence>" in text


@given(st.integers(0, 10**6))
def test_every_share_is_read_as_python_reads_it(millionths: int) -> None:
    share = Fraction(millionths, 10**6)
    assert parse_confidence(tag(f"{float(share):.6f}")).value == float(f"{float(share):.6f}")
    assert parse_confidence(tag(f"{float(100 * share):.4f}%")).value == pytest.approx(float(share), abs=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "<confidence>" * 200_000,
        "```<confidence>" * 200_000,
        "`" * 10**6,
        tag("1") * 100_000,
        "<think>" * 200_000,
        tag(" " * 10**6),
    ],
)
def test_hostile_texts_cost_little(text: str) -> None:
    """Linear: quadratic work on these would run into the limit of the whole test."""
    parse_confidence(text)
    without_confidence(text)


PRINTS = '```python\nprint("<confidence>1</confidence>")\n```'


def test_a_program_keeps_what_it_prints() -> None:
    """It lost the tag, and its solution stated nothing."""
    for program in (PRINTS, PRINTS.replace("</confidence>", "")):
        text = f"so\n{program}\n{tag('0.8')}"
        assert parse_confidence(text) == (0.8, None)
        assert without_confidence(text) == f"so\n{program}\n\n"
        assert parse_confidence(f"so\n{program}") == (None, "missing")
    assert parse_confidence(f"so\n```{tag('0.8')}") == (0.8, None)  # which is never closed
    assert parse_confidence(f"<think>```</think> ``` {tag('1')} ``` {tag('0.8')}") == (0.8, None)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (BOX + tag("0.8"), "4"),
        (BOX + tag(r"\boxed{0.8}"), "4"),  # no answer
        (rf"so \boxed 4 {tag('0.8')}", "4"),  # without braces a box ends with its line
        (BOX + "<confidence>0.", "4"),
        (rf"so \boxed 4 <confidence>{tag('1')}", "4"),
        (tag(BOX), None),
        (rf"{tag('0.2')} \boxed{{5}} {tag('0.3')}", "5"),
        (BOX, "4"),
    ],
)
def test_the_answer_is_read_without_the_tag(text: str, box: str | None) -> None:
    assert last_box(without_confidence(text)) == box
    rollout = Rollout(
        kind="solution",
        prompt_ids=[],
        completion=Completion(token_ids=[], logprobs=[], finish_reason="stop"),
        text=text,
    )
    assert answer_text(rollout) == text  # nobody asked
    rollout.prediction = MetaPrediction(failures={"confidence": "missing"})
    assert last_box(answer_text(rollout)) == box


def oracle(stated: float, right: bool) -> Fraction:
    """The equation of the paper, in exact numbers: correctness less the squared distance of the confidence from it."""
    y = Fraction(1 if right else 0)
    return y - (Fraction(stated) - y) ** 2


@given(st.floats(0, 1), st.booleans())
def test_the_reward_is_the_equation(stated: float, right: bool) -> None:
    total = float(right) + confidence_reward(stated, right)
    assert total == pytest.approx(float(oracle(stated, right)), abs=1e-12)
    assert -1 <= confidence_reward(stated, right) <= 0
    assert confidence_reward(None, right) <= confidence_reward(stated, right)  # nothing is gained by stating none


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
def test_the_truth_earns_most_and_being_right_pays(chance: float) -> None:
    def expected(stated: float | None, p: float) -> float:
        return p * (1 + confidence_reward(stated, True)) + (1 - p) * confidence_reward(stated, False)

    by_statement = {k / 1000: expected(k / 1000, chance) for k in range(1001)}
    assert max(by_statement, key=lambda k: by_statement[k]) == pytest.approx(chance)
    assert by_statement[chance] == pytest.approx(chance**2)
    assert expected(None, chance) <= min(by_statement.values()) + 1e-12


@pytest.mark.parametrize("stated", [-0.01, 1.01, math.nan, math.inf])
def test_a_reward_of_no_confidence_is_refused(stated: float) -> None:
    with pytest.raises(ValueError, match=r"confidence is .*; expected a value in \[0, 1\]"):
        confidence_reward(stated, True)
