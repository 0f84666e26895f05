"""The group `meta`: its settings reach what they are about, and those of earlier versions are found in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_loop import Loop

from masa_lightning import Notions, PassRate, PromptTemplates, StatedConfidence
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.modules.provenance import module_settings
from masa_lightning.modules.resumed_settings import changed_settings
from masa_lightning.sampling.transformers import TransformersSampler


def module(loop: Loop, **settings: Any) -> MASALightningModule:
    return loop.module(sampler=TransformersSampler(), meta=MetaSettings(**settings))


def test_settings_reach_quantities_rewards_and_losses(loop: Loop) -> None:
    made = module(
        loop,
        pass_rate_scale=5,
        difficulty_scoring="brier",
        reward_weights={"length": 1.0, "difficulty": 5.0, "notion": 0.0},
        loss_weight=0.5,
        solution_loss_weight=2.0,
    )
    _, pass_rate, _ = made.quantities
    assert (pass_rate.scale, pass_rate.scoring) == (5, "brier")
    assert made.meta_scorer.parts == ["length", "difficulty"]
    assert made.kind_weights == (2.0, 0.5)
    assert module(loop).meta.reward_weights == {"length": 1.0, "difficulty": 1.0, "notion": 1.0}  # as they are


def test_a_checkpoint_of_earlier_settings_is_loaded(loop: Loop, tmp_path: Path) -> None:
    loop.fit(module(loop), loop.Problems(2)).trainer.save_checkpoint(path := tmp_path / "run.ckpt")
    old = torch.load(path, weights_only=True)
    del old["hyper_parameters"]["meta"]
    old["hyper_parameters"] |= {
        "difficulty_scoring": "brier",
        "meta_weight": 0.25,
        "meta_reward_weights": {"length": 2},
    }
    torch.save(old, path)
    loaded = MASALightningModule.load_from_checkpoint(path)
    assert (loaded.meta.difficulty_scoring, loaded.meta.loss_weight) == ("brier", 0.25)
    assert loaded.meta.reward_weights == {"length": 2}
    assert "meta_weight" not in loaded.hparams


def test_changes_since_an_earlier_version_are_told(loop: Loop) -> None:
    then, now = module(loop), module(loop, pass_rate_scale=16)
    recorded = module_settings(then, arguments_only=True)
    meta = recorded.pop("meta")
    recorded |= {"pass_rate_scale": meta["pass_rate_scale"], "meta_reward_weights": meta["reward_weights"]}
    trainer = now.trainer = loop.trainer()
    others = {"data": None, "callbacks": [], "precision": trainer.precision, "processes": 1}
    assert changed_settings(now, {"module": recorded, **others}) == ["meta.pass_rate_scale was 8, is 16"]


def of_quantities(loop: Loop, *chosen: Any, **settings: Any) -> Any:
    prompts = PromptTemplates(meta="{problem} {quantities} {json}")
    return loop.module(sampler=TransformersSampler(), quantities=[*chosen] or None, prompts=prompts, **settings)


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        (
            ([PassRate()], {}),
            ([PassRate(scoring="brier")], {}),
            ["quantities.pass_rate.scoring was 'exponential', is 'brier'"],
        ),
        (
            ([Notions()], {"confidence": StatedConfidence("?")}),
            ([Notions()], {"confidence": StatedConfidence("!")}),
            ["confidence.instruction was '?', is '!'"],
        ),
        (([], {}), ([], {"notion_counting": "rate"}), ["meta.notion_counting was 'count', is 'rate'"]),
    ],
)
def test_each_change_of_what_is_predicted_is_told_once(loop: Loop, then: Any, now: Any, told: list[str]) -> None:
    """Arguments of quantities were not told, and another confidence twice."""
    recorded = module_settings(of_quantities(loop, *then[0], **then[1]), arguments_only=True)
    resumed = of_quantities(loop, *now[0], **now[1])
    trainer = resumed.trainer = loop.trainer()
    others = {"data": None, "callbacks": [], "precision": trainer.precision, "processes": 1}
    assert changed_settings(resumed, {"module": recorded, **others}) == told


def test_a_correction_of_an_earlier_version_is_the_same(loop: Loop) -> None:
    now = module(loop)
    recorded = module_settings(now, arguments_only=True)
    del recorded["algorithm"]["importance_sampling_clip_max"]
    recorded["algorithm"] |= {"importance_sampling": "token", "importance_sampling_cap": 3.0}
    trainer = now.trainer = loop.trainer()
    others = {"data": None, "callbacks": [], "precision": trainer.precision, "processes": 1}
    phrases = changed_settings(now, {"module": recorded, **others})
    assert phrases == ["algorithm.importance_sampling_clip_max was 3.0, is 2.0"]


@pytest.mark.parametrize("name", ["loss_weight", "solution_loss_weight"])
def test_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is -1; expected"):
        MetaSettings(**{name: -1})
