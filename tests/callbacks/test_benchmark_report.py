"""BenchmarkReport in real tests: its tables against figures worked out by hand, and what it takes up after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from rich.console import Console

from masa_lightning import BenchmarkReport, Evaluation, GRPOLightningModule, MathGrader, MetaSettings
from masa_lightning.callbacks._benchmark_table import markdown_table
from masa_lightning.modules.provenance import evaluation_settings
from masa_lightning.types import Completion, NumberAnswer, Problem

# Of each problem: what its four solutions answer; "2" is right.
ANSWERS = {"a": "2222", "b": "2233", "c": "2334", "d": "5555"}
RATES = {"a": (8, 8), "b": (4, 4), "c": (2, 2), "d": (0, 2)}


def script(kind: str, text: str, index: int, call: int) -> str:
    if kind == "meta":
        return f'</meta>{{"math_notion": ["x"], "pass_rate": {RATES[text][index]}, "solution_length": 9}}'
    return f"\\boxed{{{ANSWERS[text][index]}}}"


def problems(names: str = "abcd") -> list[Problem]:
    return [Problem(id=n, problem=n, answer="2", source="one" if n in "ab" else "two") for n in names]


@pytest.fixture
def module(loop: Any) -> Any:
    def make(**settings: Any) -> Any:
        settings.setdefault("evaluation", Evaluation(num_generations=4, num_meta_generations=2, pass_at=(2,)))
        return loop.scripted(script, **settings)

    return make


def run(loop: Any, module: Any, given: Sequence[Problem], folder: Path, **settings: Any) -> dict[str, Any]:
    """Tests, and returns results.json."""
    recorder = loop.Recorder()
    trainer = loop.trainer(recorder, BenchmarkReport(str(folder)), **settings)
    trainer.test(module, loop.Problems(validation=given), verbose=False)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    results["groups"] = recorder.tested
    results["logged"] = {k: v for _, metrics in recorder.logged for k, v in metrics.items()}
    return results


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


class TestFigures:
    def test_of_each_benchmark(self, loop: Any, module: Any, tmp_path: Path, capsys: Any) -> None:
        results = run(loop, module(), problems(), tmp_path)
        one, two = results["benchmarks"]
        assert [(b["name"], b["problems"], b["left_out"]) for b in (one, two)] == [("one", 2, 0), ("two", 2, 0)]
        # a: 4 of 4, b: 2 of 4 (pass@2: 1 - 1/6); c: 1 of 4 (pass@2: 1 - 3/6), d: 0 of 4
        assert one["metrics"]["pass@1"] == 0.75
        assert one["metrics"]["pass@2"] == pytest.approx((1 + 5 / 6) / 2)
        assert two["metrics"]["pass@1"] == 0.125
        assert two["metrics"]["pass@2"] == pytest.approx(0.25)
        # b is a tie; c has one vote for 2, two for 3 and one for 4: as predicted (2 of 8), 2 and 4 win over 3
        assert one["metrics"]["maj@4"] == 0.75
        assert two["metrics"]["maj@4"] == 0
        assert two["metrics"]["maj_predicted@4"] == 0.25
        # d is predicted 1/8 in the mean
        assert one["metrics"]["calibration/pass_rate/mae"] == 0
        assert two["metrics"]["calibration/pass_rate/mae"] == pytest.approx(1 / 16)
        assert two["metrics"]["calibration/length/count"] == 1
        assert results["logged"]["test/one/pass@1"] == 0.75
        assert results["logged"]["test/pass@1"] == pytest.approx(7 / 16)
        assert {f"{n}_{p}.png" for n in ("one", "two") for p in ("pass_rate_scatter", "length_scatter")} <= {
            p.name for p in (tmp_path / "pictures").iterdir()
        }
        page = (tmp_path / "results.md").read_text()
        assert "| one | 2 | 0.750 [0.198, 0.973] |" in page  # (.75 + z2/4 -+ z sqrt(.1875/2 + z2/16)) / (1 + z2/2)
        assert "| mean | - | 0.438 |" in page
        assert "one" in capsys.readouterr().out

    def test_without_predictions(self, loop: Any, module: Any, tmp_path: Path) -> None:
        plain = loop.scripted(script, GRPOLightningModule, evaluation=Evaluation(num_generations=4))
        (result,) = run(loop, plain, problems("ab"), tmp_path)["benchmarks"]
        assert result["metrics"]["maj@4"] == 0.75
        assert not [name for name in result["metrics"] if "predicted@" in name or "calibration" in name]
        assert not (tmp_path / "pictures").exists()
        assert "; 0 predictions." in (tmp_path / "results.md").read_text()  # whatever `evaluation` says of them

    def test_problems_with_overlong_prompts_are_counted(self, loop: Any, module: Any, tmp_path: Path) -> None:
        given = [*problems("ab"), Problem(id="long", problem="b" * 40, answer="2", source="one")]
        with pytest.warns(UserWarning, match="'long' is left out"):
            (result,) = run(loop, module(max_prompt_length=10), given, tmp_path)["benchmarks"]
        assert (result["problems"], result["left_out"]) == (2, 1)
        assert "| benchmark | problems | left out |" in (tmp_path / "results.md").read_text()

    def test_a_benchmark_that_is_left_out_altogether(self, loop: Any, module: Any, tmp_path: Path) -> None:
        given = [*problems("ab"), *[Problem(id=str(i), problem="b" * 40, answer="2", source="two") for i in range(2)]]
        with pytest.warns(UserWarning, match="is left out"):
            one, two = run(loop, module(max_prompt_length=10), given, tmp_path)["benchmarks"]
        assert (one["problems"], two["problems"], two["left_out"]) == (2, 0, 2)
        assert two["metrics"]["pass@1"] is None

    def test_numbers_within_a_tolerance_have_no_vote(self, loop: Any, module: Any, tmp_path: Path) -> None:
        given = problems("ab")
        given[1].answer = NumberAnswer(given[1].answer, tolerance=0.5)
        (result,) = run(loop, module(), given, tmp_path)["benchmarks"]
        assert result["metrics"]["pass@1"] == 1  # of b's answers 2, 2, 3, 3 all are within a half of 2
        assert result["metrics"]["maj@4"] == 1
        given[0].answer = NumberAnswer(given[0].answer, tolerance=0.5)
        (result,) = run(loop, module(), given, tmp_path / "numbers")["benchmarks"]
        assert result["metrics"]["maj@4"] is None

    def test_the_checkpoint_is_named(self, loop: Any, module: Any, tmp_path: Path) -> None:
        trained = module()
        recorder = loop.fit(trained, loop.Problems(problems("ab"), batch_size=2))
        recorder.trainer.save_checkpoint(tmp_path / "best.ckpt")
        trainer = loop.trainer(BenchmarkReport(str(tmp_path)))
        trainer.test(
            module(), loop.Problems(validation=problems("ab")), ckpt_path=tmp_path / "best.ckpt", verbose=False
        )
        assert json.loads((tmp_path / "results.json").read_text())["checkpoint"] == "best.ckpt"
        assert (tmp_path / "results.md").read_text().splitlines()[0].endswith(", checkpoint best.ckpt")

    def test_a_name_of_a_benchmark_cannot_break_the_table(self) -> None:
        table = markdown_table({"a|b": {"problems": 1.0, "left_out": 0.0, "pass@1": 0.5}}, [])
        assert table.splitlines()[2] == "| a&#124;b | 1 | 0.500 |"
        Console().print(table)


class Killed(BaseException):
    """As by a signal."""


class Counted:
    """Wraps a module's sampler: counts what is drawn, and ends it all at a call."""

    def __init__(self, module: Any, end: float = math.inf) -> None:
        self.generate, self.end, self.calls, self.requests = module.sampler.generate, end, 0, 0
        module.sampler.generate = self

    def __call__(self, requests: Any, *args: Any) -> list[Completion]:
        self.calls += bool(requests)
        if self.calls == self.end:
            raise Killed
        self.requests += len(requests)
        completions: list[Completion] = self.generate(requests, *args)
        return completions


