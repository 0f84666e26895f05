"""scripts/benchmark.py: one real measurement, and the table."""

import importlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("benchmark")


def test_the_command_writes_what_it_measures_and_prints_the_table(benchmark, monkeypatch, capsys, tmp_path):
    """The one measurement without an engine, of smaller tensors; in a process of its own, whose peak of memory is small."""
    words = ["benchmark.py", str(tmp_path), "--worker", "memory"]
    script = f"import benchmark, sys; benchmark.HEAD = (1024, 64, 8192); sys.argv = {words}; benchmark.main()"
    subprocess.run([sys.executable, "-c", script], cwd=SCRIPTS, check=True, timeout=200)
    rows = json.loads((tmp_path / "memory.json").read_text())
    assert [row["ratio"] > 0 for row in rows[:2]] == [True, True]
    assert rows[2]["value"] > 0
    monkeypatch.setattr(sys, "argv", ["benchmark.py", str(tmp_path), "--only", "memory"])
    benchmark.main()
    assert capsys.readouterr().out == benchmark.table(rows) + "\n"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", str(tmp_path), "--only", "sampling"])
    with pytest.raises(SystemExit):
        benchmark.main()
    said = capsys.readouterr().err
    assert all(f"{name!r}" in said or name in said for name in benchmark.MEASUREMENTS)


@pytest.mark.slow
def test_a_measurement_is_written_printed_and_not_repeated(tmp_path):
    pytest.importorskip("vllm")
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), str(tmp_path), "--only", "update", "--rounds", "1"]
    command += ["--update-tokens", "500", "--", "--data.init_args.batch_size=2"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr + (tmp_path / "update.log").read_text()
    rows = json.loads((tmp_path / "update.json").read_text())
    assert all(math.isfinite(row["ratio"]) and row["ratio"] > 0 for row in rows[:2])
    whole, computed, batches = rows[3]["value"]
    assert computed < whole  # prompts are shared
    assert batches >= 1
    assert first.stdout.count("\n") == 2 + len(rows)
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.stdout == first.stdout


def test_table(benchmark):
    ratio = benchmark.row("speed", "tokens/s", [(10.0, 5.0), (9.0, 3.0), (8.0, 8.0)], "bare", ">= 1")
    cost = {"what": "cost", "value": {4: 0.5, 8: 1234.5}}
    assert benchmark.table([ratio, cost]).splitlines()[2:] == [
        "| speed, tokens/s | 9, 5 | bare | 2 [1, 3] | >= 1 |",
        "| cost | 4: 0.5, 8: 1234 |  |  |  |",
    ]


STEPS = """
import benchmark_turns

turn = benchmark_turns.Turn()
for length in range(9):
    turn.begin()
    print("what a library prints")
    turn.end(length)
"""


def test_a_training_makes_a_step_when_it_is_its_turn(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    turns = importlib.import_module("benchmark_turns")
    with turns.Training([sys.executable, "-c", STEPS], {**os.environ, "PYTHONPATH": str(SCRIPTS)}) as training:
        steps = [training.step(), training.step()]
    assert [step["mean_length"] for step in steps] == [0, 1]
    assert all(step["seconds"] >= 0 and step["cpu"] >= 0 for step in steps)
    assert training.process.returncode is not None
    ends = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(SystemExit, match="ended with status 3"), turns.Training(ends, os.environ) as training:
        training.hear()


def test_busy_processes_end_with_who_started_them():
    """Also where it is killed: they would slow down all that is measured from then on."""
    code = "import benchmark_turns, os, time\n"
    code += "with benchmark_turns.busy(2) as pids: print(*pids, flush=True); time.sleep(200)"
    started = subprocess.Popen([sys.executable, "-c", code], cwd=SCRIPTS, stdout=subprocess.PIPE, text=True)
    pids = started.stdout.readline().split()
    assert len(pids) == 2
    started.kill()
    started.communicate()
    while any(_runs(pid) for pid in pids):  # the test's own limit ends it
        time.sleep(0.1)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
