"""From checkpoints of all kinds to folders that transformers, peft and vLLM read."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from torch import Tensor
from torch.distributed.tensor import DTensor
from training_loop import Loop
from transformers import AutoModelForCausalLM, AutoTokenizer

from masa_lightning import GRPOLightningModule, LoRA, export
from masa_lightning.export import export_checkpoint
from masa_lightning.models import loading
from masa_lightning.models.lora import add_adapters

LORA = LoRA(rank=4)
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
IDS = torch.arange(40)[None]
KINDS = ["file", "file-lora", "shards", "shards-lora"]


def train(folder: Path, kind: str, **settings: Any) -> None:
    """Takes two steps, and writes a checkpoint and the weights."""
    loop, lora = Loop(Path("tiny")), LORA if "lora" in kind else None
    module = loop.scripted(
        loop.boxes(2, 3, 4), GRPOLightningModule, lora=lora, chat_template=TEMPLATE, learning_rate=1e-3
    )
    problems = loop.Problems([loop.problem(name) for name in "abcd"])
    recorder = loop.fit(module, problems, **settings)
    recorder.trainer.save_checkpoint(folder / f"{kind}.ckpt")
    weights = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.policy.model.named_parameters()}
    torch.save({name: p.detach() for name, p in weights.items()}, folder / f"{kind}-{recorder.trainer.global_rank}.pt")


def _work(rank: int, folder: Path) -> None:
    warnings.filterwarnings("ignore")
    for kind in KINDS[2:]:
        train(folder, kind, devices=2, strategy=two_processes.strategy("fsdp2"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS[:2]:
        train(folder, kind)
    two_processes.run(_work, folder)
    return folder


@torch.no_grad()
def logits(model: Any) -> Tensor:
    values: Tensor = model.eval()(IDS).logits
    return values


def trained(runs: Path, kind: str) -> Tensor:
    """Logits of the policy at the end of training."""
    model = loading.load_model("tiny", "float32")
    before = logits(model)
    if "lora" in kind:
        add_adapters(model, LORA, 0)
    assert {*model.load_state_dict(torch.load(runs / f"{kind}-0.pt"), strict=False).missing_keys} == {"lm_head.weight"}
    assert (logits(model) - before).abs().max() > 1e-2
    return logits(model)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=3e-6 * right.abs().max().item(), rtol=0)  # float32 rounding


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_folder_is_the_trained_policy(runs: Path, tmp_path: Path, kind: str) -> None:
    checkpoint = runs / f"{kind}.ckpt"
    assert checkpoint.is_dir() is ("shards" in kind)
    export_checkpoint(checkpoint, tmp_path)
    exported, expected = AutoModelForCausalLM.from_pretrained(tmp_path), trained(runs, kind)
    if "lora" in kind:
        close(logits(exported), expected)  # one sum of products in place of two
    else:
        assert torch.equal(logits(exported), expected)
    base = loading.load_model("tiny", "float32")
    assert exported.config.to_diff_dict() == base.config.to_diff_dict()
    assert exported.generation_config.to_diff_dict() == base.generation_config.to_diff_dict()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


@pytest.mark.parametrize("kind", KINDS[::3])
def test_vllm_reads_the_exported_folder(runs: Path, tmp_path: Path, kind: str) -> None:
    vllm = pytest.importorskip("vllm")
    from masa_lightning.sampling._isolation import apart_from_training, environment
    from masa_lightning.sampling.vllm import VLLMSampler

    export_checkpoint(runs / f"{kind}.ckpt", tmp_path)
    settings = VLLMSampler()._environment(torch.device("cpu"))
    with apart_from_training(), environment(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llm = vllm.LLM(
            str(tmp_path), dtype="float32", max_model_len=64, kv_cache_memory_bytes=2**24, enforce_eager=True
        )
        asked = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
        (output,) = llm.generate(vllm.TokensPrompt(prompt_token_ids=IDS[0].tolist()), asked, use_tqdm=False)
    got = torch.tensor(
        [place[token].logprob for place, token in zip(output.prompt_logprobs[1:], range(1, 40), strict=True)]
    )
    expected = trained(runs, kind)[0, :-1].log_softmax(-1).gather(1, IDS[0, 1:, None])[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS[1::2])
def test_adapters_alone(runs: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    monkeypatch.setattr(sys, "argv", ["export", str(runs / f"{kind}.ckpt"), str(tmp_path), "--adapter"])
    export.main()
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 800_000
    expected = trained(runs, kind)
    assert torch.equal(logits(PeftModel.from_pretrained(loading.load_model("tiny", "float32"), tmp_path)), expected)
    model = loading.load_model("tiny", "float32")
    model.load_adapter(str(tmp_path))
    assert torch.equal(logits(model), expected)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


def test_weights_under_the_adapters_may_lie_elsewhere(runs: Path, tmp_path: Path) -> None:
    base = loading.load_model("tiny", "float32")
    with torch.no_grad():
        base.model.norm.weight *= 2
    base.save_pretrained(tmp_path / "base")
    loading.load_tokenizer("tiny").save_pretrained(tmp_path / "base")
    export_checkpoint(runs / "file-lora.ckpt", tmp_path / "out", model=str(tmp_path / "base"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert exported.model.norm.weight.equal(base.model.norm.weight)
    close(logits(exported) / 2, trained(runs, "file-lora"))


@pytest.mark.parametrize("kind", ["file", "shards"])
def test_another_model_is_refused(runs: Path, tmp_path: Path, tiny_checkpoint: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=r"weights of checkpoint .* do not fit the model: policy\.model\..* has shape"):
        export_checkpoint(runs / f"{kind}.ckpt", tmp_path, model=str(tiny_checkpoint))


def test_adapters_that_are_not_there_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained without LoRA; export it without `adapter`"):
        export_checkpoint(runs / "file.ckpt", tmp_path, adapter=True)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for name in "none.ckpt", "":
        with pytest.raises(FileNotFoundError, match=r"neither a file nor a folder with shards and meta\.pt"):
            export_checkpoint(tmp_path / name, tmp_path / "out")
    torch.save({"state_dict": {"layer": torch.ones(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds no policy"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "out")
