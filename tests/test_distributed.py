import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from masa_lightning.distributed import Processes, cut, imbalance
from masa_lightning.rollouts.plan import merge_batches
from masa_lightning.types import Problem


def test_one_process_does_everything():
    alone = Processes(0, 1)
    with pytest.raises(RuntimeError, match=r"^closed by peer$"), alone.together():
        raise RuntimeError("closed by peer")
    assert alone.gather("x") == ["x"]
    assert alone.concatenate([1, 2]) == [1, 2]
    assert alone.part([3.0, 1.0]) == slice(0, 2)


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


def _work(rank, folder, ends):
    store = distributed.FileStore(str(folder / "store"), 3)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=3)
    processes = Processes(rank, 3)
    assert processes.gather(10 * rank) == [0, 10, 20]
    assert processes.concatenate(range(rank)) == [0, 0, 1]
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
    multiprocessing.spawn(_work, (tmp_path, ends), nprocs=3)
    assert {path.name for path in tmp_path.glob("done-*")} == {
        f"done-{rank}" for rank in range(3) if not ends or rank != 1
    }
    assert distributed.is_initialized() == before
