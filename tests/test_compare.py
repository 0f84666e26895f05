"""scripts/compare.py: metrics by hand, runs that are killed, fail or are there already, the page, and one real run."""

from __future__ import annotations

import fcntl
import importlib
import json
import random
import re
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI

from masa_lightning.cli.words import arguments
from masa_lightning.data.arithmetic import draw_arithmetic
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.report.records import Evaluated, ProblemRecord
from masa_lightning.report.runs import Run

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def part(name):
    return importlib.import_module(f"comparison.{name}")


def problem(name, verdicts, rates=()):
    return ProblemRecord(source="s", id=name, problem=name, answer="1", verdicts=verdicts, rates=list(rates))


def result(arm, seed, val, *, tokens=100.0, seconds=1.0, tested=0.5, problems=(), **scalars):
    """Four steps of so many tokens and seconds each, validated before the first and behind the second and the fourth."""
    series = {
        "tokens/trained": dict.fromkeys(range(1, 5), 1.0),
        "tokens/solution": dict.fromkeys(range(1, 5), tokens * 0.75),
        "tokens/meta": dict.fromkeys(range(1, 5), tokens * 0.25),
        "timing_s/step": dict.fromkeys(range(1, 5), seconds),
        "val/pass@1": dict(zip((0, 2, 4), val, strict=True)),
        "test/pass@1": {4: tested},
    }
    series |= {name.replace("__", "/"): values for name, values in scalars.items()}
    evaluated = [Evaluated(stage="test", step=4, problems=list(problems))] if problems else []
    run = Run(name=arm, scalars=series, settings={}, settings_file="", evaluated=evaluated, benchmarks=[], notes=[])
    return part("metrics").Result(arm, seed, run, {})


def test_curves_are_interpolated_and_say_when_a_level_is_reached():
    metrics = part("metrics")
    curve = [(0.0, 0.2), (100.0, 0.4), (200.0, 0.3)]
    assert metrics.at(curve, 50.0) == pytest.approx(0.3)
    assert metrics.at(curve, 200.0) == 0.3
    assert metrics.at(curve, 201.0) is None  # nobody knows
    assert metrics.reached(curve, 0.35) == pytest.approx(75.0)
    assert metrics.reached(curve, 0.2) == 0.0
    assert metrics.reached(curve, 0.5) is None


def test_equal_tokens_seconds_and_the_time_to_the_same_accuracy():
    metrics = part("metrics")
    dear = result("masa", 0, (0.2, 0.5, 0.6), tokens=150.0, seconds=1.0)
    cheap = result("grpo", 0, (0.2, 0.3, 0.5), tokens=100.0, seconds=2.0)
    assert dear.curve("tokens") == [(0.0, 0.2), (300.0, 0.5), (600.0, 0.6)]
    # grpo drew 400 tokens; masa was then a third of the way from .5 to .6.
    assert metrics.gain_at_equal("tokens")(dear, cheap) == pytest.approx(0.5 + 0.1 / 3 - 0.5)
    # masa took 4 s; grpo was then at .3.
    assert metrics.gain_at_equal("seconds")(dear, cheap) == pytest.approx(0.3)
    assert metrics.relative_cost("tokens")(dear, cheap) == pytest.approx(0.5)
    assert metrics.relative_cost("seconds")(dear, cheap) == pytest.approx(-0.5)
    # grpo has its last .5 after 8 s and 400 tokens, masa after 2 s and 300.
    assert metrics.sooner("seconds")(dear, cheap) == pytest.approx(4.0)
    assert metrics.sooner("tokens")(dear, cheap) == pytest.approx(4 / 3)
    slow = result("x", 0, (0.1, 0.2, 0.3), tokens=200.0)
    assert metrics.sooner("tokens")(slow, cheap) == pytest.approx(0.5)  # never: all its 800 tokens against 400
    assert (metrics.has_it(slow, cheap), metrics.has_it(dear, cheap)) == (0.0, 1.0)


