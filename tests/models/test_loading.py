import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import GenerationConfig, PretrainedConfig

from masa_lightning.models import loading, tiny

TEMPLATE = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """A machine without network: the hub's client would try again for half a minute."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def copy_without(source, target, *left_out):
    target.mkdir()
    for file in source.iterdir():
        if file.name not in left_out:
            (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["no-such-organisation/no-such-model", "/no/such/folder", "./no such folder", "a/b/c"])
@pytest.mark.parametrize("load", [loading.load_config, lambda name: loading.load_model(name, "float32")])
def test_a_model_that_does_not_exist(name, load):
    with pytest.raises(FileNotFoundError, match="was not found: it is neither a folder on this machine nor a hub") as e:
        load(name)
    message = str(e.value)
    assert repr(name) in message
    assert "Give the path of a Hugging Face checkpoint" in message
    assert "'tiny'" in message
    assert "\n" not in message


def test_a_folder_without_a_configuration(tmp_path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json.*masa export") as e:
        loading.load_config(str(tmp_path))
    assert repr(str(tmp_path)) in str(e.value)


def test_the_embedded_model_by_its_name(monkeypatch, tiny_checkpoint):
    assert Path(loading.model_path("tiny")) == tiny.PATH
    assert loading.model_path("./tiny") == "./tiny"
    monkeypatch.setattr(tiny, "PATH", tiny_checkpoint)
    assert loading.load_config("tiny").hidden_size == 32
    assert loading.load_tokenizer("tiny").eos_token == "<eos>"
    assert loading.load_model("tiny", "float32").config.hidden_size == 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(tiny_checkpoint, dtype):
    model = loading.load_model(str(tiny_checkpoint), dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_recomputes_without_dropout(tiny_checkpoint, tmp_path, checkpointing):
    folder = copy_without(tiny_checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    model = loading.load_model(str(folder), "float32", gradient_checkpointing=checkpointing)
    passes = []
    model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: passes.append(1))
    ids = torch.arange(5, 25)[None]
    first, second = (model(ids, use_cache=False).logits for _ in range(2))
    assert torch.equal(first, second)
    assert len(passes) == 2
    second.sum().backward()
    assert len(passes) == (3 if checkpointing else 2)


def test_no_chat_template(tiny_checkpoint, tmp_path):
    folder = copy_without(tiny_checkpoint, tmp_path / "model", "chat_template.jinja")
    with pytest.raises(ValueError, match="has no chat template") as e:
        loading.load_tokenizer(str(folder))
    assert repr(str(folder)) in str(e.value)
    assert "model.init_args.chat_template" in str(e.value)
    assert loading.load_tokenizer(str(folder), TEMPLATE).apply_chat_template(CHAT, tokenize=False) == "[hi]"


def test_chat_template_as_text_and_as_file(tiny_checkpoint, tmp_path):
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    name = str(tiny_checkpoint)
    assert loading.load_tokenizer(name).apply_chat_template(CHAT, tokenize=False) == "<user>hi"
    for template in (TEMPLATE, str(tmp_path / "template.jinja")):
        assert loading.load_tokenizer(name, template).apply_chat_template(CHAT, tokenize=False) == "[hi]"
    with pytest.raises(FileNotFoundError, match=r"chat_template 'missing\.jinja' is neither Jinja text nor a file"):
        loading.load_tokenizer(name, "missing.jinja")


@pytest.mark.parametrize(
    ("generation", "tokenizer", "expected"),
    [(None, "<eos>", [1]), (1, "<eos>", [1]), (7, "<eos>", [1, 7]), ([9, 1, 0], "<eos>", [0, 1, 9]), ([9], None, [9])],
)
def test_stop_tokens_are_those_of_model_and_tokenizer(tiny_checkpoint, generation, tokenizer, expected):
    model, tok = loading.load_model(str(tiny_checkpoint), "float32"), loading.load_tokenizer(str(tiny_checkpoint))
    model.generation_config = GenerationConfig(eos_token_id=generation)
    tok.eos_token = tokenizer
    assert loading.stop_token_ids(model, tok) == expected


def test_no_stop_token_at_all(tiny_checkpoint):
    model, tok = loading.load_model(str(tiny_checkpoint), "float32"), loading.load_tokenizer(str(tiny_checkpoint))
    model.generation_config, tok.eos_token = None, None
    with pytest.raises(ValueError, match="has no end-of-sequence token, neither in its tokenizer nor"):
        loading.stop_token_ids(model, tok)


def test_context_length(tiny_checkpoint):
    config = loading.load_config(str(tiny_checkpoint))
    assert loading.context_length(config) == 256
    assert loading.context_length(PretrainedConfig()) is None
