import copy
import os
import pickle
import sys

import pytest

from masa_lightning.grading import worker_pool
from masa_lightning.grading.math_grader import MathGrader
from masa_lightning.protocols import Grader
from masa_lightning.types import Problem

# Speaks the protocol without the maths checker: what the box says is what it does.
FAKE = """
import json, os, sys, time
{start}
print(json.dumps(dict(ready=True)), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    box = task["box"]
    if "hang" in box: time.sleep(600)
    if "die" in box: os._exit(1)
    if "garbage" in box: print("[1]\\n{{}}\\nnoise {{", flush=True); print(json.dumps(dict(id=-5, correct=False)))
    if "flood" in box:
        while True: sys.stdout.write("x" * 65536)
    if "once" in box:
        with open(box.split("@")[1], "a") as file: file.write("x")
    print(json.dumps(dict(id=task["id"], correct="wrong" not in box)), flush=True)
    if "last" in box: os._exit(0)
"""


@pytest.fixture
def fake(monkeypatch):
    def use(start=""):
        monkeypatch.setattr(worker_pool, "worker_command", lambda: [sys.executable, "-c", FAKE.format(start=start)])

    use()
    return use


@pytest.fixture
def make():
    made = []

    def new(**kwargs):
        made.append(MathGrader(**kwargs))
        return made[-1]

    yield new
    for grader in made:
        grader.close()


class Clock:
    """In the place of `time` where workers are watched: goes on by itself while nothing is waited for but what it is told.

    Otherwise it stands still, so that no answer is late because a machine is slow.

    Args:
        grader: Whose workers they are.
        due: Whether to go on, by those workers.
        seconds: At each look.
    """

    def __init__(self, monkeypatch, grader, due, seconds):
        self.now, self.grader, self.due, self.seconds = 0.0, grader, due, seconds
        monkeypatch.setattr(worker_pool, "time", self)

    def monotonic(self):
        workers = [] if self.grader._pool is None else self.grader._pool.workers
        if workers and self.due(workers):
            self.now += self.seconds
        return self.now


def only_hanging(workers):
    busy = [worker.task.box for worker in workers if worker.task is not None]
    return busy and all("hang" in box for box in busy)


def run(grader, boxes, answers=None, on_progress=None):
    answers = answers or ["\\sqrt{x+1}"] * len(boxes)
    problems = [Problem(id=str(i), problem="?", answer=answer) for i, answer in enumerate(answers)]
    return grader.grade(problems, [f"\\boxed{{{box}}}" for box in boxes], on_progress)


def processes(grader):
    return [worker.process for worker in grader._pool.workers]


@pytest.mark.timeout(120)
def test_real_workers_and_a_hostile_expression(make):
    grader = make(workers=2, timeout=60.0)
    assert isinstance(grader, Grader)
    boxes = ["5", "\\sqrt{4}", "9^{9^{9^{9^{9}}}}", "\\sqrt{9}", "6", "(x+1)^2"]
    answers = ["5", "2", "7", "4", "5", "x^2+2x+1"]
    assert run(grader, boxes, answers) == [True, True, False, False, False, True]
    assert run(grader, ["\\sqrt{16}"], ["4"]) == [True]


def test_quick_answers_need_no_worker(make, monkeypatch):
    monkeypatch.setattr(worker_pool, "worker_command", lambda: pytest.fail("a worker was started"))
    assert run(make(), ["5", "6"], ["5", "5"]) == [True, False]
    assert run(make(), []) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("trouble", ["hang", "die", "flood"])
def test_trouble_costs_one_verdict(trouble, fake, make, monkeypatch):
    boxes = [f"y+{i}" for i in range(6)]
    boxes[1] = f"y+{trouble}"
    boxes[4] = "y+wrong"
    expected = [True, None, True, True, False, True]
    for workers in (1, 3):
        grader = make(workers=workers, timeout=0.05)
        Clock(monkeypatch, grader, only_hanging, 0.05)
        assert run(grader, boxes) == expected


@pytest.mark.timeout(120)
def test_all_answers_hang(fake, make):
    assert run(make(workers=3, timeout=0.1), [f"hang+{i}" for i in range(5)]) == [None] * 5


