"""Dynamic sampling, the overlong penalty and masked truncation, in the loop on scripted rollouts."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from masa_lightning.functional.rewards import soft_overlong_penalty
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.rollouts.refill import ProblemReserve, training_problems
from masa_lightning.settings import Algorithm
from masa_lightning.types import Problem

DAPO = Algorithm(dynamic_sampling=True, max_refills=2)
PROBLEMS = [Problem(id=f"{kind}{i}", problem=f"{kind}{i}", answer="2") for i in range(4) for kind in ("easy", "open")]


def script(kind, text, index, call):
    """Rollouts of "easy" problems are all right, the first of three of the others."""
    if kind == "meta":
        return "nothing"
    return f"\\boxed{{{2 if text.startswith('easy') or index == 0 else 0}}}"


def is_open(group):
    return group.problem.id.startswith("open")


# -- dynamic sampling --------------------------------------------------------------------------------------------------


def test_places_without_variance_are_refilled(loop):
    module = loop.scripted(script, GRPOLightningModule, algorithm=DAPO)
    recorder = loop.fit(module, loop.Problems(PROBLEMS, batch_size=4), max_steps=1)
    groups, metrics = recorder.groups[0], recorder.metrics[0]
    drawn = [g.problem.id for g in groups]
    assert len(drawn) == len(set(drawn))
    assert metrics["prompts/refilled"] == len(groups) - 4 > 0
    easy = sum(not is_open(g) for g in groups[:4])
    assert len(groups) <= 4 + 2 * easy
    assert [g.teaches for g in groups] == [is_open(g) for g in groups]
    trained = sum(r.length for g in groups if is_open(g) for r in g.solutions)
    assert metrics["tokens/trained"] == trained
    assert metrics["tokens/solution"] == sum(r.length for g in groups for r in g.solutions)
    assert metrics["tokens_total/solution"] == metrics["tokens/solution"]


def test_the_update_is_that_of_the_problems_that_teach(loop):
    """Two open and two easy problems, nothing to refill with: the loss of the two alone, whatever the others' length."""

    def weights(problems, algorithm):
        module = loop.scripted(script, loop.SGD, algorithm=algorithm, learning_rate=0.1)
        loop.fit(module, loop.Problems(problems, batch_size=len(problems)))
        return loop.weights(module)

    mixed = [p for p in PROBLEMS if p.id[-1] in "01"]
    alone = [p for p in mixed if p.id.startswith("open")]
    plain, diluted = weights(alone, Algorithm()), weights(mixed, Algorithm())
    filtered = weights(mixed, Algorithm(dynamic_sampling=True))
    for name, weight in plain.items():
        assert torch.allclose(filtered[name], weight, atol=1e-6), name
    assert max((diluted[name] - weight).abs().max() for name, weight in plain.items()) > 1e-4


def test_refilling_is_bounded(loop):
    easy = [p for p in PROBLEMS if p.id.startswith("easy")]
    many = [Problem(id=f"e{i}", problem=f"easy{i}", answer="2") for i in range(40)]
    for problems, most in ((easy, 4), (many, 6)):  # all there are; two refills of two places
        module = loop.scripted(script, GRPOLightningModule, algorithm=DAPO)
        recorder = loop.fit(module, loop.Problems(problems, batch_size=2), max_steps=1)
        assert len(recorder.groups[0]) == most
        assert recorder.metrics[0]["tokens/trained"] == 0
        assert not loop.changed(loop.weights(), loop.weights(module))


