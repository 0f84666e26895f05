"""From checkpoints of all kinds to folders that transformers, peft and vLLM read."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from huggingface_hub import ModelCard
from torch import Tensor
from torch.distributed.tensor import DTensor
from training_loop import Loop
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import enable_progress_bar

from masa_lightning import LoRA, MASALightningModule, PromptTemplates, TransformersSampler, cli
from masa_lightning.export import export_checkpoint
from masa_lightning.models import loading, tiny
from masa_lightning.models.lora import add_adapters
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.settings import Evaluation

LORA = LoRA(rank=4)
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
IDS = torch.arange(40)[None]
KINDS = ["file", "file-lora", "shards", "shards-lora"]


def answer(kind: str, problem: str, index: int, call: int) -> str:
    """One solution of three is right, of problem f all are; predictions differ between problems."""
    if kind == "solution":
        return f"\\boxed{{{2 if problem == 'f' else 2 + index}}}"
    return json.dumps({"math_notion": ["sum"], "pass_rate": ord(problem) % 8, "solution_length": 5 + index})


def train(folder: Path, kind: str, **settings: Any) -> None:
    """Takes a step or two, and writes a checkpoint, the weights and what validation logged."""
    loop, lora = Loop(Path("tiny")), LORA if "lora" in kind else None
    module = loop.scripted(
        answer, lora=lora, chat_template=TEMPLATE, learning_rate=1e-3, evaluation=Evaluation(num_generations=3)
    )
    problems = loop.Problems([loop.problem(name) for name in "abcd"], [loop.problem(name) for name in "efg"])
    recorder = loop.fit(module, problems, **settings)
    recorder.trainer.save_checkpoint(folder / f"{kind}.ckpt")
    logged = {n: value.item() for n, value in recorder.trainer.callback_metrics.items() if n.startswith("val/")}
    (folder / f"{kind}.json").write_text(json.dumps(logged))
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
def test_the_exported_folder_is_the_trained_policy(
    runs: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = runs / f"{kind}.ckpt"
    assert checkpoint.is_dir() is ("shards" in kind)
    enable_progress_bar()  # as in a process of its own
    capfd.readouterr()
    cli.main(["export", str(checkpoint), str(tmp_path)])
    assert capfd.readouterr() == (f"exported to {tmp_path}; its model card is README.md\n", "")
    exported, expected = AutoModelForCausalLM.from_pretrained(tmp_path), trained(runs, kind)
    if "lora" in kind:
        close(logits(exported), expected)  # one sum of products in place of two
    else:
        assert torch.equal(logits(exported), expected)
    base = loading.load_model("tiny", "float32")
    known = {"masa_lightning": json.loads((tmp_path / "config.json").read_text())["masa_lightning"]}
    assert exported.config.to_diff_dict() == base.config.to_diff_dict() | known
    assert exported.generation_config.to_diff_dict() == base.generation_config.to_diff_dict()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE


@pytest.mark.parametrize(("kind", "adapter"), [*((kind, False) for kind in KINDS), *((k, True) for k in KINDS[1::2])])
def test_the_card_has_what_was_logged(runs: Path, tmp_path: Path, kind: str, adapter: bool) -> None:
    out = tmp_path / "my_model"
    (tmp_path / "results.json").write_text(
        json.dumps({"model": "tiny", "benchmarks": [{"name": "sums", "problems": 7, "metrics": {"pass@1": 0.625}}]})
    )
    options = ["--results", str(tmp_path / "results.json"), *["--adapter"] * adapter]
    cli.main(["export", str(runs / f"{kind}.ckpt"), str(out), *options])
    card, logged = ModelCard.load(out / "README.md"), json.loads((runs / f"{kind}.json").read_text())
    scores = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert scores["validation", "pass@1"] == logged["val/pass@1"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert scores["sums", "pass@1"] == 0.625
    assert card.data.library_name == ("peft" if adapter else "transformers")
    assert card.data.base_model is None
    low, high = logged["val/pass@1_low"], logged["val/pass@1_high"]
    assert f"| `validation` | `3` | {logged['val/pass@1']:.4g} [{low:.4g}, {high:.4g}] |" in card.text
    assert "with the weights here: `3` solutions a problem" in card.text
    for quantity in ("pass_rate/mae", "pass_rate/pearson", "pass_rate/ece", "length/bias"):
        value = logged[f"val/calibration/{quantity}"]
        assert value == value
        assert f"| `calibration/{quantity}` | {value:.4g} | - |" in card.text
    assert logged["val/meta/parse_rate"] == 1
    assert "| learning rate | `0.001` |" in card.text
    settings = json.loads((out / "training_settings.json").read_text())
    assert settings["module"]["class"] == "MASALightningModule"
    optimizer = settings["module"]["optimization"]["optimizer"]
    assert (optimizer["class"], optimizer["lr"]) == ("AdamW", 1e-3)
    assert settings["module"]["prompts"]["meta"] == "M:{problem}"
    assert f"`torch` `{torch.__version__}`" in card.text
    assert f"| problems a step | `{4 if 'shards' in kind else 2}` |" in card.text  # two on each process
    assert ("| LoRA: rank | `4` |" in card.text) is ("lora" in kind)
    for file in out.iterdir():
        if file.suffix != ".safetensors":
            assert str(tiny.PATH) not in file.read_text(), file
            assert str(tmp_path) not in file.read_text(), file


def code_of(card: Path) -> list[str]:
    """The blocks of Python in a card: prompts, transformers, vLLM."""
    return re.findall(r"^```python\n(.*?)^```$", card.read_text(), flags=re.MULTILINE | re.DOTALL)


def asked(words: str) -> list[int]:
    ids: list[int] = loading.load_tokenizer("tiny")(words, add_special_tokens=False).input_ids
    return ids


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
def test_the_code_in_the_card_asks_as_training_did(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], adapter: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").symlink_to(tiny.PATH)
    cli.main(["export", str(runs / "file-lora.ckpt"), "out", *["--adapter"] * adapter])
    prompts, transformers, _ = code_of(Path("out/README.md"))
    names: dict[str, Any] = {}
    exec(prompts, names)
    capsys.readouterr()
    exec(transformers, names)
    assert names["inputs"]["input_ids"].tolist() == [asked("M:Compute 12+34.")]
    assert capsys.readouterr().out.count("\n") >= 2
    model = names["model"].merge_and_unload() if adapter else names["model"]
    close(logits(model), trained(runs, "file-lora"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_asked_as_it_was_trained(runs: Path, tmp_path: Path, kind: str) -> None:
    """Export -> module -> training -> checkpoint -> export: prompts and lengths are those of the first run."""
    export_checkpoint(runs / f"{kind}.ckpt", tmp_path / "out")
    first = MASALightningModule.load_from_checkpoint(runs / "file.ckpt", sampler=TransformersSampler())
    again = MASALightningModule(str(tmp_path / "out"), TransformersSampler(), num_generations=2, num_meta_generations=2)
    assert again.prompts == first.prompts != PromptTemplates()
    names = ("max_prompt_length", "max_completion_length", "max_meta_length")
    assert [getattr(again, name) for name in names] == [getattr(first, name) for name in names]
    loop = Loop(Path("tiny"))
    trainer = loop.fit(again, loop.Problems([loop.problem(name) for name in "ab"]), max_steps=1).trainer
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    export_checkpoint(tmp_path / "again.ckpt", tmp_path / "third")
    third = MASALightningModule(str(tmp_path / "third"), TransformersSampler())
    assert (third.prompts, third.max_meta_length) == (first.prompts, first.max_meta_length)


def test_a_pass_rate_is_asked_out_of_what_it_was_in_training(runs: Path, tmp_path: Path) -> None:
    saved = torch.load(runs / "file.ckpt", weights_only=True)
    saved["masa"]["run"]["module"]["pass_rate_scale"] = 5
    torch.save(saved, tmp_path / "five.ckpt")
    export_checkpoint(tmp_path / "five.ckpt", tmp_path / "out")
    module = MASALightningModule(str(tmp_path / "out"), TransformersSampler())
    assert module.pass_rate_scale == module.meta.pass_rate_scale == 5
    other = MASALightningModule(str(tmp_path / "out"), TransformersSampler(), meta=MetaSettings(pass_rate_scale=4))
    assert other.pass_rate_scale == 4


@pytest.mark.parametrize("kind", KINDS[::3])
def test_vllm_reads_the_exported_folder(runs: Path, tmp_path: Path, kind: str, engine_device: str) -> None:
    vllm = pytest.importorskip("vllm")
    from masa_lightning.sampling.vllm import VLLMSampler
    from masa_lightning.sampling.vllm.engine import making_engines
    from masa_lightning.sampling.vllm.patches import models_looked_at_here

    export_checkpoint(runs / f"{kind}.ckpt", tmp_path)
    prompts, _, code = code_of(tmp_path / "README.md")
    names: dict[str, Any] = {}
    exec(prompts, names)
    with making_engines(VLLMSampler(verbose=True), torch.device(engine_device)), models_looked_at_here():
        llm = vllm.LLM(
            str(tmp_path), dtype="float32", max_model_len=64, kv_cache_memory_bytes=2**24, enforce_eager=True
        )
        wanted = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
        (output,) = llm.generate(vllm.TokensPrompt(prompt_token_ids=IDS[0].tolist()), wanted, use_tqdm=False)
        start, _, rest = code.partition("llm = LLM(MODEL)\n")
        exec(start + rest, names | {"llm": llm}, names)
    assert names["output"].prompt_token_ids == asked("M:Compute 12+34.")
    got = torch.tensor(
        [place[token].logprob for place, token in zip(output.prompt_logprobs[1:], range(1, 40), strict=True)]
    )
    expected = trained(runs, kind)[0, :-1].log_softmax(-1).gather(1, IDS[0, 1:, None])[:, 0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS[1::2])
def test_adapters_alone(runs: Path, tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    cli.main(["export", str(runs / f"{kind}.ckpt"), str(tmp_path), "--adapter"])
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


def test_an_early_checkpoint(runs: Path, tmp_path: Path) -> None:
    saved = torch.load(runs / "file.ckpt", weights_only=True)
    del saved["masa"]["run"], saved["masa"]["ledger"]
    torch.save(saved, tmp_path / "early.ckpt")
    cli.main(["export", str(tmp_path / "early.ckpt"), str(tmp_path / "out")])
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), trained(runs, "file"))
    assert "No evaluation is recorded here" in ModelCard.load(tmp_path / "out" / "README.md").text


def test_all_stop_tokens_of_training_are_in_the_generation_configuration(runs: Path, tmp_path: Path) -> None:
    base = loading.load_model("tiny", "float32")
    assert base.generation_config is not None
    base.generation_config.eos_token_id = 5
    base.save_pretrained(tmp_path / "base")
    tokenizer = loading.load_tokenizer("tiny")
    tokenizer.save_pretrained(tmp_path / "base")
    export_checkpoint(runs / "file.ckpt", tmp_path / "out", model=str(tmp_path / "base"))
    stops = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert stops == [tokenizer.eos_token_id, 5]


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
    weights = {"state_dict": {"policy.model.lm_head.weight": torch.ones(1)}}
    settings: dict[str, object] = {"model": "tiny", "dtype": "float32", "lora": None, "chat_template": None}
    without = {name: value for name, value in settings.items() if name != "lora"}
    for other in (
        {"state_dict": {"layer": torch.ones(1)}, "masa": settings},
        {"state_dict": {"policy.model.lm_head.weight": "text"}, "masa": settings},
        {"state_dict": [torch.ones(1)], "masa": settings},
        [torch.ones(1)],
        torch.ones(1),
        weights,
        weights | {"masa": [settings]},
        weights | {"masa": without},
        *(
            weights | {"masa": settings | wrong}
            for wrong in ({"model": 1}, {"chat_template": {"{": "}"}}, {"lora": "r"})
        ),
    ):
        torch.save(other, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match="holds no policy"):
            export_checkpoint(tmp_path / "other.ckpt", tmp_path / "out")


def test_an_export_takes_the_place_of_another(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the one before stays; one that ends early leaves it as it is; files of others are not touched."""
    out = tmp_path / "out"
    export_checkpoint(runs / "file-lora.ckpt", out, adapter=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("masa_lightning.export.write_card", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_checkpoint(runs / "file.ckpt", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [*tmp_path.iterdir()] == [out]
    cli.main(["export", str(runs / "file.ckpt"), str(out)])
    assert "in place of the export that was there" in capsys.readouterr().out
    assert not [*out.glob("adapter*")]
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out)), trained(runs, "file"))
    assert ModelCard.load(out / "README.md").text.lstrip().startswith("# `out`")
    for name in ("own.gguf", "train.py", "notes.txt", "results.json"):
        (out / name).write_text("mine")
        with pytest.raises(
            ValueError, match=f"has '{name}', which no export has: .*; expected a name that is still free"
        ):
            export_checkpoint(runs / "file.ckpt", out)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has files, and no training_settings\.json"):
        export_checkpoint(runs / "file.ckpt", tmp_path / "base")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    export_checkpoint(runs / "file.ckpt", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "config.json").is_file()