@pytest.mark.timeout(120)
def test_garbage_on_stdout_is_passed_over(fake, make):
    assert run(make(workers=1), ["y+garbage", "wrong+garbage", "y+1"]) == [True, False, True]


@pytest.mark.timeout(120)
def test_worker_that_died_while_idle_is_replaced(fake, make):
    grader = make(workers=1)
    assert run(grader, ["y+last"]) == [True]
    grader._pool.workers[0].process.wait(timeout=30)
    assert run(grader, ["y+2", "y+wrong"]) == [True, False]


@pytest.mark.timeout(120)
def test_equal_pairs_are_graded_once(fake, make, tmp_path):
    log = tmp_path / "log"
    box = f"once@{log}@"
    told = []
    assert run(make(), [box, "y+1", box, box], on_progress=lambda *args: told.append(args)) == [True] * 4
    assert log.read_text() == "x"
    assert told[-1] == (4, 4)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("start", "says"),
    [("raise SystemExit('no sympy here')", "no sympy here"), ("os._exit(7)", "exit status 7")],
)
def test_workers_that_cannot_start(start, says, fake, make):
    fake(start)
    with pytest.raises(RuntimeError, match=f"(?s){says}.*pip install") as error:
        run(make(), ["y+1", "y+2"])
    assert sys.executable in str(error.value)


def test_python_that_is_not_there(make, monkeypatch):
    monkeypatch.setattr(worker_pool, "worker_command", lambda: ["/no/such/python"])
    with pytest.raises(RuntimeError, match="/no/such/python"):
        run(make(), ["y+1"])


@pytest.mark.timeout(120)
def test_worker_that_never_gets_ready(fake, make, monkeypatch):
    fake("time.sleep(600)")
    monkeypatch.setattr(worker_pool, "_START_LIMIT", 0.3)
    with pytest.raises(RuntimeError, match=r"not ready after 0\.3 s"):
        run(make(workers=1), ["y+1"])


@pytest.mark.timeout(120)
def test_starting_does_not_count_against_the_limit(fake, make, monkeypatch):
    grader = make(workers=1, timeout=1.0)
    clock = Clock(monkeypatch, grader, lambda workers: clock.now < 100 and not workers[0].ready, 100.0)
    assert run(grader, ["y+1"]) == [True]
    assert clock.now == 100


@pytest.mark.timeout(120)
def test_interrupt_ends_the_workers_and_the_grader_goes_on(fake, make):
    grader = make(workers=1)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(grader, ["y+1", "y+2"], on_progress=interrupt)
    assert grader._pool is None
    assert run(grader, ["y+wrong"]) == [False]


@pytest.mark.timeout(120)
def test_close_copy_and_pickle(fake, make):
    grader = make(workers=1, timeout=2.5)
    assert run(grader, ["y+1"]) == [True]
    (process,) = processes(grader)
    for twin in (copy.deepcopy(grader), pickle.loads(pickle.dumps(grader))):
        assert (twin.workers, twin.timeout, twin._pool) == (1, 2.5, None)
    assert process.poll() is None
    grader.close()
    grader.close()
    assert process.poll() is not None
    assert run(grader, ["y+1"]) == [True]


@pytest.mark.timeout(120)
def test_collected_grader_ends_its_workers(fake):
    grader = MathGrader(workers=1)
    assert run(grader, ["y+1"]) == [True]
    (process,) = processes(grader)
    del grader
    assert process.poll() is not None


@pytest.mark.timeout(120)
def test_workers_end_with_their_input(make):
    grader = make(workers=1)
    assert run(grader, ["\\sqrt{4}"], ["2"]) == [True]
    (process,) = processes(grader)
    process.stdin.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_leaves_the_parents_workers_alone(fake, make):
    grader = make(workers=1)
    assert run(grader, ["y+1"]) == [True]
    (worker,) = processes(grader)
    child = os.fork()
    if child == 0:
        try:
            grader.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert run(grader, ["y+wrong"]) == [False]
    assert processes(grader)[0].pid == worker.pid


def test_arguments(make):
    for workers in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"workers is {workers}; expected"):
            MathGrader(workers=workers)
    for timeout in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout is"):
            MathGrader(timeout=timeout)
    with pytest.raises(ValueError, match="got 1 problems and 0 completions"):
        make().grade([Problem(id="", problem="", answer="5")], [])
