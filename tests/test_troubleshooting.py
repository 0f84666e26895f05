"""Most errors that docs/troubleshooting.md quotes, made to happen: what comes is what the page says, word by word."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_tiny_checkpoint
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from training_loop import Loop
from transformers import GraniteConfig, GraniteForCausalLM, T5Config

from masa_lightning import BenchmarkReport, MathDataModule, VLLMSampler
from masa_lightning.cli.configs import config_path
from masa_lightning.data.loader import ProblemLoader
from masa_lightning.export import export_checkpoint
from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA, check_same
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.run_folder import _lock
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.settings import Evaluation
from masa_lightning.types import Problem

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
QUOTES = re.findall(r"^> (.+)$", PAGE.read_text(), re.MULTILINE)
ELSEWHERE = {  # what takes long or more processes to make happen, and the test that does
    "The install failed.": "a registry without torch",
    "Everything was installed, but": "an environment that is broken",
    "vLLM ... could not make an engine": "tests/sampling/vllm/test_sampler.py",
    "the policy's weights are spread": "tests/test_two_processes.py",
    "... loses more correct rollouts": "tests/callbacks/test_controls.py",
}


class Case:
    """What the cases need: a loop, an empty folder, and a way to hide packages."""

    def __init__(self, loop: Loop, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.loop, self.folder, self.patch = loop, folder, patch

    def fit(self, module: dict[str, Any] | None = None, data: Any = None, **trainer: Any) -> None:
        made = self.loop.module(GRPOLightningModule, **(module or {}))
        self.loop.fit(made, data or self.loop.Problems(2), **trainer)

    def saved(self, **saver: Any) -> Path:
        kept = ModelCheckpoint(self.folder, "kept", every_n_train_steps=1, **saver)
        trainer = self.loop.trainer(kept, max_steps=1, enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(self.loop.module(GRPOLightningModule), self.loop.Problems(4))
        return self.folder / "kept.ckpt"

    def of_type(self, config: Any) -> None:
        config.save_pretrained(self.folder)
        loading.load_config(str(self.folder))


CASES: dict[str, Callable[[Case], Any]] = {}


def case(beginning: str) -> Callable[[Callable[[Case], Any]], Callable[[Case], Any]]:
    """Names what makes the error happen whose quote begins so."""

    def keep(function: Callable[[Case], Any]) -> Callable[[Case], Any]:
        CASES[beginning] = function
        return function

    return keep


@case("VLLMSampler found")
def _(c: Case) -> None:
    c.patch.setitem(sys.modules, "vllm", None)
    c.fit({"sampler": VLLMSampler()})


@case("the policy is on ..., but the installed vLLM")
def _(c: Case) -> None:
    pytest.importorskip("vllm")
    from masa_lightning.sampling.vllm.engine import check_platform
    from masa_lightning.sampling.vllm.patches import platform

    check_platform(torch.device("cuda" if platform() == "cpu" else "cpu"))


@case("LoRA needs peft")
def _(c: Case) -> None:
    c.patch.setitem(sys.modules, "peft", None)
    c.fit({"lora": LoRA(rank=2)})


case("there is no file ..., and no shipped configuration")(lambda c: config_path("tinny"))
case("gradient_clip_val of the Trainer")(lambda c: c.fit(gradient_clip_val=1.0))
case("the Trainer is to accumulate gradients")(lambda c: c.fit(accumulate_grad_batches=2))
case("a ModelCheckpoint has train_time_interval")(
    lambda c: c.fit(
        callbacks=[ModelCheckpoint(c.folder, train_time_interval=timedelta(minutes=1))],
        enable_checkpointing=True,
    )
)


@case("... is in use by another masa")
def _(c: Case) -> None:
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(c.folder / ".fit.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            _lock(c.folder, "fit")
        finally:
            other.communicate(b"\n")


@case("the strategy is")
def _(c: Case) -> None:
    module = c.loop.module()
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())  # Lightning makes trainers with it on CUDA only
    module.setup("fit")


case("ModelParallelStrategy has data_parallel_size")(
    lambda c: c.fit(strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1))
)
case("the Trainer's precision is")(lambda c: c.fit(precision="64-true"))
case("model ... was not found")(lambda c: c.fit({"model": str(c.folder / "none")}))
case("model ...: the folder exists but holds no config.json")(lambda c: c.fit({"model": str(c.folder)}))
case("the tokenizer of model ... has no chat template")(
    lambda c: c.fit({"model": str(make_tiny_checkpoint(c.folder, chat_template=None))})
)
case("model ... is of type")(lambda c: c.of_type(T5Config()))
case("the model's configuration sets")(lambda c: c.fit({"model": str(granite(c.folder))}))
case("max_prompt_length ... + max_completion_length")(lambda c: c.fit({"max_completion_length": 250}))


def granite(folder: Path) -> Path:
    """A model whose logits are scaled."""
    make_tiny_checkpoint(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = GraniteConfig(**small, num_key_value_heads=1, vocab_size=104, logits_scaling=8.0, eos_token_id=1)
    GraniteForCausalLM(config).save_pretrained(folder)
    return folder


@case("the sampler does not draw from the policy")
def _(c: Case) -> None:
    sampler = c.loop.Scripted(c.loop.boxes(2, 3, 4))
    c.fit({"sampler": sampler, "max_completion_length": 120, "max_logp_difference": None})


@case("this ... draws for another")
def _(c: Case) -> None:
    sampler = TransformersSampler()
    modules = [c.loop.module(GRPOLightningModule, sampler=sampler) for _ in range(2)]
    for module in modules:
        c.loop.fit(module, c.loop.Problems(2))


@case("... That is a share of")
def _(c: Case) -> None:
    file = c.folder / "bad.jsonl"
    file.write_text('{"problem": "1+1", "answer": ""}\n' * 4)
    MathDataModule(train=str(file)).setup("fit")


case("none of the ... problems of the batch")(lambda c: c.fit({"max_prompt_length": 2, "max_completion_length": 8}))


@case("a batch is a list of masa_lightning.types.Problem")
def _(c: Case) -> None:
    trainer = c.loop.trainer(limit_val_batches=0)
    trainer.fit(c.loop.module(GRPOLightningModule), torch.utils.data.DataLoader([1, 2]))


@case("... of ... training problems are also among")
def _(c: Case) -> None:
    file = c.folder / "rows.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer": "3"}\n')
    MathDataModule(train=str(file), validation=str(file), validation_split="train").setup("fit")


@case("... of the ... solutions of the first")
def _(c: Case) -> None:
    c.fit(
        {"sampler": c.loop.Scripted(lambda *_: "0123456789"), "num_generations": 8, "max_completion_length": 4},
        c.loop.Problems(16, batch_size=4),
    )


@case("the gradient norm... is")
def _(c: Case) -> None:
    settings = {"sampler": c.loop.Scripted(c.loop.boxes(2, 3, 4)), "max_completion_length": 20}
    c.loop.fit(c.loop.module(c.loop.Diverging, **settings), c.loop.Problems([c.loop.problem("1")], batch_size=1))


@case("the checkpoint holds weights alone")
def _(c: Case) -> None:
    saved = c.saved(save_weights_only=True)
    c.loop.trainer(limit_val_batches=0).fit(c.loop.module(GRPOLightningModule), c.loop.Problems(4), ckpt_path=saved)


@case("checkpoint ... is a folder of shards")
def _(c: Case) -> None:
    (c.folder / "meta.pt").touch()
    trainer = c.loop.trainer(limit_val_batches=0)
    trainer.fit(c.loop.module(GRPOLightningModule), c.loop.Problems(4), ckpt_path=c.folder)


@case("the order of the problems differs")
def _(c: Case) -> None:
    problems = [Problem(id=str(n), problem=str(n), answer="1") for n in range(8)]
    ProblemLoader(problems, 3).load_state_dict(ProblemLoader(problems, 2).state_dict())


case("the checkpoint was written with lora")(lambda c: check_same(None, LoRA(rank=2)))


@case("... has rollouts that were drawn with other settings")
def _(c: Case) -> None:
    for temperature in (0.5, 0.6):
        evaluation = Evaluation(num_generations=2, num_meta_generations=0, temperature=temperature)
        module = c.loop.module(GRPOLightningModule, sampler=TransformersSampler(), evaluation=evaluation)
        c.loop.trainer(BenchmarkReport(c.folder)).test(module, c.loop.Problems(0, 2), verbose=False)


@case("... weights of checkpoint ... do not fit the model")
def _(c: Case) -> None:
    saved = c.saved()
    export_checkpoint(saved, c.folder / "out", model="tiny")


def quote_of(beginning: str) -> str:
    (quote,) = [quote for quote in QUOTES if quote.startswith(beginning)]
    return quote


def test_every_entry_is_made_to_happen_here_or_elsewhere() -> None:
    assert len(QUOTES) == len(CASES) + len(ELSEWHERE)
    assert len({quote_of(beginning) for beginning in [*CASES, *ELSEWHERE]}) == len(QUOTES)
    files = [where for where in ELSEWHERE.values() if where.startswith("tests/")]
    assert files
    assert all((Path(__file__).parents[1] / where).is_file() for where in files)


@pytest.mark.parametrize("beginning", CASES)
def test_what_comes_is_what_the_page_says(
    beginning: str, loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            CASES[beginning](Case(loop, tmp_path, monkeypatch))
        except (ValueError, RuntimeError, ImportError, FileNotFoundError, TypeError, OSError) as error:
            said.append(str(error))
    said += [str(warning.message) for warning in warned]
    pattern = ".*?".join(re.escape(part) for part in re.split(r"\.\.\.(?!\.)", quote_of(beginning)))
    assert any(re.search(pattern, " ".join(text.split())) for text in said), said
