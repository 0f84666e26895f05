"""What an evaluation finds: by name, by benchmark, and without any rollout that is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from masa_lightning import BenchmarkReport, Evaluation, MASALightningModule
from masa_lightning.callbacks.rollout_table import RolloutTable
from masa_lightning.callbacks.run_summary import RunSummary
from masa_lightning.rollouts.measurement import BenchmarkMeasurements, Measurement
from masa_lightning.types import Problem, RolloutGroup


class Count:
    """A metric of a user: how many problems there were, or several figures of that."""

    def __init__(self, *names: str) -> None:
        self.names, self.count = names, 0

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        self.count += len(groups)

    def compute(self) -> Any:
        return dict.fromkeys(self.names, self.count) if self.names else self.count


def problem(name: str, source: str = "") -> Problem:
    return Problem(id=name, problem=name, answer="2", source=source)


def test_names() -> None:
    measured = Measurement([("count", Count()), ("", Count("a", "b")), ("x", Count("a"))])
    for names in ("ab", "c"):
        measured.add([RolloutGroup(problem=problem(name)) for name in names])
    assert measured.compute() == {"count": 3, "a": 3, "b": 3, "x/a": 3}
    assert [p.id for p in measured.problems] == ["a", "b", "c"]


def test_benchmarks_are_apart_and_those_left_out_come_last() -> None:
    measured = BenchmarkMeasurements(lambda: [("count", Count())])
    measured.add([RolloutGroup(problem=problem("a", "one"))], [problem("long", "three"), problem("long", "two")])
    measured.add([RolloutGroup(problem=problem(name, source)) for name, source in (("b", "two"), ("c", "one"))], [])
    assert measured.compute() == {
        "one": {"problems": 2, "left_out": 0, "count": 2},
        "two": {"problems": 1, "left_out": 1, "count": 1},
        "three": {"problems": 0, "left_out": 1, "count": 0},
    }
    assert [*measured.compute()] == ["one", "two", "three"]


class WithCount(MASALightningModule):
    def evaluation_metrics(self) -> Any:
        return [*super().evaluation_metrics(), ("problems", Count())]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_no_rollout_outlives_its_batch(loop: Any, tmp_path: Any, stage: str) -> None:
    """Whatever callbacks are there; and a metric of a subclass is logged, and reported by benchmark."""
    module = loop.scripted(
        lambda *_: r"\boxed{2}", WithCount, evaluation=Evaluation(num_generations=2, num_meta_generations=1)
    )
    seen: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Watch(loop.Recorder):  # type: ignore[misc]
        def on_validation_batch_end(self, *args: Any, **_: Any) -> None:
            gc.collect()
            alive.append(sum(each() is not None for each in seen))
            seen.extend(weakref.ref(r.completion.token_ids) for g in args[2]["groups"] for r in g.rollouts)

        on_test_batch_end = on_validation_batch_end

    generate = module.sampler.generate

    class Ids(list):  # type: ignore[type-arg]
        """Lists can be seen to go if they are of a class."""

    def watched(*args: Any) -> Any:
        completions = generate(*args)
        for completion in completions:
            completion.token_ids = Ids(completion.token_ids)
        return completions

    module.sampler.generate = watched
    watch = Watch()
    trainer = loop.trainer(
        watch, BenchmarkReport(str(tmp_path)), RolloutTable(), RunSummary(), default_root_dir=tmp_path
    )
    data = loop.Problems(validation=[problem(str(i), "one" if i < 3 else "two") for i in range(6)])
    getattr(trainer, stage)(module, data, verbose=False)
    assert alive == [0, 0, 0]  # of all batches before
    assert len(seen) == 6 * 3
    name = {"validate": "val", "test": "test"}[stage]
    assert trainer.callback_metrics[f"{name}/problems"] == 6
    if stage == "test":
        logged = {name: value for _, metrics in watch.logged for name, value in metrics.items()}
        assert (logged["test/one/problems"], logged["test/two/problems"]) == (3, 3)