def test_metas_of_a_problem_without_variance_are_trained_on(loop):
    def script_with_metas(kind, text, index, call):
        return script(kind, text, index, call) if kind == "solution" else f'{{"pass_rate":{index}}}'

    module = loop.scripted(script_with_metas, algorithm=Algorithm(dynamic_sampling=True, max_refills=0))
    recorder = loop.fit(module, loop.Problems(PROBLEMS[:1], batch_size=1))
    metas = sum(r.length for r in recorder.groups[0][0].metas)
    assert recorder.metrics[0]["tokens/trained"] == metas > 0
    assert loop.changed(loop.weights(), loop.weights(module))


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_refills_go_on_where_a_checkpoint_was_written(loop, tmp_path):
    def ids(recorder):
        return [[g.problem.id for g in groups] for groups in recorder.groups]

    def run(folder, checkpoint=None):
        recorder = loop.Recorder()
        saver = ModelCheckpoint(dirpath=tmp_path / folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
        settings = {"max_steps": 8, "max_epochs": -1, "limit_val_batches": 0, "enable_checkpointing": True}
        trainer = loop.trainer(recorder, saver, **settings)
        module = loop.scripted(script, GRPOLightningModule, algorithm=DAPO)
        trainer.fit(module, loop.Problems(PROBLEMS, batch_size=2), ckpt_path=checkpoint)
        return ids(recorder)

    whole = run("whole")
    assert any(len(step) > 2 for step in whole[5:])
    assert run("resumed", tmp_path / "whole" / "step=5.ckpt") == whole[5:]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_refills_are_of_the_data_at_hand(loop, tmp_path):
    """A module that is trained once more, as in a curriculum; and one that goes on from an earlier checkpoint."""
    settings = {"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0}
    module = loop.scripted(script, GRPOLightningModule, algorithm=DAPO)
    first = loop.fit(module, loop.Problems(PROBLEMS, batch_size=2), **settings)
    first.trainer.save_checkpoint(tmp_path / "first.ckpt")
    others = [Problem(id=f"{p.id}B", problem=p.problem, answer=p.answer) for p in PROBLEMS]
    second = loop.fit(module, loop.Problems(others, batch_size=2), **settings)
    assert any(len(groups) > 2 for groups in second.groups)
    assert {g.problem.id[-1] for groups in second.groups for g in groups} == {"B"}

    def went_on(module):
        recorder = loop.Recorder()
        trainer = loop.trainer(recorder, **settings | {"max_steps": 4})
        trainer.fit(module, loop.Problems(PROBLEMS, batch_size=2), ckpt_path=tmp_path / "first.ckpt")
        return [[g.problem.id for g in groups] for groups in recorder.groups]

    assert went_on(module) == went_on(loop.scripted(script, GRPOLightningModule, algorithm=DAPO))


def test_the_reserve():
    reserve = ProblemReserve(lambda: PROBLEMS, seed=0)
    first = [p.id for p in reserve.draw(3)]
    assert len(set(first)) == 3
    rest = [p.id for p in reserve.draw(5)]
    assert {*first, *rest} == {p.id for p in PROBLEMS}  # an epoch is a permutation
    assert [p.id for p in ProblemReserve(lambda: PROBLEMS, seed=0).draw(3)] == first
    assert [p.id for p in ProblemReserve(lambda: PROBLEMS, seed=1).draw(8)] != first + rest
    assert {p.id for p in reserve.draw(99, without={"easy0"})} == {p.id for p in PROBLEMS} - {"easy0"}


def test_where_the_reserve_comes_from(loop):
    assert training_problems(DataLoader(PROBLEMS, collate_fn=list)) == PROBLEMS
    for loader in ([], DataLoader(["text"]), iter(PROBLEMS)):
        with pytest.raises(TypeError, match="found none in the training loader"):
            training_problems(loader)


# -- length ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (80, 0), (81, -0.05), (90, -0.5), (100, -1), (500, -1)])
def test_penalty_by_hand(length, expected):
    assert soft_overlong_penalty(length, 100, 20) == pytest.approx(expected)


def test_penalty_out_of_range():
    for buffer in (0, 101):
        with pytest.raises(ValueError, match=f"buffer is {buffer}"):
            soft_overlong_penalty(1, 100, buffer)


def lengths(kind, text, index, call):
    """Rollouts of 10, 14 and 12 tokens, the last one cut short."""
    return ("\\boxed{0}", "xxxx\\boxed{2}", ("xxx\\boxed{0}", "length"))[index]


def test_the_penalty_is_taken_off_the_reward_and_makes_no_variance(loop):
    algorithm = Algorithm(overlong_buffer=10, dynamic_sampling=True, max_refills=0)
    module = loop.scripted(lengths, GRPOLightningModule, algorithm=algorithm, max_completion_length=20)
    recorder = loop.fit(module, loop.Problems([loop.problem("a"), loop.problem("b", "7")], batch_size=2))
    groups = {g.problem.id: g for g in recorder.groups[0]}
    assert [r.reward for r in groups["a"].solutions] == pytest.approx([0, 1 - 0.4, -0.2])
    assert recorder.metrics[0]["rewards/overlong/mean"] == pytest.approx(-0.2)
    assert groups["a"].teaches
    assert not groups["b"].teaches


def test_truncated_completions_leave_the_loss_and_stay_in_the_statistics(loop):
    algorithm = Algorithm(mask_truncated_completions=True)
    module = loop.scripted(lengths, GRPOLightningModule, algorithm=algorithm)
    recorder = loop.fit(module, loop.Problems([loop.problem("a")], batch_size=1))
    assert recorder.metrics[0]["tokens/trained"] == 10 + 14
    first, _, cut = recorder.groups[0][0].solutions
    assert first.advantage == cut.advantage == pytest.approx(-1 / 3 / (1 / 3) ** 0.5, rel=1e-4)


def test_bad_settings(loop):
    with pytest.raises(ValueError, match="max_refills is -1"):
        Algorithm(max_refills=-1)
    with pytest.raises(ValueError, match="overlong_buffer is 9; expected at most max_completion_length = 8"):
        loop.module(algorithm=Algorithm(overlong_buffer=9))
