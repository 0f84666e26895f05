"""A model that brings Python code: it runs if the user says so for this very model, and because no file says so."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_loop import Loop
from transformers import AutoModelForCausalLM, dynamic_module_utils

from masa_lightning import LoRA, cli
from masa_lightning.checks import brings_code
from masa_lightning.cli.runs import with_run
from masa_lightning.export import export_checkpoint
from masa_lightning.models import loading, tiny
from masa_lightning.models.policy import Policy
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest

CODE = """
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

Path({mark!r}).mkdir(exist_ok=True)


class OwnConfig(Qwen3Config):
    model_type = "own"


class OwnModel(Qwen3Model):
    config_class = OwnConfig


class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if output.logits is not None:
            output.logits = output.logits * {scale}
        return output


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
REFUSED = "brings Python code of its own, which is not run unless you say so.*set trust_remote_code to true"


def bring_code(folder: Path, mark: Path, scale: float = 1.0) -> Path:
    """Writes the embedded model as one of an architecture of its own, whose code makes a folder when it runs."""
    shutil.copytree(tiny.PATH, folder, dirs_exist_ok=True)
    (folder / "own.py").write_text(CODE.format(mark=str(mark), scale=scale))
    names = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    changes: dict[str, dict[str, Any]] = {
        "config.json": {
            "model_type": "own",
            "architectures": ["OwnForCausalLM"],
            "auto_map": {auto: f"own.Own{name}" for auto, name in names.items()},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
        },
    }
    for name, settings in changes.items():
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A folder that the code makes."""
    return tmp_path / "ran"


@pytest.fixture
def model(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder whose code was not imported before, and is copied to no folder of the user's."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = str(bring_code(tmp_path / "own", mark))
    yield folder


@pytest.fixture
def checkpoint(loop: Loop, model: str, mark: Path, tmp_path: Path) -> Path:
    """Of a run in which the user trusted the code."""
    module = loop.module(model=model, sampler=TransformersSampler(), trust_remote_code=True)
    loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert brings_code(module.policy.model) and module.hparams["trust_remote_code"] is True
    mark.rmdir()
    forget()
    return tmp_path / "run.ckpt"


def forget() -> None:
    """As in a new process: the code is imported anew."""
    import sys

    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


LOADS: dict[str, Callable[..., Any]] = {
    "config": loading.load_config,
    "tokenizer": loading.load_tokenizer,
    "model": lambda name, **settings: loading.load_model(name, "float32", **settings),
    "empty model": lambda name, **settings: loading.load_model(name, "float32", empty=True, **settings),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_code_runs_where_it_is_trusted_alone(model: str, mark: Path, load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        load(model)
    assert not mark.exists()
    assert brings_code(load(model, trust_remote_code=True))
    assert mark.exists()


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_module_needs_the_setting(loop: Loop, model: str, mark: Path, kl_coef: float) -> None:
    from masa_lightning.settings import Algorithm

    settings: dict[str, Any] = {
        "model": model,
        "sampler": TransformersSampler(),
        "algorithm": Algorithm(kl_coef=kl_coef),
    }
    with pytest.raises(ValueError, match=REFUSED):
        loop.fit(loop.module(**settings), loop.Problems(2))
    assert not mark.exists()
    module = loop.module(**settings, trust_remote_code=True)
    assert len(loop.fit(module, loop.Problems(2)).metrics) == 1
    assert module.policy is not None and not module.policy.packs  # such code may do anything behind its first attention


def test_a_checkpoint_does_not_trust_for_its_reader(loop: Loop, checkpoint: Path, model: str, mark: Path) -> None:
    load = MASALightningModule.load_from_checkpoint
    with pytest.raises(ValueError, match=REFUSED):
        load(checkpoint)
    with pytest.raises(
        ValueError, match=r"the model is the one that the checkpoint names, '.*own': .* by name as well"
    ):
        load(checkpoint, trust_remote_code=True)
    assert not mark.exists()
    module = load(checkpoint, trust_remote_code=True, model=model)
    assert module.policy is not None and brings_code(module.policy.model)


def test_options_of_the_engine_are_not_taken_from_a_checkpoint(loop: Loop, tmp_path: Path) -> None:
    """They may name classes, which vLLM imports, and other models."""
    path = tmp_path / "evil.ckpt"
    loop.fit(loop.module(sampler=TransformersSampler()), loop.Problems(2)).trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    options = {"engine_kwargs": {"worker_cls": "antigravity.fly"}}
    saved["hyper_parameters"]["sampler"] = {"class_path": "masa_lightning.VLLMSampler", "init_args": options}
    torch.save(saved, path)
    with pytest.raises(ValueError, match=r"sampler: masa_lightning\.VLLMSampler \(with engine_kwargs,"):
        MASALightningModule.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=r"VLLMSampler \(with engine_kwargs, which may name code\)"):
        with_run(["predict", "--ckpt_path", str(path), "--problem", "1+1"])
    MASALightningModule.load_from_checkpoint(path, sampler=TransformersSampler())


def test_a_run_does_not_trust_for_its_reader(
    checkpoint: Path, model: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["masa"])
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "x"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, run / "checkpoints" / "last.ckpt")
    config = {"model": {"class_path": "masa_lightning.MASALightningModule", "init_args": {"trust_remote_code": True}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["predict", "--ckpt_path", str(run), "--problem", "1+1"]
    assert "trust_remote_code: true" not in str(with_run(words))
    with pytest.raises(ValueError, match=REFUSED):
        cli.main(words)
    for name in ("--model.trust_remote_code", "--model.init_args.trust_remote_code"):
        with pytest.raises(ValueError, match="the model is the one that the checkpoint names"):
            with_run([*words, name, "true"])
    assert not mark.exists()
    cli.main([*words, "--model.trust_remote_code", "true", "--model.model", model])
    assert mark.exists()


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["whole", "lora"])
def test_an_export_has_the_code_if_it_is_trusted(
    loop: Loop, model: str, mark: Path, tmp_path: Path, lora: LoRA | None, capsys: pytest.CaptureFixture[str]
) -> None:
    module = loop.module(model=model, sampler=TransformersSampler(), trust_remote_code=True, lora=lora)
    checkpoint = tmp_path / "run.ckpt"
    loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(checkpoint)
    mark.rmdir()
    forget()
    with pytest.raises(ValueError, match=REFUSED):
        export_checkpoint(checkpoint, tmp_path / "out")
    with pytest.raises(SystemExit):
        cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--trust-remote-code"])
    assert "the checkpoint would say whose code is run" in " ".join(capsys.readouterr().err.split())
    assert not mark.exists() and not (tmp_path / "out").exists()
    cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--trust-remote-code", "--model", model])
    assert (tmp_path / "out" / "own.py").read_text() == Path(model, "own.py").read_text()
    assert (
        "AutoModelForCausalLM.from_pretrained(MODEL, dtype='auto', trust_remote_code=True)"
        in (tmp_path / "out" / "README.md").read_text()
    )
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    ids = torch.arange(5, 25)[None]
    assert module.policy is not None
    torch.testing.assert_close(exported(ids).logits, module.policy.model(ids).logits, atol=1e-4, rtol=0)
    again = loop.module(model=str(tmp_path / "out"), sampler=TransformersSampler(), trust_remote_code=True)
    assert math.isfinite(loop.fit(again, loop.Problems(2)).metrics[0]["reward"])


def test_code_that_changes_logits_is_refused(model: str, mark: Path) -> None:
    bring_code(Path(model), mark, scale=2.0)
    with pytest.raises(
        ValueError, match=r"its logits differ from those of the output embedding by .*; expected logits"
    ):
        Policy(loading.load_model(model, "float32", trust_remote_code=True))


@pytest.mark.parametrize("stop", [(), ("a",)], ids=["tokens", "texts"])
@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_samplers_run_the_code_of_their_policy(model: str, kind: str, stop: tuple[str, ...]) -> None:
    policy = loading.load_model(model, "float32", trust_remote_code=True)
    sampler: Any = TransformersSampler()
    if kind == "vllm":
        pytest.importorskip("vllm")
        from masa_lightning import VLLMSampler

        sampler = VLLMSampler(kv_cache_gib=0.02, max_num_seqs=8)
    sampler.setup(policy, model, max_model_length=64, stop_token_ids=[1])
    requests = [SamplingRequest(prompt_ids=[10 + i, 11, 12], max_tokens=20, seed=i) for i in range(4)]
    for request, drawn in zip(requests, sampler.generate(requests, SamplingSettings(stop=stop)), strict=True):
        ids = torch.tensor([request.prompt_ids + drawn.token_ids])
        with torch.no_grad():
            logp = policy(ids).logits[0, 2:-1].log_softmax(-1)
        expected = logp.gather(1, torch.tensor(drawn.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(drawn.logprobs), expected, atol=1e-4, rtol=0)
