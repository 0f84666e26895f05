"""What is recorded of a run is plain, true, and no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_loop import Loop

from masa_lightning import Algorithm, ArithmeticDataModule, ExpertSFT, GRPOLightningModule, LoRA, MathDataModule
from masa_lightning.modules.provenance import described, evaluation_settings, provenance
from masa_lightning.types import Problem


class Brief:
    """A reward with odd attributes."""

    class Colour(Enum):
        RED = "red"

    def __init__(self, scale: Any = 1.0, inner: Any = None, words: Any = ()) -> None:
        self.scale, self.inner, self.words = scale, inner, words
        self.cache: list[int] = []
        self.seen = {"a": [1]}
        self._hidden = 3

    def __call__(self, problem: Problem, completions: Sequence[str]) -> Sequence[float]:
        return [0.0] * len(completions)


def whole_name(problem: Problem, completions: Sequence[str]) -> Sequence[float]:
    return [0.0] * len(completions)


def kept(value: Any, tmp_path: Path) -> Any:
    """What `torch.load` reads of it, where nothing but plain values is allowed."""
    torch.save(value, tmp_path / "value.pt")
    return torch.load(tmp_path / "value.pt", weights_only=True)


def test_an_object(tmp_path: Path) -> None:
    loop = Brief()
    loop.inner = loop
    brief = Brief(np.float64(2.0), Brief(inner=loop, words={"b"}), [Brief.Colour.RED, Algorithm, whole_name])
    assert kept(described(brief), tmp_path) == {
        "class": "Brief",
        "scale": 2.0,
        "inner": {"class": "Brief", "scale": 1.0, "inner": {"class": "Brief", "scale": 1.0, "inner": "Brief", "words": []},
                  "words": ["b"]},
        "words": ["red", "Algorithm", {"class": "whole_name"}],
    }  # fmt: skip


def test_data_is_no_setting() -> None:
    """Or a datamodule that is given its problems would be in each checkpoint and card."""
    problems = [Problem(id=str(i), problem="1+1", answer="2") for i in range(101)]
    assert described(Brief(words=problems))["words"] == "101 entries"
    assert described(Brief(words={str(p): p for p in problems}))["words"] == "101 entries"
    assert len(described(Brief(words=problems[1:]))["words"]) == 100


def test_what_lies_on_this_machine_goes_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file.jsonl").touch()
    for place in (tmp_path / "file.jsonl", str(tmp_path / "file.jsonl")):
        assert described(Brief(place))["scale"] == "file.jsonl"
    for text in ("/no_think", "org/name", "a" * 10_000, "\0", "/"):
        assert described(Brief(text))["scale"] == text


def test_datamodules() -> None:
    data = MathDataModule("org/name", test="org/test:main", batch_size=3)
    data.splits = {"train": [Problem(id="a", problem="b", answer="c")]}
    settings = described(data)
    assert settings["class"] == "MathDataModule"
    assert settings["batch_size"] == 3
    assert settings["sources"]["train"] == ["org/name", "train"]
    assert "splits" not in settings
    assert "prepare_data_per_node" not in settings
    assert described(ArithmeticDataModule(train_size=5))["sizes"]["train"] == 5


def test_the_state_of_callbacks_is_no_setting() -> None:
    callback = ExpertSFT(batch_size=4, learning_rate=1e-5)
    callback.buffer = [([1], [2], 1.0)]
    settings = described(callback)
    assert (settings["class"], settings["batch_size"], settings["learning_rate"]) == ("ExpertSFT", 4, 1e-5)
    assert "buffer" not in settings


@pytest.mark.parametrize("kind", ["MASA", "GRPO"])
def test_a_checkpoint_says_how_it_came_about(loop: Loop, tmp_path: Path, kind: str) -> None:
    other = {} if kind == "MASA" else {"kind": GRPOLightningModule}
    module = loop.module(
        **other,
        reward_functions=[whole_name],
        algorithm=Algorithm(clip_low=0.1),
        lora=LoRA(rank=2),
        grader=loop.Grades(),
        seed=7,
    )
    recorder = loop.fit(module, loop.Problems(4, 3), val_check_interval=1)
    run = kept(provenance(module), tmp_path)
    saved: dict[str, Any] = {}
    module.on_save_checkpoint(saved)
    saved = kept(saved, tmp_path)["masa"]["run"]
    assert {**run, "validation": saved["validation"], "first_validation": None} == saved
    settings = saved["module"]
    assert settings["class"] == type(module).__name__
    assert not {"first_validation", "last_validation"} & settings.keys()
    assert settings.get("num_meta_generations") == (2 if kind == "MASA" else None)
    assert settings["algorithm"]["clip_low"] == 0.1
    assert settings["sampling"]["temperature"] == 1.0
    assert settings["reward_functions"] == {"whole_name": {"class": "whole_name"}}
    assert settings["grader"]["class"] == "Grades"
    assert settings["sampler"] == {"class": "SpySampler", "batch_size": 64}
    assert settings["prompts"]["meta"] == "M:{problem}"
    assert saved["data"] == {"class": "Problems", "batch_size": 2, "val_batch_size": 2, "seed": 0,
                             "given": {"train": 4, "validation": 3, "test": 3}}  # fmt: skip
    assert saved["callbacks"] == [{"class": "Recorder"}]
    assert (saved["training_problems"], saved["processes"], saved["seed"]) == (4, 1, 7)
    assert saved["model_is_local"]
    assert saved["versions"]["torch"] == torch.__version__
    assert {"masa_lightning", "lightning", "transformers"} <= saved["versions"].keys()
    validation = saved["validation"]
    logged = {n: v.item() for n, v in recorder.trainer.callback_metrics.items() if n.startswith("val/")}
    assert (validation["rollout_steps"], validation["problems"]) == (2, 3)
    assert validation["metrics"].keys() == logged.keys()
    assert validation["metrics"]["val/pass@1"] == logged["val/pass@1"]


def test_the_last_validation_outlives_a_resumption(loop: Loop, tmp_path: Path) -> None:
    first = loop.module()
    trainer = loop.fit(first, loop.Problems(4, 2), val_check_interval=1).trainer
    saved: dict[str, Any] = {}
    first.on_save_checkpoint(saved)
    second = loop.module()
    second.on_load_checkpoint(saved)
    second.trainer, second.policy = trainer, first.policy
    again: dict[str, Any] = {}
    second.on_save_checkpoint(again)
    assert again["masa"]["run"]["validation"] == saved["masa"]["run"]["validation"] is not None
    del saved["masa"]["run"]  # an early checkpoint
    loop.module().on_load_checkpoint(saved)


def test_keys_and_passwords_are_left_out():
    class Loader:
        def __init__(self, api_key, hf_token, max_token_count):
            self.api_key, self.hf_token, self.max_token_count = api_key, hf_token, max_token_count

    assert described(Loader("k", "t", 3)) == {"class": "Loader", "max_token_count": 3}


@dataclass
class Client:
    url: str = "u"
    api_key: str = "sk"


def test_keys_and_passwords_in_a_dictionary_are_left_out() -> None:
    """Such as `engine_kwargs` and `chat_template_kwargs`, which have any names."""
    settings = described(
        Brief(words={"hf_token": "hf_abc", "inner": [{"api_key": "abc", "size": 3}], "client": Client()})
    )
    assert settings["words"] == {"inner": [{"size": 3}], "client": {"url": "u"}}


class Close:
    """Grades by a number that is an argument of its own."""

    def __init__(self, within: float, workers: int = 2) -> None:
        self.within, self.workers = within, workers

    def grade(self, problems: Any, completions: Any, on_progress: Any = None) -> list[bool | None]:
        return [True for _ in completions]

    def close(self) -> None:
        """Nothing is open."""


def test_the_grader_is_measured_with_its_settings(loop: Loop) -> None:
    found = []
    for grader in (Close(0.1), Close(0.5), Close(0.1, workers=8)):
        module = loop.module(grader=grader)
        loop.fit(module, loop.Problems(4, 3), val_check_interval=1)
        found.append(evaluation_settings(module)["grader_settings"])
    assert found == ["Close(within=0.1)", "Close(within=0.5)", "Close(within=0.1)"]
