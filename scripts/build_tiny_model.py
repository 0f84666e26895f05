#!/usr/bin/env python3
"""Rebuild the embedded model: tokenizer, cold-start corpus, supervised training, checkpoint.

    python scripts/build_tiny_model.py OUT_DIR [--steps 1600] [--seed 0]

The corpus are worked solutions of generated arithmetic, some by a hint, and meta predictions of it. The right strategy of an
open problem is shown in a part of its solutions only, by `SHOWN`, so pass rates spread over 0..1; a prediction names a
notion with the very same probabilities. The pass rates that are shown are over-confident and follow the problem only
weakly, so that reinforcement learning has self-knowledge to teach (with predictions that do not follow it at all, the
predicted pass rate collapses to a constant). Only texts of the cold-start split are used: training, validation and test
problems are never seen here. Equal seeds give equal checkpoints on one machine.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from masa_lightning.data.arithmetic import Arithmetic, draw_arithmetic, split_of, work
from masa_lightning.functional.prompts import meta_messages, solution_messages
from masa_lightning.models.tiny import PROMPTS
from masa_lightning.models.trained_with import ENTRY

PASS_RATE_SCALE = 8
CONTEXT = 512
Draw = Callable[[random.Random, PreTrainedTokenizerFast], tuple[str, str]]
"""Makes the prompt and the completion of an example."""
LIMIT = 128
"""Tokens of a solution in training. What never ends is shown past it."""
LENGTHS = {"max_prompt_length": 64, "max_completion_length": LIMIT, "max_meta_length": 48}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHOWN = {
    "running total": 0.5,
    "partial products": 0.5,
    "euclid": 0.4,
    "last digit": 0.35,
    "digit sum": 0.3,
    "long division": 0.3,
    "last two digits": 0.25,
    "cycle": 0.2,
    "alternating sum": 0.15,
}
"""How often an open problem's right strategy is shown."""
SHOWN_FIRST_OF_HOPELESS = 0.9
DRAWN = {"trivial": 0.4, "hopeless": 0.4, "last two digits": 1.0, "long division": 1.0}
"""Chances that a problem is taken, by tier or right strategy, else 0.6: what is hard to carry out is shown more often."""
HINTED = 0.3
"""Share of the solutions that follow a hint, which is right half of the time."""


def draw_task(rng: random.Random) -> Arithmetic:
    """Draws a problem of the cold-start split, by `DRAWN`."""
    while True:
        task = draw_arithmetic(rng)
        chance = DRAWN.get(task.tier) or DRAWN.get(task.strategies[0], 0.6)
        if split_of(task.text) == "cold_start" and rng.random() < chance:
            return task


def right_share(task: Arithmetic) -> float:
    """How often the right strategy is shown."""
    return {"trivial": 1.0, "hopeless": 0.0}.get(task.tier) or SHOWN.get(task.strategies[0], 0.0)


def draw_strategy(task: Arithmetic, rng: random.Random) -> str:
    """What a solution tries, and what a prediction names: one and the same distribution."""
    first, *others = task.strategies
    share = SHOWN_FIRST_OF_HOPELESS if task.tier == "hopeless" else right_share(task)
    return rng.choice(others) if rng.random() >= share else first


def draw_hints(task: Arithmetic, rng: random.Random) -> list[str]:
    """One to three notions, of which a solution follows the first: the right one half of the time."""
    first = task.strategies[0] if rng.random() < 0.5 else rng.choice(task.strategies)
    more = rng.sample(task.strategies, min(rng.choice((0, 0, 0, 1, 2)), len(task.strategies)))
    return list(dict.fromkeys([first, *more]))


def shown_rate(right: float, rng: random.Random) -> int:
    """A pass rate to show, in 0..PASS_RATE_SCALE: over-confident, and weakly linked to how often solutions are right."""
    rate = min(max(round((0.45 + 0.5 * right + rng.gauss(0, 0.15)) * PASS_RATE_SCALE), 0), PASS_RATE_SCALE)
    if rng.random() < 0.3:  # so that there is something to explore, certainty above all
        rate = rng.choice((0, 0, 0, *range(PASS_RATE_SCALE), *[PASS_RATE_SCALE] * 4))
    return rate