def test_after_the_start_is_from_the_first_act_on():
    metrics = part("metrics")
    acted = result("efficient", 0, (0, 0, 0), controls__gating__acted_share={1: 0.0, 2: 0.0, 3: 0.5, 4: 0.25})
    acted.run.scalars["tokens/solution"] |= {3: 25.0, 4: 50.0}
    plain = result("masa", 0, (0, 0, 0))
    assert acted.start == 2
    assert plain.start is None
    assert metrics.relative_cost("tokens", after_start=True)(acted, plain) == pytest.approx(
        (25 + 50 + 2 * 25) / 200 - 1
    )
    assert metrics.relative_cost("tokens", after_start=True)(plain, acted) is None
    assert acted.acting_mean("gating", "acted_share") == pytest.approx(0.375)


def test_differences_are_of_runs_of_one_seed():
    metrics = part("metrics")
    one = {seed: result("masa", seed, (0, 0, 0), tested=t) for seed, t in {0: 0.5, 1: 0.7, 2: 0.9, 5: 0.1}.items()}
    two = {seed: result("grpo", seed, (0, 0, 0), tested=t) for seed, t in {0: 0.4, 1: 0.5, 2: 0.6, 7: 0.9}.items()}
    found = metrics.paired(one, two, metrics.difference(lambda r: r.run.last("test/pass@1")))
    assert found.n == 3
    assert found.value == pytest.approx(0.2)
    half = 4.3027 * 0.1 / 3**0.5  # Student's t of two degrees; the deviation of .1, .2, .3 is .1
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-5)


def test_bootstrap_over_problems_pairs_them_and_keeps_seeds_apart():
    metrics = part("metrics")
    right, wrong = [True, True], [False, False]
    one = {0: result("a", 0, (0, 0, 0), problems=[problem("x", right), problem("y", wrong), problem("z", right)])}
    two = {0: result("b", 0, (0, 0, 0), problems=[problem("y", wrong), problem("x", wrong)])}
    found = metrics.over_problems(one, two)
    assert (found.value, found.n) == (0.5, 2)  # x: 1 - 0, y: 0 - 0
    assert (found.low, found.high) == (0.0, 1.0)
    same = metrics.over_problems(one, one)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert metrics.over_problems(one, {0: result("b", 0, (0, 0, 0))}) is None


def test_gating_of_tested_problems():
    problems = [
        problem("a", [False] * 4, [0.0, 0.0]),  # hopeless, and it is
        problem("b", [True] * 4, [1.0, 1.0]),  # trivial, and it is
        problem("c", [True, False, False, False], [0.0, 0.0]),  # hopeless, wrongly
        problem("d", [True] * 4, [0.5, 0.5]),  # missed
        problem("e", [True, True, False, False], [0.5, 0.5]),
    ]
    found = part("metrics").gate_on_test(result("a", 0, (0, 0, 0), problems=problems), max_std=0.1, margin=0.1)
    assert found == pytest.approx(
        {
            "precision": 2 / 3,
            "recall": 2 / 3,
            "share": 3 / 5,
            "lost_correct": 0.25 / (1 + 0.25 + 1 + 0.5),
            "lost_signal": 0.1875 / (0.1875 + 0.25),
        }
    )


@pytest.mark.parametrize("seed", range(20))
def test_problems_are_read_off_their_text(seed):
    task = draw_arithmetic(random.Random(seed))
    assert part("metrics").task_of(task.text) == task
    assert part("metrics").task_of(task.text + " Or not?") is None


def test_what_gating_finds_of_a_tier():
    problems = [
        problem("Compute max(95,32).", [True] * 4, [1.0, 1.0]),
        problem("Compute max(1,2).", [True] * 4, [0.5, 0.5]),
        problem("Compute max(1,3).", [True, False], [0.5, 0.5]),  # teaches something
        problem("Compute 354 mod 7.", [True] * 4, [1.0, 1.0]),  # open
        problem("Compute 103*475.", [False] * 4, []),  # hopeless, predicted nothing
    ]
    rule = {"max_std": 0.1, "margin": 0.1}
    tested = result("a", 0, (0, 0, 0), problems=problems)
    found = part("metrics").found_on_test
    assert found(tested, "trivial", 1.0, **rule) == pytest.approx({"share": 2 / 4, "predicted": 0.75, "found": 1 / 2})
    assert found(tested, "hopeless", 0.0, **rule) == pytest.approx({"share": 1 / 4, "found": 0.0})
    assert found(tested, "trivial", 0.0, **rule) == {"share": 0.0}


