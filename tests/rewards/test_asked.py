"""What a reward function gets is what its parameters ask for by name, and what there is not is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.rewards.asked import Asked, read_signature

OF_ONE = ("problem", "metadata", "completion", "completion_ids", "length", "finish_reason", "correct", "confidence")
OF_MANY = ("completions", "completion_ids", "lengths", "finish_reasons", "correct", "confidences", "metadata")


def of_trl(completions: Any, completion_ids: Any, log_metric: Any = None, **kwargs: Any) -> Any: ...


class Judge:
    def __call__(self, problem: Any, completion: Any, temperature: float = 0.0) -> Any: ...

    async def later(self, problem: Any, completions: Any) -> Any: ...


async def waits(completion: Any, *, correct: Any) -> Any: ...


@pytest.mark.parametrize(
    ("function", "form", "names", "is_async"),
    [
        (lambda problem, completions: [], "problem", ("problem", "completions"), False),
        (lambda completions, problem: [], "problem", ("problem", "completions"), False),
        (lambda problems, completions: [], "batch", ("problems", "completions"), False),
        (lambda completion_ids: [], "batch", ("completion_ids",), False),
        (lambda length: 0.0, "completion", ("length",), False),
        (lambda completions=(): [], "batch", ("completions",), False),
        # A default of one's own keeps its name where the form has none of it.
        (lambda problem, completions, length=400: [], "problem", ("problem", "completions"), False),
        (lambda completions, lengths=None: [], "batch", ("completions", "lengths"), False),
        (of_trl, "batch", ("problems", *OF_MANY, "log_metric", "device"), False),
        (lambda completion, **all: 0.0, "completion", (*OF_ONE, "log_metric", "device"), False),
        (partial(lambda scale, problem, completions: [], 2.0), "problem", ("problem", "completions"), False),
        (partial(lambda problem, completions, scale: [], scale=2.0), "problem", ("problem", "completions"), False),
        (Judge(), "completion", ("problem", "completion"), False),
        (Judge().later, "problem", ("problem", "completions"), True),
        (partial(waits), "completion", ("completion", "correct"), True),
    ],
)
def test_what_is_asked_for(function: Any, form: str, names: tuple[str, ...], is_async: bool) -> None:
    asked = read_signature(function, "it")
    assert (asked.form, set(asked.names), asked.is_async) == (form, set(names), is_async)
    assert asked.waits_for_verdicts == ("correct" in names)


def lazily(problem: Any, completions: Any) -> Any:
    yield 0.0


async def lazily_later(problem: Any, completions: Any) -> Any:
    yield 0.0


def by_place(problem: Any, completions: Any, /) -> Any: ...


NAMES = (
    r"expected names of \(problem, metadata, completion, .*\) for one completion, \(problem, completions, .*\) for all "
    r"completions of one problem or \(problems, completions, .*\) for all completions of the batch; and log_metric and "
    r"device with any"
)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda p, c: [],
            rf"the reward function 'lambda' requires 'p', 'c', and is called .*; {NAMES}: rename them, or give",
        ),
        (
            lambda completions, answer: [],
            rf"requires 'answer', and is called for all completions of the batch .*{NAMES}: ren",
        ),
        (
            lambda problem, completion_text: [],
            r"requires 'completion_text' \(did you mean 'completion'\?\), and is called .*; expected names of",
        ),
        (lambda problems, completion: [], "requires 'problems', and is called for one completion with what it asks"),
        (lambda problem, completions, length: [], "requires 'completions', and is called for one completion"),
        (
            lambda problem, completions, correct, epoch: [],
            "requires 'epoch', and is called for all completions of one problem",
        ),
        (by_place, "requires 'problem', 'completions'"),
        (lambda *all: [], f"asks for nothing of a completion, which it is to reward; {NAMES}"),
        (lambda problem: [], "asks for nothing of a completion"),
        (lambda problem, log_metric: [], "asks for nothing of a completion"),
        (lambda: [], "asks for nothing of a completion"),
        (lazily, r"'lazily' is a generator, which gives no rewards when it is called; expected `return`, not `yield`"),
        (lazily_later, "'lazily_later' is a generator"),
        (dict.fromkeys, r"'fromkeys' requires 'iterable'"),
        (print, "'print' asks for nothing of a completion"),
        (max, r"'max' has a signature that cannot be read"),
    ],
)
def test_what_there_is_not_is_refused_when_the_module_is_made(
    loop: Any, function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        loop.module(GRPOLightningModule, reward_functions=[function])


def test_what_the_user_has_filled_in_stays() -> None:
    def about(completion: Any, metadata: Any, **kwargs: Any) -> Any: ...

    asked = read_signature(partial(about, metadata={"mine": 1}), "it")
    assert "metadata" not in asked.names
    assert "completion" in asked.names


def test_a_torch_module_asks_with_its_forward() -> None:
    class Scorer(torch.nn.Module):
        def forward(self, problem: Any, completions: Any) -> Any: ...

    class Other(torch.nn.Module):
        def forward(self, x: Any) -> Any: ...

    assert read_signature(Scorer(), "it") == Asked("problem", ("problem", "completions"), is_async=False)
    with pytest.raises(TypeError, match="requires 'x'"):
        read_signature(Other(), "it")
