import copy
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys

import pytest
import two_processes
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from masa_lightning.distributed import Processes, announce, collect, cut, fetch, imbalance, move, share, without_texts
from masa_lightning.rollouts.plan import merge_batches
from masa_lightning.types import Completion, Elsewhere, Problem, Rollout, RolloutGroup


def test_one_process_does_everything():
    alone = Processes(0, 1)
    with pytest.raises(RuntimeError, match=r"^closed by peer$"), alone.together():
        raise RuntimeError("closed by peer")
    assert alone.gather("x") == ["x"]
    assert alone.concatenate([1, 2]) == [1, 2]
    assert alone.part([3.0, 1.0]) == slice(0, 2)
    assert alone.exchange(["x"]) == ["x"]
    drawn = Completion(token_ids=[5, 6], logprobs=[-0.1, -0.2], finish_reason="stop")
    assert announce([drawn], ["text"], alone) == [(drawn, "text", None)]
    rollout = Rollout(kind="solution", prompt_ids=[1], completion=drawn, text="text")
    move([rollout], [0], alone)
    assert list(collect([rollout], id, alone)) == [id(rollout)]
    assert fetch([rollout], [0], alone)[0] is rollout
    assert (rollout.holder, rollout.completion is drawn, rollout.is_here) == (None, True, True)
    assert share([rollout], lambda r: r.text, alone) == ["text"]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 6))
def test_runs_are_fair_and_leave_nothing_out(costs, count):
    runs = cut(costs, count)
    assert len(runs) == count
    assert [cost for run in runs for cost in costs[run]] == costs
    for run in runs:
        assert abs(sum(costs[run]) - sum(costs) / count) <= max(costs, default=0)


def test_work_that_costs_nothing_is_dealt_by_number():
    assert cut([0, 0, 0, 0], 2) == [slice(0, 2), slice(2, 4)]


def test_imbalance():
    """Processes wait for each other twice: 3 + 4 instead of 2 + 2."""
    assert imbalance([[1, 3], [4, 0]]) == 7 / 4
    assert imbalance([[2, 2]]) == 1
    assert math.isnan(imbalance([[0, 0]]))


def test_batches_merge_as_they_were_dealt():
    problems = [Problem(id=str(i), problem="?", answer="1") for i in range(5)]
    dealt = [problems[rank::3] for rank in range(3)]
    assert merge_batches(dealt) == problems
    assert merge_batches([[], problems[:1]]) == problems[:1]
    with pytest.raises(TypeError, match="collate_fn=list"):
        merge_batches([problems, {"problem": ["?"]}])


USES = {
    "read": str,
    "shown": "{}".format,
    "compared": lambda text: text == "",
    "asked for a part": lambda text: "7" in text,
    "cut": lambda text: text[:2],
    "walked": list,
    "searched": lambda text: re.search("7", text),
    "stripped": lambda text: text.strip(),
    "joined": lambda text: "".join(["a", text]),
    "added": lambda text: "a" + text,
    "counted": len,
    "written": json.dumps,
    "in a set": lambda text: {text},
    "as truth": bool,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_text_that_is_elsewhere_is_never_taken_for_one(use):
    with pytest.raises((RuntimeError, TypeError), match=r"process 3 has the text|Elsewhere"):
        use(Elsewhere("text", 3))


def test_of_tokens_that_are_elsewhere_the_number_is_known():
    tokens = Elsewhere("tokens", 3, 17)
    for same in (tokens, copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens))):
        assert len(same) == 17
        assert repr(same) == "<tokens in process 3>"
        with pytest.raises(RuntimeError, match=r"process 3 has the tokens of this rollout, and this one has not"):
            same[0]
    completion = Completion(token_ids=tokens, logprobs=Elsewhere("log-probabilities", 3), finish_reason="stop")
    rollout = Rollout(kind="solution", prompt_ids=[1], completion=completion, text=Elsewhere("text", 3), holder=3)
    assert (rollout.length, rollout.is_here) == (17, False)


def test_what_other_processes_know_of_a_rollout():
    drawn = Completion(token_ids=[5, 6], logprobs=[-0.1, -0.2], finish_reason="length")
    whole = Rollout(kind="solution", prompt_ids=[1], completion=drawn, text="text", correct=True, reward=0.5)
    known = pickle.loads(pickle.dumps(without_texts(whole, holder=2)))
    assert (known.correct, known.reward, known.length, known.completion.finish_reason) == (True, 0.5, 2, "length")
    assert (known.holder, known.is_here, repr(known.text)) == (2, False, "<text in process 2>")
    assert (whole.holder, whole.is_here, whole.text) == (None, True, "text")