def with_texts(text, notions, solutions):
    """A problem whose predictions name these notions, and the solutions drawn of it."""
    found = problem(text, [False] * len(solutions))
    found.rollouts = [{"kind": "meta", "notions": named, "text": ""} for named in notions]
    found.rollouts += [{"kind": "solution", "notions": [], "text": solution} for solution in solutions]
    return found


def test_whether_notions_were_learned():
    problems = [
        # A remainder by 7 is for long division, one by 9 for a digit sum; the other two are not open.
        with_texts("Compute 354 mod 7.", [["long division"], []], ["use long division. 35", "use digit sum. 3+5"]),
        with_texts("Compute 354 mod 9.", [["digit sum", "parity"], ["digit sum"]], ["use digit sum. 3+5=8."] * 2),
        with_texts("Compute 103*475.", [["rounding"]], ["use rounding. 100"]),
        with_texts("Compute max(95,32).", [["comparison"]], ["use comparison. so"]),
        with_texts("Compute 355 mod 9.", [["digit sum"]], []),  # nobody solved it
        with_texts("Compute 356 mod 9.", [], ["use digit sum. 3+5"]),  # nobody predicted it
    ]
    metrics, tables = part("metrics"), part("tables")
    untrained, trained = (
        Evaluated(stage=stage, step=step, problems=problems) for stage, step in (("validate", 0), ("test", 4))
    )
    found = metrics.right_strategies(trained)
    assert found == pytest.approx({"named": (0.5 + 1) / 2, "used": (0.5 + 1) / 2, "r": 1.0})
    assert metrics.right_strategies(Evaluated(stage="test", step=4, problems=problems[2:])) == {}
    one = result("grpo", 0, (0, 0, 0))
    one.run.evaluated += [untrained, trained]
    lines = tables.strategies({"grpo": {0: one}, "efficient": {0: one}}).splitlines()
    assert lines[2:] == ["| before training | 1 | 0.75 | 0.75 | 1.00 |", "| `grpo` | 1 | 0.75 | 0.75 | 1.00 |"]
    assert tables.strategies({"efficient": {0: one}}) == ""


def test_seconds_beside_other_work_are_not_known():
    metrics, tables, page = part("metrics"), part("tables"), part("page")
    alone, beside = result("grpo", 0, (0.2, 0.3, 0.5)), result("masa", 0, (0.2, 0.4, 0.6), tokens=120.0, seconds=900.0)
    beside.is_timed = False
    assert beside.spent("seconds") is None
    assert (alone.spent("seconds"), beside.spent("tokens")) == (4.0, 480.0)
    assert beside.curve("seconds") == []
    for one, two in ((alone, beside), (beside, alone)):
        for cost, known in (("seconds", False), ("tokens", True)):
            metric = (metrics.gain_at_equal(cost), metrics.relative_cost(cost), metrics.sooner(cost))
            assert [of(one, two) is not None for of in metric] == [known] * 3
    both = {"grpo": {0: alone}, "masa": {0: beside}}
    seconds = [line.split(" | ")[-1] for line in tables.overview(both).splitlines()]
    assert seconds == ["seconds |", "--- |", "4 |", "\N{EN DASH} |"]
    text = page.text(both, part("runs").read_arms(), "command\nanother")
    assert "\n    command\n    another\n" in text
    assert "* No seconds are known of arms that shared the machine with other work: `masa`.\n" in text
    beside.is_timed = True
    assert "No seconds" not in page.text(both, part("runs").read_arms(), "command")


def test_seconds_are_of_the_steps_in_which_it_acts():
    acted = {1: 0.0, 2: 0.0, 3: 0.5, 4: 0.25}
    seconds = {1: 9.0, 2: 9.0, 3: 1.0, 4: 2.0}
    arms = {
        "grpo": {0: result("grpo", 0, (0, 0, 0), timing_s__generate=seconds)},
        "efficient": {0: result("efficient", 0, (0, 0, 0), controls__gating__acted_share=acted)},
    }
    head, _, grpo, efficient = part("tables").phases(arms).splitlines()
    assert head.split("|")[4].strip() == "generate (s)"
    assert grpo.split("|")[2:5] == [" 75 ", " 25 ", " 1.50 "]
    assert efficient.split("|")[4].strip() == part("tables").NONE
    assert part("tables").phases({"grpo": arms["grpo"]}) == ""


