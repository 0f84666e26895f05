"""The record of a rollout: it is read back as it was written, whatever a model wrote; one run's file stays its own."""

import json
import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.callbacks._rollout_file import (
    VERSION,
    RolloutFile,
    TrainingRolloutFile,
    to_line,
    to_record,
    to_rollout,
)
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

TEXTS = st.text(st.characters(exclude_categories=()))
TEXTS |= st.sampled_from(["\ud800", "\u2028\n\r", "\x00", "a" * 300_000, '"}\n{'])
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def rollout(kind="solution", text="t", **values):
    completion = Completion(token_ids=array("I", [1, 2, 2**31]), logprobs=(), finish_reason="stop")
    return Rollout(kind=kind, prompt_ids=[], completion=completion, text=text, **values)


def group(*solutions, name="a"):
    return RolloutGroup(problem=Problem(id=name, problem="p", answer="1"), solutions=list(solutions))


def same(a, b):
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


@given(TEXTS, st.none() | FLOATS, st.dictionaries(TEXTS, FLOATS, max_size=2), FLOATS, st.integers(1, 10**4000), TEXTS)
def test_hostile_contents_are_read_back_as_they_were(text, reward, rewards, advantage, length, notion):
    prediction = MetaPrediction(pass_rate=3, solution_length=length, notions=(notion,), failures={notion: text})
    written = rollout(
        text=text,
        reward=reward,
        rewards=rewards,
        advantage=advantage,
        correct=True,
        ungraded=True,
        prediction=prediction,
    )
    line = to_line(group(written), written, step=3)
    assert line.isascii()
    assert line.index("\n") == len(line) - 1
    read = to_rollout(to_record(line.encode()))
    assert read.completion.token_ids == written.completion.token_ids
    assert (read.text, read.prediction, read.correct, read.ungraded) == (text, prediction, True, True)
    assert same(read.reward, reward)
    assert same(read.advantage, advantage)
    assert read.rewards.keys() == rewards.keys()
    assert all(same(read.rewards[name], value) for name, value in rewards.items())


def test_training_and_test_write_the_same_record(tmp_path):
    written = rollout(reward=1.0)
    training, tested = TrainingRolloutFile(tmp_path / "train.jsonl"), RolloutFile(tmp_path / "test.jsonl")
    training.append(4, [(group(written), written)])
    tested.append([to_line(group(written), written)])
    ours, theirs = (json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("train", "test"))
    assert (ours.pop("step"), theirs.pop("step")) == (4, None)
    assert ours == theirs
    assert ours["version"] == VERSION


def test_the_first_rollout_of_a_group_says_how_it_was_drawn():
    solutions = [rollout(), rollout()]
    written = group(*solutions)
    found = [json.loads(to_line(written, each, settings={"temperature": 0.5})) for each in solutions]
    assert [each.get("settings") for each in found] == [{"temperature": 0.5}, None]


def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    record = json.loads(to_line(group(rollout()), rollout()))
    path.write_text(json.dumps(record | {"version": 99}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .*found version 99, expected 1.*give another folder"):
        RolloutFile(path)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("tail", ["", '{"version": 1, "st', "nonsense\n"])
def test_a_resumed_run_takes_up_its_file_at_its_checkpoint(tmp_path, tail):
    path = tmp_path / "train.jsonl"
    file = TrainingRolloutFile(path)
    for step in (1, 1, 11, 21):
        file.append(step, [(group(rollout()), rollout())])
    path.write_text(path.read_text() + tail)
    assert file.begin(step=20) is None
    assert steps(path) == [1, 1, 11]
    assert file.begin(step=11) is None
    assert steps(path) == [1, 1, 11]


def test_an_interrupted_line_goes(tmp_path):
    path = tmp_path / "train.jsonl"
    file = TrainingRolloutFile(path)
    file.append(1, [(group(rollout()), rollout())])
    path.write_text(path.read_text() + '{"version": 1')
    assert file.begin(step=5) is None
    assert steps(path) == [1]


def test_what_is_not_this_runs_is_kept_under_another_name(tmp_path):
    path = tmp_path / "train.jsonl"
    file = TrainingRolloutFile(path)
    assert file.begin(step=None) is None
    file.append(1, [(group(rollout()), rollout())])
    assert file.begin(step=None) == tmp_path / "train-1.jsonl"
    path.write_text("of an earlier version\nand more\n")
    assert file.begin(step=3) == tmp_path / "train-2.jsonl"
    assert not path.exists()
    assert steps(tmp_path / "train-1.jsonl") == [1]
