"""The entry of config.json that says with which prompts and lengths a model was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models import tiny
from masa_lightning.models.trained_with import ENTRY, TrainedWith, trained_with


def write(folder: Path, entry: Any) -> str:
    """A folder of a model with an entry, or without one."""
    shutil.copytree(tiny.PATH, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    del config[ENTRY]
    (folder / "config.json").write_text(json.dumps(config if entry is None else config | {ENTRY: entry}))
    return str(folder)


def test_the_embedded_model_says_its_own() -> None:
    expected = TrainedWith(prompts=tiny.PROMPTS, max_prompt_length=64, max_completion_length=128, max_meta_length=48)
    assert trained_with("tiny") == expected


def test_models_that_say_nothing(tmp_path: Path) -> None:
    assert trained_with(write(tmp_path / "model", None)) is None
    assert trained_with("some/model") is None
    (tmp_path / "config.json").write_text("[")
    assert trained_with(str(tmp_path)) is None


def test_written_and_read(tmp_path: Path) -> None:
    known = TrainedWith(
        prompts=PromptTemplates(solution="S {problem}", system="Be brief."), max_prompt_length=7, pass_rate_scale=5
    )
    folder = write(tmp_path / "model", known.entry() | {"of_a_later_version": 1})
    assert trained_with(folder) == known
    AutoConfig.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert trained_with(str(tmp_path / "again")) == known


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (["x"], r"\['x'\]"),
        ({"prompts": "x"}, "'prompts': 'x'"),
        ({"prompts": {"solution": 1}}, "'solution': 1"),
        ({"prompts": {"solution": "no place"}}, "solution template has no {problem}"),
        ({"prompts": {"meta": "{problem}"}, "max_prompt_length": 0}, "'max_prompt_length': 0"),
        ({"prompts": {"meta": "{problem}"}, "max_prompt_length": True}, "'max_prompt_length': True"),
    ],
)
def test_a_wrong_entry(tmp_path: Path, entry: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"config.json.*{found}"):
        trained_with(write(tmp_path / "model", entry))
