"""What a wrong configuration is answered with: a few lines that name key, finding and remedy."""

from __future__ import annotations

import sys

import pytest

from masa_lightning.cli import main
from masa_lightning.cli.errors import readable


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model.init_args.num_generations=abc", "model.init_args.num_generations: expected int, got abc"),
        ("model.num_generations=abc", "model.init_args.num_generations: expected int, got abc"),
        (
            "model.init_args.algorithm.loss_type=ppo",
            "model.init_args.algorithm.loss_type: expected one of ['ppo_clip', 'gspo', 'cispo'], got ppo",
        ),
        (
            "model.init_args.num_generation=3",
            "model: MASALightningModule has no setting 'num_generation'; did you mean num_generations?",
        ),
        (
            "model.init_args.sampler={class_path: masa_lightning.VLLMSampler, init_args: {dtyp: x}}",
            "model.init_args.sampler: VLLMSampler has no setting 'dtyp'; did you mean dtype?",
        ),
        (
            "model.init_args.sampler.init_args.dtype=x",
            "model.init_args.sampler: of which class? Expected it first: --model.sampler VLLMSampler",
        ),
        ("model.init_args.lora={rank: x}", "model.init_args.lora.rank: expected int, got x"),
        (
            "model.init_args.evaluation={num_generations: a}",
            "model.init_args.evaluation.num_generations: expected int, got a",
        ),
        (
            "model.init_args.reward_functions=[{class_path: nowhere.Foo}]",
            "model.init_args.reward_functions: No module named 'nowhere'",
        ),
        (
            "model=Foo",
            "model: there is no class 'Foo'; expected package.module.Class, such as masa_lightning.VLLMSampler",
        ),
        (
            "model.init_args.grader={class_path: masa_lightning.modules.grader.MathGrader}",  # where version 0.1 had it
            "model.init_args.grader: there is no class 'masa_lightning.modules.grader.MathGrader'; "
            "expected masa_lightning.MathGrader",
        ),
        ("data=masa_lightning.MathDataModul", "data: module 'masa_lightning' has no attribute 'MathDataModul'"),
        ("data.init_args.batch_size=x", "data.init_args.batch_size: expected int, got x"),
        ("trainer.max_steps=two", "trainer.max_steps: expected int, got two"),
        ("trainer.max_stepz=3", "unrecognized arguments: --trainer.max_stepz=3"),
    ],
)
def test_one_line_says_what_is_wrong(
    argument: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["masa"])
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "tiny", f"--{argument}"])
    assert stopped.value.code == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"error: {said}"
    assert last.startswith("`masa fit --help` lists all options;") or "unrecognized" in said


def test_what_is_not_known_is_passed_on() -> None:
    assert readable("Something new\n  of several lines") == "Something new\nof several lines"
    assert readable("Errors:\n  - Expected a <class 'NoneType'>") == "Errors:\n  - Expected a <class 'NoneType'>"
