"""What a module does without being told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from masa_lightning import (
    GRPOLightningModule,
    MASALightningModule,
    MetaSettings,
    PassRate,
    PromptTemplates,
    TransformersSampler,
    VLLMSampler,
)
from masa_lightning.models import loading, tiny
from masa_lightning.models.tiny import PROMPTS
from masa_lightning.models.trained_with import ENTRY, TrainedWith
from masa_lightning.modules import defaults


def test_the_embedded_model_is_enough() -> None:
    module = MASALightningModule("tiny", TransformersSampler())
    assert module.prompts == PROMPTS
    assert (module.max_prompt_length, module.max_completion_length, module.max_meta_length) == (64, 128, 48)
    own = MASALightningModule(
        "tiny", TransformersSampler(), prompts=PromptTemplates(meta="M {problem}"), max_completion_length=32
    )
    assert own.prompts == PromptTemplates(solution=PROMPTS.solution, meta="M {problem}", hint=PROMPTS.hint)
    assert (own.max_completion_length, own.max_meta_length) == (32, 32)


def test_other_models_have_the_long_prompts() -> None:
    module = MASALightningModule("some/model", TransformersSampler())
    assert module.prompts == PromptTemplates()
    assert (module.max_prompt_length, module.max_completion_length, module.max_meta_length) == (512, 512, 512)


def test_a_copy_of_the_embedded_model_brings_what_its_name_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_name = MASALightningModule("tiny", TransformersSampler())
    assert "trained with" not in caplog.text
    shutil.copytree(tiny.PATH, tmp_path / "copy")
    loading.load_model("tiny", "float32").save_pretrained(tmp_path / "saved")  # by transformers
    for folder in ("copy", "saved"):
        module = MASALightningModule(str(tmp_path / folder), TransformersSampler())
        assert module.prompts == by_name.prompts == PROMPTS
        assert (module.max_prompt_length, module.max_completion_length, module.max_meta_length) == (64, 128, 48)
        assert f"{folder}': prompts, lengths and the scale of pass rates that are not given" in caplog.text
    assert GRPOLightningModule(str(tmp_path / "copy"), TransformersSampler()).prompts == PROMPTS
    given = MASALightningModule(
        str(tmp_path / "copy"), TransformersSampler(), prompts=PromptTemplates(meta="M {problem}"), max_meta_length=32
    )
    assert given.prompts == PromptTemplates(solution=PROMPTS.solution, meta="M {problem}", hint=PROMPTS.hint)
    assert given.max_meta_length == 32


def test_the_scale_of_pass_rates_is_the_models_unless_it_is_given(tmp_path: Path) -> None:
    folder = str(tmp_path / "copy")
    shutil.copytree(tiny.PATH, folder)
    config = AutoConfig.from_pretrained(folder)
    config.update({ENTRY: TrainedWith(prompts=PROMPTS, pass_rate_scale=16).entry()})
    config.save_pretrained(folder)

    def scale(model: str, **settings: Any) -> tuple[int, int | None]:
        made = MASALightningModule(model, TransformersSampler(), **settings)
        return made.pass_rate_scale, made.meta.pass_rate_scale

    assert scale(folder) == (16, 16)
    assert scale(folder, meta=MetaSettings(pass_rate_scale=8)) == (8, 8)
    assert scale("some/model") == (8, 8)
    asking = PromptTemplates(meta="{problem} pass_rate")
    assert scale(folder, quantities=[PassRate(scale=4)], prompts=asking) == (4, 4)


@pytest.mark.parametrize("there", [True, False])
def test_the_sampler_is_vllms_where_it_is_installed(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if there:
        monkeypatch.setattr(defaults, "find_spec", lambda name: name)
    else:
        monkeypatch.setitem(sys.modules, "vllm", None)
    module = GRPOLightningModule("tiny")
    assert type(module.sampler) is (VLLMSampler if there else TransformersSampler)
    assert ("vLLM is not installed" in caplog.text) == (not there)
    assert module.hparams["sampler"] is None  # chosen again where the checkpoint is loaded


def test_the_limit_of_predictions_is_looked_at_where_there_are_some() -> None:
    settings: dict[str, Any] = {"max_completion_length": 32, "max_meta_length": 64}
    with pytest.raises(ValueError, match=r"max_meta_length is 64; expected 1\.\.max_completion_length = 32"):
        MASALightningModule("tiny", TransformersSampler(), **settings)
    assert MASALightningModule("tiny", TransformersSampler(), num_meta_generations=0, **settings).max_meta_length == 32


def test_a_model_of_the_hub_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.from_pretrained(tiny.PATH)
    monkeypatch.setattr(defaults, "load_config", lambda name, trust_remote_code=False: config)
    defaults.warn_of_hub("a/b", PROMPTS)
    defaults.warn_of_hub(str(tiny.PATH), PromptTemplates())
    with pytest.warns(UserWarning, match="'a/b' was trained with other prompts than .*--local-dir FOLDER"):
        defaults.warn_of_hub("a/b", PromptTemplates())