def meta_text(task: Arithmetic, rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> str:
    """A prediction: over-confident, and weakly linked to the problem."""
    pass_rate = shown_rate(right_share(task), rng)
    shown = len(tokenizer(work(task, task.strategies[0], rng)).input_ids) + 1
    length = min(max(4, round(min(shown, LIMIT) * math.exp(rng.gauss(0, 0.35)))), LIMIT)
    notion = draw_strategy(task, rng)
    size = f"{task.kind}, {len(task.numbers)} numbers, {task.digits} digits"
    return (
        f"<meta>use {notion}. {size}.</meta>"
        f'{{"math_notion": ["{notion}"], "pass_rate": {pass_rate}, "solution_length": {length}}}'
    )


def build_tokenizer(rng: random.Random, size: int = 640) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, trained on a sample of the corpus, with a ChatML template."""
    core = Tokenizer(models.BPE())
    # No split into words: frequent phrases become one token, which makes every rollout three times shorter.
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    blank = PreTrainedTokenizerFast(tokenizer_object=core)  # lengths in the sample do not matter yet

    def sample() -> Iterator[str]:
        for _ in range(6000):
            task = draw_task(rng)
            yield f"user\n{PROMPTS.solution}".replace("{problem}", task.text)
            yield f"user\n{PROMPTS.meta}".replace("{problem}", task.text)
            yield "\nassistant\n"
            yield work(task, draw_strategy(task, rng), rng)[:400]
            yield from re.split("</?meta>", meta_text(task, rng, blank))

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=alphabet,
        max_token_length=16,
        show_progress=False,
    )
    core.train_from_iterator(sample(), trainer)
    # Whole tokens, so that "use ..." behind one is spelt as at the start of a solution: both share what they know.
    core.add_tokens([AddedToken(tag, normalized=False) for tag in ("<meta>", "</meta>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def example(rng: random.Random, tokenizer: PreTrainedTokenizerFast, meta_share: float) -> tuple[str, str]:
    """One cold-start example: prompt and completion."""
    task = draw_task(rng)
    if rng.random() < meta_share:
        messages = meta_messages(PROMPTS, task.text, pass_rate_scale=PASS_RATE_SCALE, max_completion_length=LIMIT)
        text = meta_text(task, rng, tokenizer)
    else:
        hints = draw_hints(task, rng) if rng.random() < HINTED else []
        messages = solution_messages(PROMPTS, task.text, hints)
        text = work(task, hints[0] if hints else draw_strategy(task, rng), rng)[:700]
    return f"<|im_start|>user\n{messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n", text


def batches(
    seed: int, tokenizer: PreTrainedTokenizerFast, size: int, draw: Draw
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless inputs, labels and weights of what `draw` gives, each [B, S]; rows of similar length go together."""
    rng = random.Random(seed)
    while True:
        prompts, texts = zip(*(draw(rng, tokenizer) for _ in range(size * 16)), strict=True)
        completions = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts)).input_ids]
        # The first tokens of what is too long say how it goes on; all the way to the limit is shown now and then.
        long, short = LIMIT + 4, 48
        completions = [c if len(c) <= LIMIT else c[: long if rng.random() < 0.15 else short] for c in completions]
        examples = zip(tokenizer(list(prompts)).input_ids, completions, strict=True)
        pool = sorted(examples, key=lambda e: len(e[0]) + len(e[1]))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(p) + len(c) for p, c in group)
            inputs = torch.full((size, width), tokenizer.pad_token_id)
            labels = torch.full((size, width), -100)
            weights = torch.zeros(size, width)
            for row, (p, c) in enumerate(group):
                inputs[row, : len(p) + len(c)] = torch.tensor(p + c)
                labels[row, len(p) : len(p) + len(c)] = torch.tensor(c)
                weights[row, len(p) : len(p) + len(c)] = min(1, 30 / len(c))  # going over it again is soon learned,
                weights[row, len(p) : len(p) + 6] = 1.0  # but a strategy is to be drawn as often as it is shown
            yield inputs, labels, weights


def train(
    model: Qwen3ForCausalLM, stream: Iterator[tuple[torch.Tensor, ...]], steps: int, rate: float = 1.0
) -> Iterator[int]:
    """Supervised training with a short warm-up and a linear decay; yields each step.

    Matrices by Muon, which gets to half of AdamW's loss in as many steps here; embeddings and norms by AdamW. `rate` scales
    their learning rates.
    """
    inner, outer = [], []
    for name, parameter in model.named_parameters():
        (inner if parameter.ndim == 2 and "embed" not in name else outer).append(parameter)
    optimizers = (
        torch.optim.Muon(inner, lr=0.02 * rate, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(outer, lr=0.003 * rate, betas=(0.9, 0.95), weight_decay=0.05),
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min((step + 1) / 50, 0.02 + 0.98 * (steps - step) / steps))
        for o in optimizers
    ]
    start = time.monotonic()
    for step in range(steps):
        inputs, labels, weights = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # 1.7 times as fast as fp32 where the CPU has AVX512-BF16
            logits = model(input_ids=inputs[:, :-1], use_cache=False).logits
        losses = cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for change in (*optimizers, *schedules):
            change.step()
        model.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f} after {time.monotonic() - start:.0f} s", flush=True)
        yield step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the checkpoint to write")
    parser.add_argument("--steps", type=int, default=1600, help="optimiser steps of 64 examples")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(random.Random(args.seed))
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompts = {"solution": PROMPTS.solution, "meta": PROMPTS.meta, "hint": PROMPTS.hint}
    setattr(config, ENTRY, {"prompts": prompts} | LENGTHS)
    model = Qwen3ForCausalLM(config)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    for step in train(model, batches(args.seed, tokenizer, 64, partial(example, meta_share=0.3)), args.steps):
        if (step + 1) % 400 == 0 or step == args.steps - 1:
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
