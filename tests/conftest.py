"""A tiny random Qwen3 with a tokenizer of single characters and a chat template, as a Hugging Face folder."""

import os
import string
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from training_loop import loop as loop
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")
torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other


@pytest.fixture(autouse=True)
def launcher_variables() -> Iterator[None]:
    """Takes back what a strategy's launcher sets: a command started later would take itself for one of several processes."""
    names = ("LOCAL_RANK", "NODE_RANK")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def installed_vllm() -> str | None:
    """Where it runs, "cpu" or "cuda"; an empty string where it finds no such device, None where there is none."""
    if find_spec("vllm") is None:
        return None
    from masa_lightning.sampling.vllm.patches import platform

    return platform()


@pytest.fixture(scope="session")
def engine_device() -> str:
    """Where the installed vLLM runs; skips where there is none, or it finds no device."""
    device = installed_vllm()
    if not device:
        pytest.skip("vLLM is not installed" if device is None else "the installed vLLM finds no device that it runs on")
    return device


_REFUSED = "the policy is on cpu, but the installed vLLM"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Skips what needs an engine on the CPU where vLLM is built for CUDA: it is refused there, with these words.

    They are looked for in what the test printed too: many start a command of their own. Tests of a GPU are to have their
    policy there, and fail.
    """
    report = yield
    if report.failed and item.get_closest_marker("gpu") is None and installed_vllm() != "cpu":
        said = "\n".join([report.longreprtext, *(text for _, text in report.sections)])
        if _REFUSED in " ".join(said.split()):
            path, line, _ = item.location
            report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, "needs a vLLM that is built for CPU")
    return report


SPECIAL = ("<pad>", "<eos>", "<unk>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tiny_checkpoint(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, context: int = 256) -> Path:
    """Saves a model of 104 tokens: one for each printable ASCII character, the line break and five special ones."""
    tokens = [*SPECIAL, "\n", *string.printable[:95]]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen3Config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            vocab_size=104,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=0.15,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Context 256 tokens, end of sequence 1; do not write into it."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny_checkpoint"))
