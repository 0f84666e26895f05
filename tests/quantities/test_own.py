"""The quantity of examples/own_quantity.py in a run: asked for, read, rewarded, cloned, calibrated and drawn."""

import runpy
from pathlib import Path

import pytest

from masa_lightning import CalibrationPlots, ExpertSFT, PassRate, PromptTemplates

EXAMPLE = Path(__file__).parents[2] / "examples/own_quantity.py"
SOLUTIONS = (
    "a. \\boxed{2}",
    "a. b. c. \\boxed{2}",
    "\\boxed{3}",
    "\\boxed{3}",
)  # 2 and 4 steps are right: 3 on average
METAS = ('<meta>x</meta>{"pass_rate": 4, "steps": 3}', '<meta>y</meta>{"pass_rate": 8, "steps": 1}')


class Examples(ExpertSFT):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen = pl_module.expert_examples(outputs)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def test_one_of_a_user_is_in_all_of_a_run(loop, tmp_path):
    module = loop.scripted(
        lambda kind, problem, index, call: (SOLUTIONS if kind == "solution" else METAS)[index],
        quantities=[PassRate(), runpy.run_path(str(EXAMPLE))["Steps"]()],
        prompts=PromptTemplates(solution="S:{problem}", meta="steps?{problem}"),
        meta_reward_weights={"steps": 3, "difficulty": 0},
        num_generations=4,
    )
    problems, teacher = [loop.problem("1+1"), loop.problem("1+1", name="again")], Examples(batch_size=1)
    recorder = loop.fit(module, loop.Problems(problems, batch_size=1), teacher, CalibrationPlots(dirpath=str(tmp_path)))
    metas, logged = recorder.groups[0][0].metas, recorder.metrics[0]
    assert module.tokenizer.decode(metas[0].prompt_ids, skip_special_tokens=True) == "steps?1+1"
    assert [r.prediction.values for r in metas] == [{"pass_rate": 4, "steps": 3}, {"pass_rate": 8, "steps": 1}]
    assert [r.rewards for r in metas] == [{"steps": 1.0}, {"steps": pytest.approx(1 / 3)}]
    assert logged["meta/rewards/steps/mean"] == pytest.approx(2 / 3) == logged["meta/reward"]
    assert "meta/rewards/difficulty/mean" not in logged
    names = ("count", "predicted_mean", "actual_mean", "in_range")
    assert [logged[f"calibration/steps/{name}"] for name in names] == [1, 2, 3, 1]
    assert [logged[f"calibration/pass_rate/{name}"] for name in names[:3]] == [1, 0.75, 0.5]
    (path,) = tmp_path.glob("train_steps_over_steps_*.png")
    assert path.stat().st_size > 1000
    ((prompt, target, _),) = teacher.seen
    assert prompt == metas[0].prompt_ids
    assert module.tokenizer.decode(target, skip_special_tokens=True) == METAS[0]
    assert logged["sft/examples"] == 1
