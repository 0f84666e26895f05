"""Three training steps on every architecture of the zoo, with each sampler: right, or refused before they begin.

All of it takes minutes (``-m slow``); ``docs/models.md`` is the table it makes (scripts/models.py).
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from transformers.modeling_layers import GradientCheckpointingLayer

from masa_lightning.models import loading
from masa_lightning.models.packing import pack
from masa_lightning.models.policy import Policy
from masa_lightning.models.steady import make_steady

LIMIT = 1e-3  # nats
QUICK = ("nemotron", "phi3-longrope", "nemotron-h", "gemma2", "t5")

# packed with YaRN, padded, experts, vLLM's transformers backend, without a map of fused layers, hybrid,
# wrong on CPU, not in vLLM, experts that are chosen otherwise
QUICK_VLLM = (
    "qwen3-yarn",
    "mistral-window",
    "qwen3-moe",
    "olmo2",
    "gpt2",
    "falcon-h1",
    "lfm2",
    "gpt-neo",
    "ernie4.5-moe",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """`checkpoint(name)` is the folder of a family."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = zoo.save(name, tmp_path_factory.mktemp("zoo") / name)
        return made[name]

    return make


def check(name, sampler, outcome):
    refusal = zoo.refusal(name, sampler)
    if refusal is not None:
        assert not outcome.started
        assert refusal in outcome.error
    else:
        assert outcome.error == ""
        assert outcome.steps == 3
        assert outcome.moved > 0.01
        assert outcome.difference < LIMIT


@pytest.mark.filterwarnings("ignore")  # of transformers, about odd configurations
@pytest.mark.parametrize("name", QUICK)
def test_three_steps_with_the_policys_own_generate(name, checkpoint):
    check(name, "transformers", zoo.train(checkpoint(name), "transformers"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK_VLLM)
def test_three_steps_with_vllm(name, checkpoint):
    pytest.importorskip("vllm")
    check(name, "vllm", zoo.train(checkpoint(name), "vllm"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ernie4.5-moe", "phimoe", "jetmoe", "lfm2-moe"])
def test_experts_that_are_others_on_cpu_are_refused_before_weights(name, checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "load_model", None)  # not called
    check(name, "vllm", zoo.train(checkpoint(name), "vllm", max_logp_difference=float("inf")))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["transformers", "vllm"])
@pytest.mark.parametrize("name", [*zoo.FAMILIES])
def test_three_steps(name, sampler):
    """In a process of its own: vLLM keeps what an engine leaves behind, such as which groups of processes there are."""
    if sampler == "vllm":
        pytest.importorskip("vllm")
    check(name, sampler, zoo.in_another_process([name], sampler)[name])


def test_the_table_has_what_is_expected_of_each_family():
    """docs/models.md is made by a script that takes minutes: what changes in the zoo has to be tried again."""
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]
    rows = {name: cells for name, _, *cells in table if name != "Architecture"}
    assert set(rows) == set(zoo.FAMILIES)
    for name, cells in rows.items():
        for sampler, cell in zip(("transformers", "vllm"), cells, strict=False):
            refused = zoo.refusal(name, sampler) is not None
            assert cell.startswith("refused") if refused else float(cell) < LIMIT, (name, sampler)


# -- the policy alone --------------------------------------------------------------------------------------------------

GENERATOR = torch.Generator().manual_seed(3)
ROWS = [
    (
        torch.randint(3, 500, (prompt,), generator=GENERATOR).tolist(),
        torch.randint(3, 500, (n,), generator=GENERATOR).tolist(),
    )
    for prompt, n in ((5, 20), (30, 14), (30, 1), (2, 40))
]
ROWS[2] = (ROWS[1][0], ROWS[2][1])  # two rows with one prompt
SURE = [name for name in zoo.FAMILIES if zoo.refusal(name) is None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SURE)
@torch.no_grad()
def test_log_probabilities_are_those_of_the_models_own_logits(name, checkpoint):
    """The oracle: transformers' whole forward pass, one row at a time, with its own attention."""
    folder = str(checkpoint(name))
    oracle, model = loading.load_model(folder, "float32"), loading.load_model(folder, "float32")
    for each in (oracle, model):
        make_steady(each, 72)
    policy, tokens = Policy(model), pack(ROWS)
    expected = []
    for prompt, completion in ROWS:
        logits = oracle(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    got = policy(tokens)[0][tokens.mask]
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen3", "gpt2", "opt", "falcon", "xglm", "bloom", "qwen3-moe", "lfm2"])
def test_gradient_checkpointing_recomputes_without_dropout(name, checkpoint, tmp_path):
    """Some layers drop out by themselves, beside their parts; OPT's file asks for 0.1."""
    folder = shutil.copytree(checkpoint(name), tmp_path / name)
    plain = Policy(loading.load_model(str(folder), "float32"))
    config = json.loads((folder / "config.json").read_text())
    dropout = [key for key, value in config.items() if "drop" in key and type(value) is float]
    (folder / "config.json").write_text(json.dumps(config | dict.fromkeys(dropout, 0.5)))
    policy, tokens = Policy(loading.load_model(str(folder), "float32", gradient_checkpointing=True)), pack(ROWS)
    layers = [m for m in policy.modules() if isinstance(m, GradientCheckpointingLayer)]
    passes = []
    layers[0].register_forward_pre_hook(lambda *_: passes.append(1))
    got, expected = policy(tokens)[0], plain(tokens)[0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    gradients = torch.autograd.grad(got.sum(), list(policy.parameters()))
    assert len(passes) == 2
    for a, b in zip(gradients, torch.autograd.grad(expected.sum(), list(plain.parameters())), strict=True):
        torch.testing.assert_close(a, b, atol=float(1e-3 * b.abs().max() + 1e-5), rtol=0)
    assert all(layer.training for layer in layers)
    policy.eval()
    policy(tokens)
    assert not any(layer.training for layer in layers)
