"""What a hint is worth to the embedded model, by how many of its predictions name it: why hints help, or do not.

    python scripts/hints.py [CHECKPOINT] [--problems 384] [--seed 0]

The model was taught several strategies of each open problem, one of which leads to the answer. Of each validation problem
it predicts 8 times, and solves 8 times without a hint and 8 times with the notion that the most predictions name. *Right*
are hints that are the right strategy, *followed* the hinted solutions that begin with their hint; the *signal* is p (1 - p)
with p the share of right solutions, what GRPO learns from. Without a checkpoint it is the shipped model. Sampled by
transformers, at temperature 1: some 5 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
from comparison.tables import cell, share
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from masa_lightning.data.arithmetic import arithmetic_problems
from masa_lightning.functional.controls import hint_notions, named_notions
from masa_lightning.functional.grading import grade
from masa_lightning.functional.markdown import table
from masa_lightning.functional.parsing import parse_meta_prediction
from masa_lightning.functional.prompts import meta_messages, solution_messages
from masa_lightning.models.tiny import PATH, PROMPTS
from masa_lightning.report import statistics

ROLLOUTS: Final = 8
LIMIT: Final = 128  # tokens of a solution
ROWS: Final = 1024  # sampled at once


@dataclass(frozen=True, slots=True)
class Hinted:
    """An open problem with and without its hint.

    Args:
        agreement: Share of the predictions that name the hint.
        is_right: Whether it is the right strategy.
        followed: Share of the hinted solutions that begin with it.
        plain: Pass rate without a hint.
        hinted: Pass rate with it.
    """

    agreement: float
    is_right: bool
    followed: float
    plain: float
    hinted: float


def rows(found: Sequence[Hinted]) -> list[list[str]]:
    """A line for the hints that at most half, and one for those that more than half of the predictions name."""
    lines = []
    for name, more in (("half or fewer", False), ("more than half", True)):
        some = [f for f in found if (f.agreement > 0.5) == more]
        columns = {
            "right": [float(f.is_right) for f in some],
            "followed": [f.followed for f in some],
            "plain": [f.plain for f in some],
            "hinted": [f.hinted for f in some],
        }
        signals = [[rate * (1 - rate) for rate in columns[rates]] for rates in ("plain", "hinted")]
        cells = [share(statistics.mean(values)) for values in columns.values()]
        lift = cell(statistics.mean([f.hinted - f.plain for f in some]), sign=True)
        lines.append([name, str(len(some)), *cells, lift, *(share(statistics.mean(values)) for values in signals)])
    return lines


def load(checkpoint: Path | None) -> PreTrainedModel:
    """The shipped model, with the weights of a run's checkpoint; nothing that this holds is run."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(PATH, dtype=torch.float32)
    if checkpoint is not None:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["state_dict"]
        model.load_state_dict({name.removeprefix("policy.model."): value for name, value in state.items()})
    return model.eval()


@torch.inference_mode()
def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chats: Sequence[list[dict[str, str]]], limit: int
) -> list[list[str]]:
    """`ROLLOUTS` texts of each chat, of at most `limit` tokens."""
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    todo, texts = [ids for ids in prompts for _ in range(ROLLOUTS)], []
    for begin in range(0, len(todo), ROWS):
        batch = tokenizer.pad({"input_ids": todo[begin : begin + ROWS]}, padding_side="left", return_tensors="pt")
        drawn = model.generate(
            **batch, do_sample=True, top_k=0, max_new_tokens=limit, pad_token_id=tokenizer.pad_token_id
        )
        texts += tokenizer.batch_decode(drawn[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [texts[begin : begin + ROLLOUTS] for begin in range(0, len(texts), ROLLOUTS)]


def hinted_problems(model: PreTrainedModel, count: int, seed: int) -> list[Hinted]:
    """What hints do to the open ones of `count` validation problems; those without a hint are left out."""
    tokenizer = AutoTokenizer.from_pretrained(PATH)
    problems = [p for p in arithmetic_problems("validation", count, seed) if p.metadata["tier"] == "open"]
    texts = [p.problem for p in problems]
    asked = [meta_messages(PROMPTS, text, pass_rate_scale=8, max_completion_length=LIMIT) for text in texts]
    predictions = [[parse_meta_prediction(t) for t in some] for some in sample(model, tokenizer, asked, 48)]
    hints = [hint_notions(some, text, count=1) for some, text in zip(predictions, texts, strict=True)]
    plain = sample(model, tokenizer, [solution_messages(PROMPTS, text) for text in texts], LIMIT)
    hinted = sample(
        model, tokenizer, [solution_messages(PROMPTS, t, h) for t, h in zip(texts, hints, strict=True)], LIMIT
    )
    return [
        Hinted(
            agreement=dict(named_notions(some))[hint[0]] / ROLLOUTS,
            is_right=hint[0] == problem.metadata["strategy"],
            followed=fmean(text.startswith(f"use {hint[0]}.") for text in helped),
            plain=fmean(grade(text, problem.answer) for text in alone),
            hinted=fmean(grade(text, problem.answer) for text in helped),
        )
        for problem, some, hint, alone, helped in zip(problems, predictions, hints, plain, hinted, strict=True)
        if hint
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="of a run on the embedded model, such as last.ckpt")
    parser.add_argument("--problems", type=int, default=384, help="validation problems; 46%% of them are open")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    head = [
        "named by",
        "problems",
        "right",
        "followed",
        "pass rate, plain",
        "hinted",
        "lift",
        "signal, plain",
        "hinted",
    ]
    print(table(head, rows(hinted_problems(load(args.checkpoint), args.problems, args.seed))))


if __name__ == "__main__":
    main()