def test_a_group_has_one_holder_once_it_is_scored():
    def rollout(holder):
        completion = Completion(token_ids=[1], logprobs=[], finish_reason="stop")
        return Rollout(kind="solution", prompt_ids=[1], completion=completion, text="", holder=holder)

    problem = Problem(id="p7", problem="?", answer="1")
    assert RolloutGroup(problem=problem).holder is None
    assert RolloutGroup(problem=problem, solutions=[rollout(1)], metas=[rollout(1)]).holder == 1
    with pytest.raises(RuntimeError, match=r"processes \{0, 1\} have rollouts of problem 'p7'; expected one"):
        _ = RolloutGroup(problem=problem, solutions=[rollout(0), rollout(1)]).holder


def _rollouts(dice):
    """What one process would have drawn: tokens, log-probabilities that float32 has, and texts of any letters."""
    rollouts = []
    for i in range(dice.randrange(20)):
        length = dice.choice([0, 1, 7, 300])
        ids = [dice.randrange(2**31) for _ in range(length)]
        logprobs = [-dice.randrange(2**20) / 2**16 for _ in range(length * dice.randrange(2))]
        completion = Completion(token_ids=ids, logprobs=logprobs, finish_reason=dice.choice(["stop", "length"]))
        rollouts.append(
            Rollout(
                kind="solution", prompt_ids=[i], completion=completion, text=dice.choice(["", "Zwölf\ud800", "x" * 999])
            )
        )
    return rollouts


def _plain(rollout):
    c = rollout.completion
    return list(c.token_ids), list(c.logprobs), c.finish_reason, rollout.text


def _travel(processes):
    """Rollouts go from process to process, whoever draws them and whoever wants them, and stay what they are."""
    for case in range(60):
        dice = random.Random(case)
        expected = _rollouts(dice)
        wholes = [_plain(r) for r in expected]
        part = cut([dice.random() for _ in expected], processes.size)
        mine = expected[part[processes.rank]]
        drawn = announce([r.completion for r in mine], [r.text for r in mine], processes)
        rollouts = [
            Rollout(kind=r.kind, prompt_ids=r.prompt_ids, completion=c, text=text, holder=holder)
            for r, (c, text, holder) in zip(expected, drawn, strict=True)
        ]
        assert [r.length for r in rollouts] == [r.length for r in expected]
        assert [r.completion.finish_reason for r in rollouts] == [r.completion.finish_reason for r in expected]
        for _ in range(2):
            assert [r.is_here for r in rollouts] == [r.holder == processes.rank for r in rollouts]
            assert share(rollouts, _plain, processes) == wholes
            takers = [dice.randrange(processes.size) for _ in rollouts]
            for with_text in (True, False):
                lent = fetch(rollouts, takers, processes, with_text=with_text)
                for rollout, taker, got, whole in zip(rollouts, takers, lent, wholes, strict=True):
                    if taker != processes.rank or rollout.holder == taker:
                        assert got is rollout
                    elif with_text:
                        assert _plain(got) == whole
                    else:
                        assert (list(got.completion.token_ids), list(got.completion.logprobs)) == whole[:2]
                        assert isinstance(got.text, Elsewhere)
            homes = [dice.randrange(processes.size) for _ in rollouts]
            move(rollouts, homes, processes)
            assert [r.holder for r in rollouts] == homes
        for _ in range(2):
            assert list(collect(rollouts, _plain, processes)) == (wholes if processes.rank == 0 else [])
            rollouts = rollouts[::-1]
            wholes = wholes[::-1]


def _work(rank, folder, ends):
    store = distributed.FileStore(str(folder / "store"), 3)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=3)
    processes = Processes(rank, 3)
    assert processes.gather(10 * rank) == [0, 10, 20]
    assert processes.concatenate(range(rank)) == [0, 0, 1]
    assert processes.exchange([(rank, to) for to in range(3)]) == [(sender, rank) for sender in range(3)]
    if not ends:
        _travel(processes)
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), processes.together():
        raise RuntimeError("shapes differ")
    assert processes.part([1.0, 1.0, 1.0]) == slice(rank, rank + 1)
    if ends:
        if rank == 1:
            os._exit(0)  # at once: at a normal exit gloo's threads, still connected, abort the process now and then
        with pytest.raises(RuntimeError, match="another process of this run has ended"), processes.together():
            for _ in range(100):
                processes.gather(rank)
    else:
        distributed.barrier()
    (folder / f"done-{rank}").touch()
    distributed.destroy_process_group()


@pytest.mark.parametrize("ends", [False, True], ids=["together", "one ends early"])
def test_real_processes(tmp_path, ends, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    before = distributed.is_initialized()  # an engine of an earlier test leaves a group
    two_processes.start(3, _work, tmp_path, ends)
    assert {path.name for path in tmp_path.glob("done-*")} == {
        f"done-{rank}" for rank in range(3) if not ends or rank != 1
    }
    assert distributed.is_initialized() == before


def test_without_lightning_there_is_a_first_process_that_warns() -> None:
    """As in a script with VLLMSampler alone: the warning was an error."""
    script = (
        "import sys; from masa_lightning.distributed import rank_zero_warn; rank_zero_warn('as said'); "
        "assert 'lightning.pytorch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "UserWarning: as said" in done.stderr