_KILLED = """
import os, signal, sys
import masa_lightning.export as export
export.write_card = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
export.export_checkpoint(*sys.argv[1:])
"""


def test_a_killed_export_leaves_nothing_that_looks_whole(runs: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _KILLED, str(runs / "file.ckpt"), str(tmp_path / "out")]
    assert subprocess.run(words).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert [path.name.startswith(".out.") for path in tmp_path.iterdir()] == [True]
    export_checkpoint(runs / "file.ckpt", tmp_path / "out")
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_the_folder_of_a_run_is_enough(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").symlink_to(runs / "file.ckpt")
    cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), trained(runs, "file"))


def test_the_command_says_what_is_wrong(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", *map(str, words)])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    checkpoint, out = runs / "file.ckpt", tmp_path / "out"
    assert "none.ckpt' is neither a file nor a folder with shards" in error("none.ckpt", out)
    assert "none.json' is no file; expected the results.json" in error(checkpoint, out, "--results", "none.json")
    assert "model 'no/such/model' was not found" in error(checkpoint, out, "--model", "no/such/model")
    assert "trained without LoRA" in error(checkpoint, out, "--adapter")
    assert "is a file; expected a folder" in error(checkpoint, checkpoint)
    assert "required: OUT_DIR" in error(checkpoint)
    assert not out.exists()