class TestGoesOn:
    @pytest.mark.parametrize("tail", ["", '{"source": "one", "probl', "two lines"])
    def test_after_a_kill(self, loop: Any, tmp_path: Path, tail: str) -> None:
        """With a real sampler; its draws depend on their seeds alone."""

        def fresh() -> Any:
            return loop.module(evaluation=Evaluation(num_generations=3, num_meta_generations=2))

        given = problems("abcdefg")
        whole = run(loop, fresh(), given, tmp_path / "whole")
        folder = tmp_path / "killed"
        module = fresh()
        Counted(module, end=3)
        with pytest.raises(Killed):
            run(loop, module, given, folder)
        file = folder / "rollouts.jsonl"
        assert len(lines(folder)) == 4 * 5  # two batches of two
        if tail == "two lines":  # the last problem lacks three of its five
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:-3]))
        else:
            file.write_text(file.read_text() + tail)
        module = fresh()
        count = Counted(module)
        results = run(loop, module, given, folder)
        assert count.requests == (4 if tail == "two lines" else 3) * 5
        assert results["benchmarks"] == whole["benchmarks"]
        assert sorted(map(str, lines(folder))) == sorted(map(str, lines(tmp_path / "whole")))
        module = fresh()
        count = Counted(module)
        assert run(loop, module, given, folder)["benchmarks"] == whole["benchmarks"]
        assert count.requests == 0

    def test_two_reports_restore_once(self, loop: Any, module: Any, tmp_path: Path) -> None:
        for folder in ("1", "2"):
            run(loop, module(), problems("ab"), tmp_path / folder)
        again = module()
        both, recorder = [BenchmarkReport(str(tmp_path / folder)) for folder in ("1", "2")], loop.Recorder()
        loop.trainer(*both, recorder).test(again, loop.Problems(validation=problems("ab")), verbose=False)
        assert [len(g.rollouts) for g in recorder.tested] == [6, 6]

    def test_draws_do_not_depend_on_the_batches(self, loop: Any, tmp_path: Path) -> None:
        def texts(folder: Path, given: Sequence[Problem]) -> dict[tuple[Any, ...], list[str]]:
            run(loop, loop.module(), given, folder)
            found: dict[tuple[Any, ...], list[str]] = {}
            for line in lines(folder):
                found.setdefault((line["problem_id"], line["kind"]), []).append(line["text"])
            return found

        assert texts(tmp_path / "1", problems("abc")) == texts(tmp_path / "2", problems("cba"))

    def test_not_with_other_settings(self, loop: Any, module: Any, tmp_path: Path) -> None:
        run(loop, module(), problems("ab"), tmp_path)
        run(loop, module(), problems("abc"), tmp_path)  # more problems are welcome
        other = module(evaluation=Evaluation(num_generations=4, num_meta_generations=2, temperature=0.5))
        with pytest.raises(ValueError, match=r"other settings \(evaluation\).*another dirpath"):
            run(loop, other, problems("ab"), tmp_path)
        other = module(pass_rate_scale=16)
        with pytest.raises(ValueError, match=r"other settings \(pass_rate_scale\)"):
            run(loop, other, problems("ab"), tmp_path)

    def test_not_with_predictions_that_were_drawn_freely(self, loop: Any, tmp_path: Path) -> None:
        limits = {"max_completion_length": 96, "max_prompt_length": 24}
        run(loop, loop.module(**limits), problems("ab"), tmp_path)
        other = loop.module(**limits, meta=MetaSettings(structured_outputs=True))
        with pytest.raises(ValueError, match=r"other settings \(meta_schema\)"):
            run(loop, other, problems("ab"), tmp_path)
        assert evaluation_settings(other)["meta_schema"]
        assert "meta_schema" not in evaluation_settings(
            loop.fit(loop.module(), loop.Problems(2)).trainer.lightning_module
        )

    def test_not_with_a_grader_of_other_settings(self, loop: Any, module: Any, tmp_path: Path) -> None:
        """Its verdicts were taken up with the rollouts."""
        run(loop, module(grader=MathGrader(timeout=2.0)), problems("ab"), tmp_path)
        file = tmp_path / "settings.json"
        written = json.loads(file.read_text())
        with pytest.raises(ValueError, match=r"other settings \(grader_settings\): grader_settings was 'MathGrader\(t"):
            run(loop, module(grader=MathGrader(timeout=3.0)), problems("ab"), tmp_path)
        del written["grader_settings"]  # as earlier versions wrote it
        file.write_text(json.dumps(written))
        run(loop, module(grader=MathGrader(workers=1, timeout=3.0)), problems("ab"), tmp_path)

    def test_prompts_are_made_once_a_problem(self, loop: Any, module: Any, tmp_path: Path) -> None:
        run(loop, module(), problems("ab"), tmp_path)
        again = run(loop, module(), problems("ab"), tmp_path)
        assert len({id(r.prompt_ids) for g in again["groups"] for r in g.rollouts}) == 2 * 2  # problems, kinds

    def test_not_with_other_weights(self, loop: Any, module: Any, tmp_path: Path) -> None:
        run(loop, module(), problems("ab"), tmp_path)

        class Moved(type(module())):  # type: ignore[misc]
            def configure_model(self) -> None:
                super().configure_model()
                next(self.parameters()).data.flatten()[0] += 1

        other = module()
        other.__class__ = Moved
        with pytest.raises(ValueError, match=r"other settings \(weights\)"):
            run(loop, other, problems("ab"), tmp_path)

    def test_not_with_other_problems(self, loop: Any, module: Any, tmp_path: Path) -> None:
        run(loop, module(), problems("ab"), tmp_path)
        changed = problems("ab")
        changed[1].answer = "3"
        with pytest.raises(ValueError, match="problem 'b', with another text or answer: the data has changed"):
            run(loop, module(), changed, tmp_path)

    def test_not_from_a_broken_file(self, loop: Any, module: Any, tmp_path: Path) -> None:
        run(loop, module(), problems("ab"), tmp_path)
        file = tmp_path / "rollouts.jsonl"
        kept = file.read_text().splitlines(keepends=True)
        for broken, message in (
            ([*kept[:3], "nonsense\n", *kept[4:]], "line 4 of .* is not a rollout"),
            ([*kept[:3], *kept[4:]], r"has 5 rollouts of the problem \('one', 'a'\), expected 6"),
        ):
            file.write_text("".join(broken))
            with pytest.raises(ValueError, match=message):
                run(loop, module(), problems("ab"), tmp_path)

    def test_two_problems_of_one_name_are_refused(self, loop: Any, module: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="two problems of 'one' have the id 'a'"):
            run(loop, module(), problems("aa"), tmp_path)


def test_other_modules_are_refused(loop: Any) -> None:
    trainer = loop.trainer()
    with pytest.raises(TypeError, match="BenchmarkReport reports rollouts, and LightningModule makes none"):
        BenchmarkReport().setup(trainer, LightningModule(), "test")


class Failing(DummyLogger):
    """A tracker that cannot be reached."""

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        raise ConnectionError("no route to the tracker")


def test_a_logger_that_fails_loses_no_results(loop: Any, module: Any, tmp_path: Path) -> None:
    expected = run(loop, module(), problems(), tmp_path / "whole")
    trainer = loop.trainer(BenchmarkReport(str(tmp_path / "failed")), logger=Failing())
    with pytest.raises(ConnectionError):
        trainer.test(module(), loop.Problems(validation=problems()), verbose=False)
    for name in ("results.json", "results.md"):
        assert (tmp_path / "failed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert expected["logged"]["test/one/pass@1"] == expected["benchmarks"][0]["metrics"]["pass@1"]