def test_shapley_values_of_the_eight_arms():
    shapley = part("shapley")
    # Notions are worth .06, alone or not; the pass rate takes .02 from them; the length does nothing.
    worth = {"grpo": 0.0, "masa": 0.04, "notion_alone": 0.06, "difficulty_alone": 0.0, "length_alone": 0.0}
    worth |= {"without_notion": 0.0, "without_difficulty": 0.06, "without_length": 0.04}
    results = {arm: {3: result(arm, 3, (0, 0, 0), tested=0.5 + gain)} for arm, gain in worth.items()}
    found = shapley.shapley_by_seed(results, lambda r: r.run.last("test/pass@1"))
    assert found[3] == pytest.approx({"notion": 0.05, "difficulty": -0.01, "length": 0.0})
    del results["length_alone"]
    assert shapley.shapley_by_seed(results, lambda r: 0.0) == {}


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.02, 0.01, 0.03, "yes"),
        (0.02, -0.01, 0.05, "not shown"),
        (-0.02, -0.1, 0.1, "no"),
        (0.1, None, None, "not shown"),
    ],
)
def test_a_goal_holds_where_its_whole_interval_meets_it(value, low, high, verdict):
    goals, estimate = part("goals"), part("metrics").Estimate
    assert goals.Goal(what="x", found=estimate(value, low, high, 3), least=0).verdict == verdict
    assert goals.Goal(what="x", found=None, least=0).verdict == "not measured"


def test_arms_are_layers_and_compared_with_arms(tmp_path):
    runs = part("runs")
    arms = runs.read_arms()
    assert list(arms)[:3] == ["grpo", "masa", "efficient"]
    assert arms["grpo"].layers[:2] == ("--config", "tiny")
    assert arms["grpo"].layers[-2:] == ("--config", "with/grpo")
    assert json.loads(arms["masa"].layers[-1])["trainer"]["callbacks+"][0]["init_args"]["mode"] == "shadow"
    order = [(arm.name, seed) for arm, seed in runs.in_order(arms.values(), [0, 1])]
    assert order[:3] == [("grpo", 0), ("masa", 0), ("efficient", 0)]
    assert order.index(("efficient", 1)) < order.index(("masa_sft", 0)) == order.index(("masa_sft", 1)) - 1
    assert len(order) == 2 * len(arms)

    file = tmp_path / "arms.yaml"
    one = {"says": "one", "against": ["none"]}
    file.write_text(yaml.safe_dump({"base": "tiny", "common": {}, "arms": {"one": one}}))
    with pytest.raises(ValueError, match=r"arm one is compared with \['none'\]"):
        runs.read_arms(file)
    file.write_text(yaml.safe_dump({"base": "tiny", "common": {}, "arms": {"one": {"says": "one", "setings": {}}}}))
    with pytest.raises(ValueError, match=r"arm one has \['setings'\]; expected keys among"):
        runs.read_arms(file)


