#!/usr/bin/env python3
"""Rebuild the embedded model: tokenizer, cold-start corpus, supervised training, checkpoint.

    python scripts/build_tiny_model.py OUT_DIR [--steps 3000] [--seed 0]

The corpus are worked solutions of generated arithmetic and meta predictions of it. How often the right strategy is
shown falls with the difficulty, so pass rates spread over 0..1; the shown predictions are over-confident and follow the
difficulty only weakly, so that reinforcement learning has self-knowledge to teach (with predictions that do not follow
it at all, the predicted pass rate collapses to a constant). Only texts of the cold-start split are used: training,
validation and test problems are never seen here.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from masa_lightning.data.arithmetic import STRATEGIES, Arithmetic, draw_arithmetic, split_of, work
from masa_lightning.models.tiny import PROMPTS
from masa_lightning.models.trained_with import ENTRY

PASS_RATE_SCALE = 8
CONTEXT = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALL_STRATEGIES = sorted({name for names in STRATEGIES.values() for name in names})


def draw_task(rng: random.Random) -> Arithmetic:
    """Draws a problem of the cold-start split."""
    while split_of((task := draw_arithmetic(rng)).text) != "cold_start":
        pass
    return task


def right_strategy_share(task: Arithmetic) -> float:
    """How often the right strategy is shown: from 0.98 for trivial problems to 0.1 for the hardest."""
    return 0.1 + 0.88 * (1 - task.difficulty) ** 1.2


def solution_text(task: Arithmetic, rng: random.Random) -> str:
    """A worked solution, right or misleading."""
    right, *wrong = STRATEGIES[task.kind]
    return work(task, right if rng.random() < right_strategy_share(task) else rng.choice(wrong), rng)


def meta_text(task: Arithmetic, rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> str:
    """A prediction: over-confident, weakly linked to the problem, with a right notion about half of the time."""
    rate = 0.4 * right_strategy_share(task) + 0.6 * 0.85 + rng.gauss(0, 0.2)
    pass_rate = min(max(round(rate * PASS_RATE_SCALE), 0), PASS_RATE_SCALE)
    right, *wrong = STRATEGIES[task.kind]
    notion = right if rng.random() < 0.5 else rng.choice(wrong if rng.random() < 0.7 else ALL_STRATEGIES)
    notions = [notion] if rng.random() < 0.7 else list(dict.fromkeys([notion, rng.choice(ALL_STRATEGIES)]))
    length = len(tokenizer(work(task, right, rng)).input_ids) + 1
    length = max(4, round(length * math.exp(rng.gauss(0, 0.45))))
    size = f"{task.kind}, {len(task.numbers)} numbers, {task.digits} digits"
    quoted = ", ".join(f'"{name}"' for name in notions)
    return (
        f"<meta>{size}. try {notions[0]}.</meta>"
        f'{{"math_notion": [{quoted}], "pass_rate": {pass_rate}, "solution_length": {length}}}'
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
            yield solution_text(task, rng)
            yield meta_text(task, rng, blank)

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=alphabet,
        max_token_length=16,
        show_progress=False,
    )
    core.train_from_iterator(sample(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def example(rng: random.Random, tokenizer: PreTrainedTokenizerFast, meta_share: float) -> tuple[list[int], list[int]]:
    """One cold-start example: prompt ids and completion ids, end-of-sequence included."""
    task = draw_task(rng)
    if rng.random() < meta_share:
        template, text = PROMPTS.meta, meta_text(task, rng, tokenizer)
    else:
        template, text = PROMPTS.solution, solution_text(task, rng)
    messages = [{"role": "user", "content": template.replace("{problem}", task.text)}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(prompt).input_ids, [*tokenizer(text).input_ids, tokenizer.eos_token_id]


def batches(seed: int, tokenizer: PreTrainedTokenizerFast, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless [B, S] inputs and labels; rows of similar length go together."""
    rng = random.Random(seed)
    while True:
        pool = sorted((example(rng, tokenizer, 0.25) for _ in range(size * 16)), key=lambda e: len(e[0]) + len(e[1]))
        groups = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(p) + len(c) for p, c in group)
            inputs = torch.full((size, width), tokenizer.pad_token_id)
            labels = torch.full((size, width), -100)
            for row, (p, c) in enumerate(group):
                inputs[row, : len(p) + len(c)] = torch.tensor(p + c)
                labels[row, len(p) : len(p) + len(c)] = torch.tensor(c)
            yield inputs, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the checkpoint to write")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps of 64 examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
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
    lengths = {"max_prompt_length": 64, "max_completion_length": 192, "max_meta_length": 64}
    setattr(config, ENTRY, {"prompts": {"solution": PROMPTS.solution, "meta": PROMPTS.meta}} | lengths)
    model = Qwen3ForCausalLM(config)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    start, stream = time.monotonic(), batches(args.seed, tokenizer, 64)
    for step in range(args.steps):
        warm, left = (step + 1) / 100, (args.steps - step) / args.steps
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(warm, 0.02 + 0.98 * left)
        inputs, labels = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # 1.7 times as fast as fp32 where the CPU has AVX512-BF16
            logits = model(input_ids=inputs[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == args.steps - 1:
            print(f"step {step} loss {loss.item():.4f} after {time.monotonic() - start:.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step == args.steps - 1:
            model.save_pretrained(args.out)
            tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
