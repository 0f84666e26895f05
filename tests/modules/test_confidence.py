"""Solutions that state how sure they are: asked, read, rewarded, calibrated and drawn; and nothing of it where it is off."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from training_loop import Loop, Problems

from masa_lightning import BenchmarkReport, CalibrationPlots, PredictionWriter, RolloutTable, StatedConfidence
from masa_lightning.functional.parsing import read_integer
from masa_lightning.functional.prompts import PromptTemplates, Question
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.quantities import Notions, Quantity
from masa_lightning.report.records import read_records
from masa_lightning.settings import Algorithm, Evaluation
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup

TWO = [Problem(id=n, problem=n, answer="2") for n in "ab"]
SURE = StatedConfidence(instruction="?")
# Right and sure, wrong and sure, right and silent; a right one is "\boxed{2}".
SAID = [r"\boxed{2}<confidence>0.75</confidence>", r"\boxed{3}<confidence>50%</confidence>", r"\boxed{2}"]
EARNED = [1 - 0.25**2, -(0.5**2), 1 - 1.0]


def script(kind: str, text: str, index: int, call: int) -> str:
    if kind == "meta":
        return f'</meta>{{"math_notion": ["x"], "pass_rate": {4 * index}, "solution_length": 9}}'
    return SAID[index]


def scripted(loop: Any, kind: Any = GRPOLightningModule, **settings: Any) -> Any:
    return loop.scripted(script, kind, **({"confidence": SURE} | settings))


def test_a_notion_is_not_found_in_the_tag() -> None:
    """Or "confidence" would be a notion of all that state theirs."""
    completion = Completion(token_ids=[1], logprobs=[0.0], finish_reason="stop")
    texts = ["by sums <confidence>0.8</confidence>", "by products"]
    solutions = [
        Rollout(kind="solution", prompt_ids=[1], completion=completion, text=text, correct=not index)
        for index, text in enumerate(texts)
    ]
    for rollout in solutions:
        rollout.prediction = SURE.read(rollout.text)
    group = RolloutGroup(problem=Problem(id="p", problem="p", answer="1"), solutions=solutions)
    assert Notions().reward(("sums",), group) == 1
    assert Notions().reward(("confidence",), group) == 0


# -- what it earns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GRPOLightningModule, MASALightningModule])
def test_it_is_read_rewarded_and_calibrated(loop: Any, kind: Any) -> None:
    recorder = loop.fit(scripted(loop, kind), loop.Problems(TWO))
    group, metrics = recorder.groups[0][0], recorder.metrics[0]
    assert [r.reward for r in group.solutions] == pytest.approx(EARNED)
    assert [r.rewards for r in group.solutions] == [
        {"correct": 1.0, "confidence": -0.0625},
        {"correct": 0.0, "confidence": -0.25},
        {"correct": 1.0, "confidence": -1.0},
    ]
    assert metrics["reward"] == pytest.approx(sum(EARNED) / 3)
    assert metrics["rewards/confidence/mean"] == pytest.approx(-(0.0625 + 0.25 + 1) / 3)
    assert metrics["confidence/parse_rate"] == pytest.approx(2 / 3)
    assert metrics["confidence/failures/missing"] == pytest.approx(1 / 3)
    assert sum(v for n, v in metrics.items() if n.startswith("confidence/failures/")) == pytest.approx(1 / 3)
    assert metrics["calibration/confidence/brier"] == pytest.approx((0.0625 + 0.25) / 2)
    assert metrics["calibration/confidence/auroc"] == 1
    assert metrics["calibration/confidence/count"] == 2  # problems
    assert metrics["calibration/confidence/mae"] == pytest.approx(0.625 - 0.5)
    assert metrics["pass_rate"] == pytest.approx(2 / 3)  # which the confidence does not touch
    spread = torch.tensor(EARNED, dtype=torch.float64).std().item()
    mean = sum(EARNED) / 3
    expected = [(reward - mean) / (spread + 1e-4) for reward in EARNED]
    assert [r.advantage for r in group.solutions] == pytest.approx(expected, rel=1e-3)
    if kind is MASALightningModule:  # predictions are of correctness: .5 against 2 of 3
        assert group.metas[1].rewards["difficulty"] == pytest.approx(0.01 ** (2 / 3 - 0.5))
        assert metrics["calibration/pass_rate/mae"] == pytest.approx(2 / 3 - 0.25)


def test_it_is_one_with_correctness_where_rewards_are_normalised_apart(loop: Any) -> None:
    apart = Algorithm(multi_objective_aggregation="normalize_then_sum", overlong_buffer=4)
    module = scripted(loop, algorithm=apart, reward_functions=[lambda completion: 1.0])
    assert module.objectives()["solution"] == [(1.0, ("correct", "confidence", "overlong")), (1.0, ("lambda",))]
    group = loop.fit(module, loop.Problems(TWO)).groups[0][0]
    assert group.solutions[0].advantage > 0 > group.solutions[1].advantage


def test_equal_verdicts_teach_by_their_confidences(loop: Any) -> None:
    """DAPO keeps a group whose rewards differ: all right, and not all as sure."""
    said = [f"\\boxed{{2}}<confidence>{q}</confidence>" for q in (0.5, 0.6, 0.7)]
    given = {"algorithm": Algorithm(dynamic_sampling=True, max_refills=0), "confidence": SURE}
    module = loop.scripted(lambda kind, text, index, call: said[index], GRPOLightningModule, **given)
    recorder = loop.fit(module, loop.Problems(TWO))
    assert [g.teaches for g in recorder.groups[0]] == [True, True]
    assert recorder.metrics[0]["tokens/trained"] > 0


def test_reward_functions_may_ask_for_it(loop: Any) -> None:
    seen: list[Any] = []

    def bold(confidence: float | None, correct: bool) -> float:
        seen.append((confidence, correct))
        return 0.0

    async def each(problem: Problem, confidences: list[float | None]) -> list[float]:
        seen.append(confidences)
        return [0.0] * len(confidences)

    loop.fit(scripted(loop, reward_functions=[bold, each]), loop.Problems(TWO[:1], batch_size=1))
    assert [each for each in seen if isinstance(each, tuple)] == [(0.75, True), (0.5, False), (None, True)]
    assert [each for each in seen if isinstance(each, list)] == [[0.75, 0.5, None]]
    seen.clear()

    async def whether(problem: Problem, completions: list[str], confidences: list[float | None] | None = None) -> Any:
        return await each(problem, confidences or [])

    loop.fit(scripted(loop, reward_functions=[whether], confidence=None), loop.Problems(TWO[:1], batch_size=1))
    assert seen == [[None] * 3]  # nobody was asked


def test_the_verdict_does_not_hang_on_the_tag(loop: Any) -> None:
    said = [r"\boxed 2 <confidence>1</confidence>", r"\boxed{2}<confidence>\boxed{9}</confidence>", r"\boxed{3}"]
    module = loop.scripted(lambda kind, text, index, call: said[index], GRPOLightningModule, confidence=SURE)
    recorder = loop.fit(module, loop.Problems(TWO))
    group = recorder.groups[0][0]
    assert group.correct == [True, True, False]
    assert [r.prediction.failures for r in group.solutions] == [
        {}, {"confidence": "not_a_number"}, {"confidence": "missing"}
    ]  # fmt: skip


# -- how it is asked -----------------------------------------------------------------------------------------------------


def test_solutions_are_asked_and_predictions_are_not(loop: Any) -> None:
    prompts = PromptTemplates(solution="S:{problem}", meta="M:{problem}", system="You.")
    module = loop.module(confidence=SURE, prompts=prompts, max_prompt_length=64)
    loop.fit(module, loop.Problems(TWO[:1], batch_size=1))
    asked = {module.tokenizer.decode(r.prompt_ids) for r in module.sampler.calls[0][0]}
    assert sorted("? " in text or "?" in text for text in asked) == [False, True]
    assert module.chats()["solution"](loop_group())[-1]["content"] == "S:p ?"
    assert module.chats()["solution"](loop_group())[0] == {"role": "system", "content": "You."}
    assert module.chats()["meta"](loop_group())[-1]["content"] == "M:p"


def loop_group() -> Any:
    from masa_lightning.types import RolloutGroup

    return RolloutGroup(problem=Problem(id="p", problem="p", answer="2"))


def test_the_default_asks_for_what_is_read() -> None:
    (message,) = StatedConfidence().ask([{"role": "user", "content": "Solve."}])
    assert message["content"].startswith("Solve. Then say how likely it is that your answer is right")
    assert "from 0 to 1 between <confidence> and </confidence>" in message["content"]
    assert StatedConfidence(instruction="").ask([message]) == [message]


# -- what is off is off ----------------------------------------------------------------------------------------------------


def test_nothing_changes_where_it_is_off(loop: Any) -> None:
    """Without the part, tags are text like any other: no name of it is logged, and a bare box before one is no answer."""
    said = r"\boxed 2 <confidence>0.75</confidence>"
    module = loop.scripted(lambda kind, text, index, call: said if index else r"\boxed{2}", GRPOLightningModule)
    recorder = loop.fit(module, loop.Problems(TWO))
    assert not any("confidence" in name for name in recorder.metrics[0])
    assert recorder.groups[0][0].correct == [True, False, False]
    assert all(r.prediction is None for r in recorder.groups[0][0].solutions)
    assert not hasattr(module, "calibration")
    assert module.quantities is None


class Clash(Quantity):
    key = "confidence"

    def ask(self, budget: int) -> Question:
        return Question(self.key, "how sure", "<integer>")

    def read(self, value: Any) -> int:
        return read_integer(value)

    def reward(self, predicted: Any, group: Any) -> float:
        return 0.0

    def truth(self, predicted: Any, group: Any) -> int:
        return 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"confidence": True}, TypeError, r"confidence is True; expected an object of StatedConfidence, such as Stated"),
        ({"confidence": StatedConfidence}, TypeError, "confidence is the class StatedConfidence, not an object of it"),
        ({"quantities": [Clash()]}, ValueError, "a quantity has the key 'confidence', which is that of the confidence"),
        ({"reward_functions": [type("C", (), {"name": "confidence", "__call__": lambda s, completion: 0.0})()]}, ValueError,
         "has the name 'confidence', which is the name of another part of rewards"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_when_it_is_made(loop: Any, settings: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        loop.module(**({"confidence": SURE} | settings))
    with pytest.raises(ValueError, match="instruction of StatedConfidence is 3; expected a text"):
        StatedConfidence(instruction=3)  # type: ignore[arg-type]


# -- evaluation, files and pictures ---------------------------------------------------------------------------------------


def test_a_test_reports_it_by_benchmark_and_is_resumed(loop: Any, tmp_path: Path) -> None:
    problems = [Problem(id=n, problem=n, answer="2", source="one" if n in "ab" else "two") for n in "abc"]
    settings = {"evaluation": Evaluation(num_generations=3, num_meta_generations=2)}

    def tested(**more: Any) -> dict[str, Any]:
        module = scripted(loop, MASALightningModule, **settings, **more)
        trainer = loop.trainer(loop.Recorder(), BenchmarkReport(str(tmp_path)))
        trainer.test(module, loop.Problems(validation=problems), verbose=False)
        return {b["name"]: b["metrics"] for b in json.loads((tmp_path / "results.json").read_text())["benchmarks"]}

    first = tested()
    for metrics, count in ((first["one"], 2), (first["two"], 1)):
        assert metrics["calibration/confidence/count"] == count
        assert metrics["calibration/confidence/brier"] == pytest.approx((0.0625 + 0.25) / 2)
        assert metrics["confidence/parse_rate"] == pytest.approx(2 / 3)
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {f"one_{name}.png" for name in ("confidence_scatter", "confidence_reliability", "self_knowledge")} <= drawn
    assert "confidence: Brier" in (tmp_path / "results.md").read_text()
    lines = (tmp_path / "rollouts.jsonl").read_text().splitlines()
    (tmp_path / "rollouts.jsonl").write_text("\n".join(lines[:5]) + "\n")  # killed behind the first problem
    assert json.dumps(tested(), sort_keys=True) == json.dumps(first, sort_keys=True)
    with pytest.raises(ValueError, match=r"other settings \(confidence\): confidence was '\?' and is '!'"):
        tested(confidence=StatedConfidence(instruction="!"))

    (evaluated,), _ = read_records(tmp_path)
    assert evaluated.problems[0].compared["confidence"] == [(0.75, 1.0), (0.5, 0.0)]


@pytest.mark.parametrize("kind", [GRPOLightningModule, MASALightningModule])
def test_it_is_drawn_beside_predictions(loop: Any, kind: Any, tmp_path: Path) -> None:
    settings = {"evaluation": Evaluation(num_generations=3, num_meta_generations=2)}
    module = scripted(loop, kind, **settings)
    callbacks = CalibrationPlots(), RolloutTable()
    loop.fit(
        module,
        loop.Problems(4, validation=2, batch_size=2),
        *callbacks,
        default_root_dir=tmp_path,
        val_check_interval=1,
    )
    drawn = {path.name for path in tmp_path.rglob("*.png")}
    expected = {"validate_confidence_scatter_step000001.png", "validate_confidence_reliability_step000002.png",
                "train_confidence_over_steps_step000002.png"}  # fmt: skip
    assert expected <= drawn
    assert ("validate_self_knowledge_step000002.png" in drawn) is (kind is MASALightningModule)


def test_votes_and_predict_read_the_answer_without_the_tag(loop: Any, tmp_path: Path) -> None:
    said = [r"\boxed 2 <confidence>0.75</confidence>", r"\boxed{2}", r"\boxed{3}<confidence>\boxed{2}</confidence>"]

    def answers(kind: str, text: str, index: int, call: int) -> str:
        return script(kind, text, index, call) if kind == "meta" else said[index]

    settings = {"evaluation": Evaluation(num_generations=3, num_meta_generations=2, solve=True), "confidence": SURE}
    module = loop.scripted(answers, MASALightningModule, **settings)
    trainer = loop.trainer(PredictionWriter(dirpath=str(tmp_path)))
    trainer.predict(module, loop.Problems(validation=[Problem(id="a", problem="a", answer="2")]).val_dataloader())
    solved = json.loads((tmp_path / "predictions.jsonl").read_text())["solved"]
    assert (solved["answer"], solved["votes"], solved["correct"]) == ("2", 2, True)
    assert solved["confidences"] == [0.75, None, None]


def test_a_checkpoint_makes_it_again(loop: Any, tmp_path: Path) -> None:
    module = scripted(loop)
    recorder = loop.fit(module, loop.Problems(TWO))
    recorder.trainer.save_checkpoint(tmp_path / "a.ckpt")
    made = GRPOLightningModule.load_from_checkpoint(tmp_path / "a.ckpt", sampler=loop.Spy())
    assert made.confidence.instruction == "?"
    assert made.scorer.parts == ["correct", "confidence"]


# -- several processes -----------------------------------------------------------------------------------------------------


def train(checkpoint: Path, processes: int, **trainer: Any) -> dict[str, float]:
    loop = Loop(checkpoint)
    module = loop.scripted(_by_problem, MASALightningModule, confidence=SURE)
    data = Problems([Problem(id=n, problem=n, answer="2") for n in "abcd"], batch_size=4 // processes)
    recorder = loop.fit(module, data, devices=processes, **trainer)
    return {name: value for name, value in recorder.metrics[0].items() if "confidence" in name and value == value}


def _by_problem(kind: str, text: str, index: int, call: int) -> str:
    if kind == "meta":
        return script(kind, text, index, call)
    return f"\\boxed{{{2 + index // 2}}}<confidence>0.{1 + 2 * 'abcd'.index(text[0]) + index}</confidence>"


def _work(rank: int, folder: Path, checkpoint: Path) -> None:
    (folder / f"{rank}.json").write_text(json.dumps(train(checkpoint, 2, strategy=two_processes.strategy("ddp"))))


def test_two_processes_calibrate_as_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    two_processes.run(_work, tmp_path, tiny_checkpoint)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    alone = train(tiny_checkpoint, 1)
    assert first == second == pytest.approx(alone)
    stated = [(0.1 * (1 + 2 * p + i), float(i < 2)) for p in range(4) for i in range(3)]
    assert alone["calibration/confidence/brier"] == pytest.approx(sum((q - y) ** 2 for q, y in stated) / 12)
    assert not any(math.isnan(value) for value in alone.values())