@pytest.mark.slow
def test_every_arm_is_a_configuration(tmp_path, monkeypatch):
    """Two seconds each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["masa"])
    for arm in part("runs").read_arms().values():
        cli = LightningCLI(
            GRPOLightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, run=False,
            save_config_callback=None, args=arguments(["fit", *arm.layers])[1:],
        )  # fmt: skip
        steps = cli.datamodule.sizes["train"] // cli.datamodule.batch_size * cli.trainer.max_epochs
        assert steps == 32, arm.name


def test_an_unknown_arm_is_refused(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("compare").main(["run", "somewhere", "--arms", "masa", "mosa"])
    assert "'mosa' (choose from" in capsys.readouterr().err


STAND_IN = """
    # Leaves what `masa fit` and `masa test` leave, four steps; may die on the way, by a file that says so.
    import json, os, signal, sys
    from pathlib import Path
    import yaml

    command, *words = sys.argv[1:]
    layers = [json.loads(w) for w in words if w.startswith("{")]
    own = layers[-1]
    logger = own["trainer"]["logger"]["init_args"]
    run = Path(logger["save_dir"], logger["name"])
    with open(os.environ["CALLS"], "a") as file:
        print(command, logger["save_dir"].rpartition("/")[2], logger["name"], words[-1].rpartition("/")[2], file=file)
    plan = Path(os.environ["CALLS"]).with_name(f"{command}-{logger['name']}")
    does = plan.read_text() if plan.exists() else ""
    plan.unlink(missing_ok=True)
    if does == "fails":
        sys.exit(3)
    run.mkdir(parents=True, exist_ok=True)
    rows = ["step,tokens/trained,tokens/solution,tokens/meta,timing_s/step,val/pass@1,test/pass@1"]
    rows += [f"{s},10,{75 + own['seed_everything']},25,1.0,," for s in range(1, 3 if does == "is killed" else 5)]
    rows += ["0,,,,,0.2,", "4,,,,,0.4,"] + (["4,,,,,,0.5"] if command == "test" else [])
    (run / "metrics.csv").write_text("\\n".join(rows))
    if command == "fit":
        settings = {"trainer": {"max_epochs": 1, "max_steps": -1},
                    "data": {"init_args": {"train_size": 8, "batch_size": 2, "seed": own["seed_everything"]}}}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        (run / "checkpoints").mkdir(exist_ok=True)
        (run / "checkpoints" / "last.ckpt").touch()
    if does == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A comparison of two arms whose runs are made in no time; `plan` says what happens to a call."""
    runs = part("runs")
    program = tmp_path / "stand_in.py"
    program.write_text(textwrap.dedent(STAND_IN))
    calls = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setattr(runs, "MASA", (sys.executable, str(program)))
    given = [
        runs.Arm(name="one", says="the first", layers=("--config", "tiny"), main=True),
        runs.Arm(name="two", says="the second", layers=("--config", "tiny"), against=("one",)),
    ]

    class StandIn:
        out = tmp_path / "out"
        arms = given

        def plan(self, command, name, does):
            (tmp_path / f"{command}-{name}").write_text(does)

        def run(self, seeds=(0, 1), extra=(), jobs=1):
            calls.unlink(missing_ok=True)
            comparison = runs.Comparison(self.out, extra)
            comparison.run(self.arms, seeds, jobs)
            return comparison, calls.read_text().splitlines() if calls.exists() else []

        def results(self):
            return part("metrics").read_results(self.out, self.arms)

    return StandIn()


def test_what_is_finished_is_not_run_again(stand_in):
    _, calls = stand_in.run()
    assert calls == [
        f"{command} seed{seed} {arm} {'last' if command == 'fit' else 'last.ckpt'}"
        for arm, seed in (("one", 0), ("one", 1), ("two", 0), ("two", 1))
        for command in ("fit", "test")
    ]
    assert stand_in.run()[1] == []
    results = stand_in.results()
    assert {arm: sorted(by_seed) for arm, by_seed in results.items()} == {"one": [0, 1], "two": [0, 1]}
    assert results["two"][1].spent("tokens") == 4 * 101  # each with its own seed

    (stand_in.out / "seed1" / "two" / "checkpoints" / "last.ckpt").unlink()
    assert sorted(stand_in.results()["two"]) == [0]
    assert stand_in.run(jobs=2)[1] == ["fit seed1 two last", "test seed1 two last.ckpt"]


def test_further_tests_stand_beside_the_run(stand_in):
    runs = part("runs")
    other = {"data": {"init_args": {"kinds": ["gcd"]}}}
    stand_in.arms = [runs.Arm(name="one", says="the first", layers=("--config", "tiny"), tests={"other kinds": other})]
    _, calls = stand_in.run(seeds=[0])
    assert calls == ["fit seed0 one last", "test seed0 one last.ckpt", "test seed0 one+other_kinds last.ckpt"]
    assert stand_in.run(seeds=[0])[1] == []
    results = stand_in.results()
    assert results["one"][0].tests["other kinds"].last("test/pass@1") == 0.5
    table = part("tables").further_tests(results, stand_in.arms)
    assert "| `one` | other kinds | 1 | 0.500 |" in table
    assert "| `one` | kinds of training | 1 | 0.500 |" in table
    assert "`two`" not in table

    stand_in.arms.append(
        runs.Arm(name="two", says="the second", layers=(), against=("one",), tests={"other kinds": other})
    )
    stand_in.run(seeds=[0])
    table = part("tables").further_tests(stand_in.results(), stand_in.arms)
    assert "| `two` - `one` | other kinds | 1 | +0.000 |" in table


def test_an_arm_may_start_from_a_model_that_is_made_once(stand_in, monkeypatch, tmp_path):
    """The words of its record do not name the folder, which may be moved with the runs."""
    runs = part("runs")
    scripts = tmp_path / "scripts"
    (scripts / "comparison").mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(scripts / "comparison" / "runs.py"))
    maker = """
        import os, sys
        from pathlib import Path

        with open(os.environ["CALLS"], "a") as file:
            print("make", Path(sys.argv[1]).name, file=file)
        if Path(sys.argv[0]).with_name("fails").exists():
            sys.exit(5)
        Path(sys.argv[1]).mkdir()
        (Path(sys.argv[1]) / "model.safetensors").touch()
    """
    (scripts / "teach.py").write_text(textwrap.dedent(maker))
    (scripts / "fails").touch()
    stand_in.arms = [
        runs.Arm(name=name, says="one", layers=("--config", "tiny"), start=start)
        for name, start in (("one", "teach"), ("two", "teach"), ("three", None))
    ]
    comparison, calls = stand_in.run(seeds=[0])
    assert comparison.failed == ["one, seed 0", "two, seed 0"]
    assert "fit seed0 three last" in calls
    (scripts / "fails").unlink()
    comparison, calls = stand_in.run(seeds=[0])
    assert not comparison.failed
    assert calls == [
        "make teach",
        "fit seed0 one last",
        "test seed0 one last.ckpt",
        "fit seed0 two last",
        "test seed0 two last.ckpt",
    ]
    assert runs.read_record(stand_in.out / "seed0" / "one")["words"] == ["--config", "tiny"]


# -- self-knowledge ----------------------------------------------------------------------------------------------------


def stating(name, pairs, rates=(), rollouts=()):
    record = problem(name, [bool(y) for _, y in pairs], rates)
    record.compared["confidence"] = list(pairs)
    record.rollouts = list(rollouts)
    return record


def test_both_kinds_of_self_knowledge_are_of_the_same_solutions():
    k, metrics = part("self_knowledge"), part("metrics")
    problems = [
        stating("a", [(0.9, 1.0), (0.1, 0.0)], [0.5, 0.3]),
        stating("b", [(0.8, 1.0)], [1.0]),
        stating("c", [(0.0, 0.0)], [0.25]),
        stating("d", [(0.5, 1.0)]),  # nothing was predicted
        problem("e", [True], [1.0]),  # nothing was stated
    ]
    run = {0: result("masa_rlcr", 0, (0, 0, 0), problems=problems)}
    (tested,) = k.tested_on(run, None)
    assert [list(p.rates) for p in tested] == [[0.5, 0.3], [1.0], [0.25], []]
    found = k.estimates([tested], draws=200)
    before, after = ({name: e.value for name, e in found[kind].items()} for kind in (k.BEFORE, k.AFTER))
    assert before["Brier"] == pytest.approx((0.25 + 0.25 + 0 + 0.0625) / 4)
    assert after["Brier"] == pytest.approx((0.01 + 0.01 + 0.04 + 0) / 4)
    assert before["AUROC"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)  # .5 and 1 of right ones, .5 and .25 of wrong ones
    assert after["AUROC"] == 1
    assert before["ECE"] == pytest.approx((0 + 0 + 0.25) / 4)
    assert after["ECE"] == pytest.approx((0.1 + 0.1 + 0.2 + 0) / 4)
    assert before["r over problems"] == pytest.approx(metrics.statistics.pearson([(0.5, 0.5), (1.0, 1.0), (0.25, 0.0)]))
    assert found[k.MEAN]["Brier"].value == pytest.approx((0.36 + 0.16 + 0 + 0.0625) / 4)
    less = found[k.LESS]["Brier"]
    assert less.value == pytest.approx(after["Brier"] - before["Brier"])
    assert less.low <= less.value <= less.high
    assert less.n == 3  # problems

    alone = k.estimates([[k.Answers([], [(0.5, 1.0), (0.5, 0.0)])]], draws=20)
    assert list(alone) == [k.AFTER]
    assert alone[k.AFTER]["Brier"].value == 0.25
    assert k.estimates([]) == {}


def test_what_statements_cost():
    k = part("self_knowledge")
    text = "use parity. so \\boxed{1} <confidence>0.8</confidence>"
    rollouts = [
        {"kind": "solution", "text": text, "tokens": 30.0},
        {"kind": "solution", "text": "nothing", "tokens": 10.0},
        {"kind": "meta", "text": "", "tokens": 18.0},
        {"kind": "meta", "text": "", "tokens": 22.0},
    ]
    lengths = {"completions__mean_length": dict.fromkeys(range(1, 5), 15.0)}
    stated = {"confidence__parse_rate": dict.fromkeys(range(1, 5), 0.5)}
    one = result("a", 0, (0, 0, 0), problems=[stating("a", [(0.8, 1.0)], [1.0], rollouts)], **lengths, **stated)
    each = k.tokens_each(one, k.AFTER)
    tokenizer = importlib.import_module("masa_lightning.models.loading").load_tokenizer("tiny")
    assert each == len(tokenizer(" <confidence>0.8</confidence>").input_ids) == 23
    assert k.tokens_each(one, k.BEFORE) == 20
    assert k.share_of_tokens(one, k.BEFORE) == pytest.approx(0.25)
    assert k.share_of_tokens(one, k.AFTER) == pytest.approx(each * 4 * (75 / 15) * 0.5 / 400)
    arms = [part("runs").Arm(name="a", says="", layers=())]
    table = part("tables").self_knowledge({"a": {0: one}}, arms)
    assert table.count("\n") == 5
    figure = part("pictures").both_kinds({"masa_rlcr": {0: one}})
    assert figure.axes[1].get_title(loc="left") == "After: ECE = 0.20, n = 1 solution of 1 problem"
    assert part("pictures").both_kinds({}) is None
    assert part("tables").self_knowledge({"a": {0: result("a", 0, (0, 0, 0))}}, arms) == ""


def test_a_killed_run_is_not_taken_for_finished_and_goes_on(stand_in, capsys):
    stand_in.plan("fit", "two", "is killed")
    comparison, calls = stand_in.run(seeds=[0])
    assert comparison.failed == ["two, seed 0"]
    assert "masa fit ended with status -9" in capsys.readouterr().err
    assert "test seed0 two last.ckpt" not in calls
    assert list(stand_in.results()) == ["one"]
    comparison, calls = stand_in.run(seeds=[0])
    assert calls == ["fit seed0 two last", "test seed0 two last.ckpt"]
    assert not comparison.failed
    assert list(stand_in.results()) == ["one", "two"]


def test_a_run_that_ends_well_with_too_few_steps_is_a_failure(stand_in, capsys):
    stand_in.run(seeds=[0])
    metrics = stand_in.out / "seed0" / "one" / "metrics.csv"
    metrics.write_text("\n".join(metrics.read_text().splitlines()[:3]))
    assert list(stand_in.results()) == ["two"]


def test_an_arm_that_fails_is_named_and_stops_no_other(stand_in, capsys):
    stand_in.plan("test", "one", "fails")
    comparison, calls = stand_in.run(seeds=[0])
    assert comparison.failed == ["one, seed 0"]
    assert "one, seed 0: masa test ended with status 3; see" in capsys.readouterr().err
    assert calls[-1] == "test seed0 two last.ckpt"
    assert stand_in.run(seeds=[0])[1] == ["test seed0 one last.ckpt"]


def test_a_run_that_another_process_still_makes_is_left_alone(stand_in, capsys):
    (stand_in.out / "seed0").mkdir(parents=True)
    with (stand_in.out / "seed0" / ".one.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        comparison, calls = stand_in.run(seeds=[0])
        assert comparison.failed == ["one, seed 0"]
        assert "one is being made by another process" in capsys.readouterr().err
        assert calls == ["fit seed0 two last", "test seed0 two last.ckpt"]
    assert not stand_in.run(seeds=[0])[0].failed


def test_the_page_says_the_commands_that_made_it():
    """Each arm with the seeds that it has, and the arms whose seconds count."""
    compare = importlib.import_module("compare")
    results = {"grpo": {0: None, 1: None}, "dapo": {0: None}, "masa": {1: None, 0: None}}
    args = compare._parser(["grpo", "masa", "dapo"]).parse_args(["page", "out", "page.md", "--timed", "grpo"])
    assert compare._commands(results, ["grpo", "masa", "dapo", "rlcr"], args).splitlines() == [
        "python scripts/compare.py run runs/compare --seeds 0 1 --arms grpo masa",
        "python scripts/compare.py run runs/compare --seeds 0 --arms dapo",
        "python scripts/compare.py page runs/compare page.md --timed grpo",
    ]
    args = compare._parser(["grpo"]).parse_args(["page", "out", "page.md"])
    assert compare._commands({"grpo": {3: None}}, ["grpo"], args).splitlines() == [
        "python scripts/compare.py run runs/compare --seeds 3",
        "python scripts/compare.py page runs/compare page.md",
    ]


def test_runs_of_other_settings_are_refused(stand_in, capsys):
    stand_in.run(seeds=[0])
    comparison, calls = stand_in.run(seeds=[0], extra=["--trainer.max_steps", "2"])
    assert calls == []
    assert comparison.failed == ["one, seed 0", "two, seed 0"]
    assert "was made with other settings" in capsys.readouterr().err


def test_the_page_has_what_was_run_and_keeps_what_was_written_by_hand(stand_in, tmp_path, capsys):
    stand_in.run()
    arms = {"one": part("runs").Arm(name="one", says="the first", layers=()), "two": part("runs").Arm(
        name="two", says="the second", layers=(), against=("one",)), "three": part("runs").Arm(
        name="three", says="the third", layers=())}  # fmt: skip
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("# Old\n\n<!-- by hand -->\nIt is small.\n<!-- end -->\n\nbygone\n")
    part("page").write_page(stand_in.results(), arms, page, "python scripts/compare.py run OUT")
    text = page.read_text()
    assert "It is small." in text
    assert "bygone" not in text
    assert "4 runs of 2 arms, seeds 0, 1; 4 training steps" in text
    assert "| `two` - `one` | 2 | +0.000 |" in text  # equal seeds tell nothing about others
    assert "Without runs here: `three`." in text
    cells = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in text.splitlines()]
    assert all(a == b for a, b in pairwise(cells) if a and b)  # a cell without a head is not shown


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_arms_for_real_one_of_them_killed(tmp_path):
    """Trains and tests GRPO and MASA-efficient for two steps each; the second is cut off once, and goes on."""
    pytest.importorskip("vllm")
    out, page = tmp_path / "out", tmp_path / "page.md"
    sizes = {"batch": 4, "validation": 8, "test": 8}
    command = [sys.executable, str(SCRIPTS / "compare.py"), "run", str(out), "--seeds", "0"]
    command += ["--arms", "grpo", "efficient", "--", "--trainer.max_steps", "2", "--trainer.val_check_interval", "1"]
    command += [f"--data.init_args.{name}_size={size}" for name, size in sizes.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "grpo: test took" in line:  # the next one begins
                process.send_signal(signal.SIGTERM)
                break
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    runs = part("runs")
    assert runs.is_tested(out / "seed0" / "grpo")
    assert not runs.is_trained(out / "seed0" / "efficient")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "grpo" not in again.stdout
    words = [sys.executable, str(SCRIPTS / "compare.py"), "page", str(out), str(page)]
    made = subprocess.run(words, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "| `efficient` - `grpo` | 1 |" in page.read_text()
    pictures = list((tmp_path / "pictures").iterdir())
    assert {"calibration.png", "cost.png", "progress.png"} <= {path.name for path in pictures}
    assert all(path.stat().st_size < 150_000 for path in pictures)
