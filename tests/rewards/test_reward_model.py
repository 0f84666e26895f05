"""A learned reward against the classifier itself, a completion at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from masa_lightning import GRPOLightningModule, RewardModel
from masa_lightning.models import tiny
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup

TEMPLATE = "{% for m in messages %}{{ m.role[:1] }}{{ m.content }}{{ eos_token }}{% endfor %}"
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def saved(folder, template=TEMPLATE, labels=1, kind="decoder"):
    """A classifier with random weights, whose padding is its end of sequence as in many decoders."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.PATH)
    tokenizer.chat_template, tokenizer.pad_token = template, tokenizer.eos_token
    torch.manual_seed(1)
    common = {**SIZES, "vocab_size": len(tokenizer), "num_labels": labels, "initializer_range": 0.5}
    if kind == "decoder":
        model = Qwen3ForSequenceClassification(Qwen3Config(**common, num_key_value_heads=1, head_dim=8))
    else:
        model = BertForSequenceClassification(BertConfig(**common))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


PROBLEMS = [Problem(id=str(i), problem=f"Compute {i}+{i * i}.", answer="0") for i in range(7)]
COMPLETIONS = ["", "1", "2+2=4", "so 3 and then 4. " * 3, "5", "6. " * 9, "the answer is 7"]


def ask(reward, problems=PROBLEMS, completions=COMPLETIONS):
    told = []
    rewards = reward(problems, completions, torch.device("cpu"), lambda name, value: told.append((name, value)))
    assert {name for name, _ in told} == {"too_long_ratio"}
    return rewards, [value for _, value in told]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_equals_the_model_on_one_completion_at_a_time(tmp_path, batch_size, kind):
    model, tokenizer = saved(tmp_path, kind=kind)
    model.config.pad_token_id = None
    expected = []
    for problem, completion in zip(PROBLEMS, COMPLETIONS, strict=True):
        text = f"u{problem.problem}{tokenizer.eos_token}a{completion}{tokenizer.eos_token}"
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected.append(model(ids).logits.item())
    rewards, too_long = ask(RewardModel(str(tmp_path), batch_size=batch_size, dtype="float32"))
    assert rewards == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1
    assert not any(too_long)


def test_without_a_template_it_reads_the_two_as_a_pair(tmp_path):
    model, tokenizer = saved(tmp_path, template=None)
    model.config.pad_token_id = None
    with torch.no_grad():
        expected = model(torch.tensor([tokenizer("Compute 1+1.", "2")["input_ids"]])).logits.item()
    problem = Problem(id="", problem="Compute 1+1.", answer="2")
    assert ask(RewardModel(str(tmp_path), dtype="float32"), [problem], ["2"])[0] == pytest.approx([expected], abs=1e-5)


def test_of_what_is_too_long_it_reads_the_end(tmp_path):
    _, tokenizer = saved(tmp_path)
    end = tokenizer.eos_token
    reward = RewardModel(str(tmp_path), max_length=12, dtype="float32")
    _, too_long = ask(reward)
    assert too_long == [
        len(tokenizer(f"u{p.problem}{end}a{c}{end}", add_special_tokens=False)["input_ids"]) > 12
        for p, c in zip(PROBLEMS, COMPLETIONS, strict=True)
    ]
    assert {True, False} == {*too_long}
    ends = ["8 9. " * 20, "7 9. " * 20]
    first, second = ask(reward, PROBLEMS[:2], [ends[0], ends[0]])[0]
    assert first == second  # the problems are cut off
    assert ask(reward, PROBLEMS[:1], ends[1:])[0] != [first]


def test_copies_load_it_anew(tmp_path):
    saved(tmp_path)
    reward = RewardModel(str(tmp_path))
    rewards = ask(reward)[0]
    assert reward._loaded is not None
    copied = copy.deepcopy(reward)
    assert copied._loaded is None
    assert ask(copied)[0] == rewards


def test_bad_settings_are_answered_when_it_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="the reward model '/none' was not found"):
        RewardModel("/none")
    with pytest.raises(FileNotFoundError, match=r"a folder without a config\.json"):
        RewardModel(str(tmp_path))
    saved(tmp_path, labels=2)
    with pytest.raises(ValueError, match="has 2 outputs; expected one"):
        RewardModel(str(tmp_path))
    for bad, message in (
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"dtype": "int8"}, "dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            RewardModel(str(tmp_path), **bad)


def test_a_module_takes_it(tmp_path):
    saved(tmp_path)
    reward = RewardModel(str(tmp_path), name="taste")
    module = GRPOLightningModule("tiny", reward_functions=[reward])
    group = RolloutGroup(problem=PROBLEMS[0], solutions=[solution("5"), solution("so 5")])
    module.scorer.score([group], lambda phase, total: lambda done, of: None)
    expected, _ = ask(reward, PROBLEMS[:1] * 2, ["5", "so 5"])
    assert [rollout.rewards["taste"] for rollout in group.solutions] == pytest.approx(expected)


def solution(text):
    drawn = {"token_ids": [2], "logprobs": [0.0], "finish_reason": "stop"}
    return Rollout(kind="solution", prompt_ids=[1], completion=Completion(**drawn), text=text)
