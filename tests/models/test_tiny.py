"""The embedded model as it is shipped."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from masa_lightning.data.arithmetic import arithmetic_problems
from masa_lightning.functional.grading import grade
from masa_lightning.functional.parsing import parse_meta_prediction
from masa_lightning.functional.prompts import meta_messages, solution_messages
from masa_lightning.models import loading, tiny
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest


def test_it_is_small_and_an_ordinary_checkpoint() -> None:
    assert sum(f.stat().st_size for f in tiny.PATH.iterdir()) < 8_000_000
    model = AutoModelForCausalLM.from_pretrained(tiny.PATH)
    assert isinstance(model, Qwen3ForCausalLM)
    assert 1_000_000 < model.num_parameters() < 5_000_000
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_tokenizer_round_trip() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.PATH)
    for text in ('<meta>gcd, 2 numbers.</meta>{"pass_rate": 7}', "so \\boxed{-12}", "Ünïcode → 数学\n\t  x"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_it_solves_some_problems_and_predicts_in_the_right_form() -> None:
    model = loading.load_model("tiny", "float32")
    tokenizer = loading.load_tokenizer("tiny")
    sampler = TransformersSampler()
    stops = loading.stop_token_ids(model, tokenizer)
    sampler.setup(model, loading.model_path("tiny"), max_model_length=192, stop_token_ids=stops)
    problems = arithmetic_problems("validation", 64, seed=0)

    def answers(kind: str) -> list[str]:
        requests = []
        for seed, problem in enumerate(problems):
            messages = (
                solution_messages(tiny.PROMPTS, problem.problem)
                if kind == "solution"
                else meta_messages(tiny.PROMPTS, problem.problem, pass_rate_scale=8, max_completion_length=128)
            )
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            requests.append(SamplingRequest(prompt_ids=ids, max_tokens=128, seed=seed))
        completions = sampler.generate(requests, SamplingSettings())
        return tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)

    right = sum(grade(text, p.answer) for text, p in zip(answers("solution"), problems, strict=True))
    assert 0.15 < right / 64 < 0.85
    parsed = [parse_meta_prediction(text) for text in answers("meta")]
    assert sum(not p.failures for p in parsed) / 64 > 0.85
    assert len({p.pass_rate for p in parsed}) > 3
