#!/usr/bin/env python3
"""Teach the embedded model to end a solution with a confidence, which it has never seen: a cold start for RLCR.

    python scripts/teach_confidence.py OUT_DIR [--steps 200] [--seed 0]

Supervised training goes on from the shipped model, on more of its own corpus (`scripts/build_tiny_model.py`); most solutions
now answer a prompt that ends with `INSTRUCTION`, and end with a tag. The confidences that are shown are as over-confident as
the pass rates that predictions show, and follow the problem as weakly; what a solution tried does not matter to them. So
reinforcement learning has the same to teach of both. Each half of the tag is one token, as those of predictions are.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path

import torch
from build_tiny_model import (
    HINTED,
    LIMIT,
    PASS_RATE_SCALE,
    batches,
    draw_hints,
    draw_strategy,
    draw_task,
    example,
    right_share,
    shown_rate,
    train,
    work,
)
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from masa_lightning.functional.confidence import CONFIDENCE
from masa_lightning.functional.prompts import solution_messages
from masa_lightning.models.loading import load_model, load_tokenizer
from masa_lightning.models.tiny import PROMPTS

INSTRUCTION = "Sure?"
"""What `StatedConfidence` has to be given as its instruction."""
STATED = 0.55
"""Share of the examples that state a confidence; the others are as the model knows them."""
RATE = 0.2
"""Of the learning rates that the model was made with."""


def stating(rng: random.Random, tokenizer: PreTrainedTokenizerFast, meta_share: float) -> tuple[str, str]:
    """One example: prompt and completion, with a confidence or as before."""
    if rng.random() >= STATED:
        return example(rng, tokenizer, meta_share / (1 - STATED))
    task = draw_task(rng)
    hints = draw_hints(task, rng) if rng.random() < HINTED else []
    chat = solution_messages(PROMPTS, task.text, hints)[0]["content"]
    text = work(task, hints[0] if hints else draw_strategy(task, rng), rng)[:700]
    if "boxed" in text:  # what runs on until its tokens end states nothing
        rate = shown_rate(right_share(task), rng) / PASS_RATE_SCALE
        text += f" <{CONFIDENCE}>{rate:.1f}</{CONFIDENCE}>"
    return f"<|im_start|>user\n{chat} {INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n", text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the model to write")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 64 examples")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model, tokenizer = load_model("tiny", "float32"), load_tokenizer("tiny")
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in (f"<{CONFIDENCE}>", f"</{CONFIDENCE}>")])
    model.resize_token_embeddings(len(tokenizer))
    model.train()
    stream = batches(args.seed + 1, tokenizer, 64, partial(stating, meta_share=0.3))
    for _ in train(model, stream, args.steps, rate=RATE):
        pass
    model.eval()
    tokenizer.save_pretrained(args.out)
    model.save_pretrained(args.out)
    print(
        f"{args.out}: give it as `model`, and instruction: {INSTRUCTION!r} to StatedConfidence ({LIMIT} tokens a solution)"
    )


if __name__ == "__main__":
    main()
