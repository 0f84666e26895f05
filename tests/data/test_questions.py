"""Texts of problems, without the instructions of their data sets, and which of them are the same."""

import json
from typing import Any

import numpy as np
import pytest

from masa_lightning.data._cells import UnusableRowError
from masa_lightning.data._questions import plain_text, problem_text, same_text_key
from masa_lightning.data._wrappers import other_form, without_wrapper

SHARED = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]  # as ShareGPT has them
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "What is\n$\\frac12$?"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (CHAT, "What is\n$\\frac12$?"),
        (json.dumps(CHAT), "What is\n$\\frac12$?"),
        (repr(CHAT), "What is\n$\\frac12$?"),
        (np.array(CHAT), "What is\n$\\frac12$?"),
        (r'[{"role": "user", "content": "Is $\frac12$\nhalf?"}]', "Is $\\frac12$\nhalf?"),  # LaTeX as it came
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ({"role": "user", "content": "a"}, "a"),
        ('{"role": "user", "content": "a"}', "a"),
        ([{"role": "System", "content": "s"}, {"role": "User", "content": "a"}], "a"),
        (SHARED, "a"),
        (json.dumps(SHARED), "a"),
        ("Which of <|x|> and [INST is it?", "Which of <|x|> and [INST is it?"),
        (["a", "b"], "a\nb"),
        ("a\tb\n1\t2\nan\tan", "a\tb\n1\t2\nan\tan"),  # a table
        ('["a", "b"]', '["a", "b"]'),
        (" [x] ", "[x]"),
    ],
)
def test_texts(value: Any, text: str) -> None:
    assert plain_text(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (str(np.array(CHAT)), "chat messages that cannot be read"),  # numpy leaves the commas out
        ('[{"role": "user", "content": "cut', "chat messages that cannot be read"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b"}]}], "a part that is no text"),
        ([{"role": "user", "content": 5}], "problem is a int"),
        ([{"from": "gpt", "value": "b"}], "chat without a user message"),
        ([{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}], "problem is a list"),
        ("<|im_start|>user\nWhat?<|im_end|>\n", r"a prompt that a chat template has made \(<\|im_start\|>\)"),
        ("<s>[INST] What? [/INST]", "a prompt that a chat template has made"),
        ("<start_of_turn>user\nWhat?<end_of_turn>\n", "a prompt that a chat template has made"),
        ("<|user|>\nWhat?<|assistant|>", "a prompt that a chat template has made"),
        ("<\uff5cUser\uff5c>What?<\uff5cAssistant\uff5c>", "a prompt that a chat template has made"),
        (" \u200b\n", "empty problem"),
        ({"a": "b"}, "problem is a struct"),
        ([1, 2], "problem is a list"),
        ("half a character \ud800", "not valid Unicode"),
        ("what is \x0crac12?", "LaTeX whose backslash was read as an escape"),
        ("what is \tan x \to y?", "LaTeX whose backslash was read as an escape"),
        ("what is \0?", "the control character"),
    ],
)
def test_no_texts(value: Any, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        plain_text(value)


def test_verl_structs_may_be_texts() -> None:
    row = {"prompt": json.dumps(CHAT), "extra_info": json.dumps({"question": "What is $\\frac12$?"})}
    assert problem_text(row, "prompt") == "What is $\\frac12$?"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is this?", " WHAT  is\nthis?", True),
        ("Straße 5", "STRASSE 5", True),
        ("Find $X$", "Find $x$", False),
        ("Find $X$", "FIND $X$", True),
        ("Find \\(AB\\)", "Find \\(ab\\)", False),
        ("Find \\[AB\\]", "Find \\[ab\\]", False),
        ("Find \\begin{align}A\\end{align}", "Find \\begin{align}a\\end{align}", False),
        ("Find \\Delta", "Find \\delta", False),
        ("Find X in Y", "Find x in Y", False),
        ("Find x1", "Find X1", False),
        ("How long do 5 mW last?", "How long do 5 MW last?", False),
        ("Ann has 5 hens", "ANN HAS 5 HENS", True),
    ],
)
def test_same_text(one: str, other: str, same: bool) -> None:
    assert (same_text_key(one) == same_text_key(other)) is same


STEP, BOX = "Solve the following math problem", "\\boxed{}"
WRAPPERS = [
    f"{STEP} step by step. The last line of your response should be of the form Answer: $Answer (without quotes) where "
    '$Answer is the answer to the problem.\n\n@\n\nRemember to put your answer on its own line after "Answer:".',
    f"{STEP} step by step. The last line of your response should be of the form Answer: $ANSWER (without quotes) where "
    '$ANSWER is the answer to the problem.\n\n@\n\nRemember to put your answer on its own line after "Answer:", and you '
    "do not need to use a \\boxed command.",
    f"{STEP} efficiently and clearly.  The last line of your response should be of the following format: 'Therefore, the "
    "final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) where ANSWER is just the final number or "
    "expression that solves the problem. Think step by step before answering.\n\n@",
    "You must put your answer inside <answer> </answer> tags, i.e., <answer> answer here </answer>. And your final answer "
    f"will be extracted automatically by the {BOX} tag.\nThis is the problem:\n@",
    f"{STEP}. Make sure to put the answer (and only answer) inside {BOX}.\n\n@",
    '@ Let\'s think step by step and output the final answer after "####".',
    f"@ Let's think step by step and output the final answer within {BOX}.",
    f"@\nPlease reason step by step, and put your final answer within {BOX}.",
    "@\n\nPresent the answer in LaTex format: \\boxed{Your answer}",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "problem", ["What is $x$?", "Let $\\boxed{x}$ be a box.\n\nAnswer: which?", "Why? " * 99 + "So."]
)
def test_known_wrappers_are_taken_off(wrapper: str, problem: str) -> None:
    wrapped = wrapper.replace("@", problem)
    assert without_wrapper(wrapped) == problem
    assert plain_text([{"role": "user", "content": wrapped}]) == problem
    assert plain_text(wrapped.replace(" ", "  ").upper()) == problem.replace(" ", "  ").upper()


def test_texts_that_are_nothing_but_a_wrapper_stay() -> None:
    text = "Please reason step by step, and put your final answer within \\boxed{}."
    assert without_wrapper(text) == text


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('What is 1+1? End with a line "Answer: X".', '"Answer:"'),
        ("What is 1+1? Use the form Answer: $X", '"Answer:"'),
        ("What is 1+1? Write the number after ####.", '"####"'),
        ("What is 1+1? Put it in <answer> tags.", '"<answer>"'),
        ("What is 1+1? Put it in \\boxed{}.", None),
        ("He asked: what is the answer? The answer: 5 hens or 6?", None),
        ("#### A story\nWhat is 1+1?", None),
        ("p. The last line should be Answer: x", '"Answer:"'),
        ("p. Your final answer should be written as Answer: x", '"Answer:"'),
        ("p. Finish with Answer: [x]", '"Answer:"'),
        ("p. Write #### before the number", '"####"'),
        ("What is the answer: 5 or 6?", None),
    ],
)
def test_other_forms(text: str, form: str | None) -> None:
    assert other_form(text) == form
