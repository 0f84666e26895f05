import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2VLConfig,
    Qwen3Config,
    T5Config,
)

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
    assert "model.chat_template" in str(e.value)
    assert loading.load_tokenizer(str(folder), TEMPLATE).apply_chat_template(CHAT, tokenize=False) == "[hi]"


def test_no_tokenizer(tiny_checkpoint, tmp_path):
    """Transformers makes an empty one of the model's kind."""
    folder = copy_without(tiny_checkpoint, tmp_path / "model", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(ValueError, match=r"has no tokenizer: no tokens but special ones; expected tokenizer\.json"):
        loading.load_tokenizer(str(folder), TEMPLATE)


def test_chat_template_as_text_and_as_file(tiny_checkpoint, tmp_path):
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    name = str(tiny_checkpoint)
    assert loading.load_tokenizer(name).apply_chat_template(CHAT, tokenize=False) == "<user>hi"
    for template in (TEMPLATE, str(tmp_path / "template.jinja")):
        assert loading.load_tokenizer(name, template).apply_chat_template(CHAT, tokenize=False) == "[hi]"
    with pytest.raises(FileNotFoundError, match=r"chat_template 'missing\.jinja' is neither Jinja text nor a file"):
        loading.load_tokenizer(name, "missing.jinja")


NO_MARKS = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("generation", "tokenizer", "expected"),
    [(None, "<eos>", [1]), (1, "<eos>", [1]), (7, "<eos>", [1, 7]), ([9, 1, 0], "<eos>", [0, 1, 9]), ([9], None, [9])],
)
def test_stop_tokens_are_those_of_model_and_tokenizer(tiny_checkpoint, generation, tokenizer, expected):
    model, tok = loading.load_model(str(tiny_checkpoint), "float32"), loading.load_tokenizer(str(tiny_checkpoint))
    model.generation_config = GenerationConfig(eos_token_id=generation)
    tok.eos_token, tok.chat_template = tokenizer, NO_MARKS
    assert loading.stop_token_ids(model, tok) == expected


def test_no_stop_token_at_all(tiny_checkpoint):
    model, tok = loading.load_model(str(tiny_checkpoint), "float32"), loading.load_tokenizer(str(tiny_checkpoint))
    model.generation_config, tok.eos_token, tok.chat_template = None, None, NO_MARKS
    with pytest.raises(ValueError, match="has no end-of-sequence token, neither in its tokenizer nor"):
        loading.stop_token_ids(model, tok)


def test_context_length(tiny_checkpoint):
    config = loading.load_config(str(tiny_checkpoint))
    assert loading.context_length(config) == 256
    assert loading.context_length(PretrainedConfig()) is None


ORIGINAL = "original_max_position_embeddings"


@pytest.mark.parametrize(
    ("config", "length"),
    [
        # Qwen's model cards: 40,960 positions in the file, YaRN with factor 4 over 32,768
        (
            Qwen3Config(max_position_embeddings=64, rope_parameters={"rope_type": "yarn", "factor": 4.0, ORIGINAL: 64}),
            256,
        ),
        (
            Qwen3Config(max_position_embeddings=80, rope_parameters={"rope_type": "yarn", "factor": 4.0, ORIGINAL: 64}),
            256,
        ),
        (Qwen3Config(max_position_embeddings=64, rope_parameters={"rope_type": "yarn", "factor": 4.0}), 256),
        (Qwen3Config(max_position_embeddings=64, rope_scaling={"type": "yarn", "factor": 4.0, ORIGINAL: 64}), 256),
        # gpt-oss, DeepSeek: the file says the lengthened one
        (
            LlamaConfig(
                max_position_embeddings=256, rope_parameters={"rope_type": "yarn", "factor": 4.0, ORIGINAL: 64}
            ),
            256,
        ),
        (LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "linear", "factor": 2.0}), 128),
        (LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0}), 64),
        (LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "default"}), 64),
        # Llama 3.2: its factor of 32 says nothing of the length
        (
            LlamaConfig(
                max_position_embeddings=128,
                rope_parameters={"rope_type": "llama3", "factor": 32.0, ORIGINAL: 8}
                | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
            ),
            128,
        ),
        (
            Gemma3TextConfig(
                max_position_embeddings=64,
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            ),
            64,
        ),
        (GPT2Config(n_positions=96), 96),
    ],
)
def test_context_length_with_scaled_positions(config, length):
    assert loading.context_length(config) == length


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (T5Config(), "an encoder and a decoder"),
        (BartConfig(), "an encoder and a decoder"),
        (BertConfig(), "tokens that see those behind them"),
        (Qwen2VLConfig(), "no causal language model"),
    ],
)
def test_models_that_are_not_causal(tmp_path, config, found):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"type '{config.model_type}', which has {found}.*expected a causal"):
        loading.load_config(str(tmp_path))


def test_a_checkpoint_without_an_output_layer(tmp_path):
    config = Qwen3Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=71,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 1 of the weights of Qwen3ForCausalLM \(lm_head.weight\), .* random"):
        loading.load_model(str(tmp_path), "float32")


class TestVocabulary:
    """The tokenizer has 101 tokens."""

    @pytest.fixture
    def tokenizer(self, tiny_checkpoint):
        return loading.load_tokenizer(str(tiny_checkpoint))

    @pytest.mark.parametrize("rows", [101, 128, float("inf")])
    def test_an_embedding_may_be_larger(self, tokenizer, rows):
        loading.check_vocabulary("m", rows, tokenizer)

    @pytest.mark.parametrize(
        "add",
        [
            lambda t: t.add_tokens(["<think>"]),
            lambda t: t.add_special_tokens({"pad_token": "[PAD]"}),
            lambda t: t.add_special_tokens({"eos_token": "[END]"}),
        ],
    )
    def test_added_tokens_without_rows(self, tokenizer, add):
        add(tokenizer)
        with pytest.raises(ValueError, match=r"gives 1 tokens .* 101 rows .* is 101\); .*resize_token_embeddings"):
            loading.check_vocabulary("m", 101, tokenizer)

    def test_special_tokens_that_no_prompt_has(self, tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
        loading.check_vocabulary("m", 101, tokenizer)
        loading.check_prompt("m", 101, tokenizer, tokenizer("abc").input_ids)
        with pytest.raises(ValueError, match=r"'<image>' is 101"):
            loading.check_prompt("m", 101, tokenizer, tokenizer("a<image>").input_ids)
