"""torchmetrics' `plot` of our metrics, as in a project that uses them alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from matplotlib import pyplot
from torchmetrics import Metric

from masa_lightning.metrics import LengthCalibration, MajorityVote, PassAtK, PassRateCalibration, ValueCalibration


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def filled(kind: type[Metric]) -> Metric:
    metric, actual = kind(), torch.tensor([10.0, 20.0, 40.0])
    if isinstance(metric, PassRateCalibration):
        metric.update(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 2, 4]), torch.tensor([4, 4, 4]))
    elif isinstance(metric, ValueCalibration):
        metric.update(actual * 1.1 - 20, actual - 20)
    else:
        metric.update(actual * 1.1, actual, actual * 0.9, actual * 1.2)
    return metric


@pytest.mark.parametrize("kind", [PassRateCalibration, LengthCalibration, ValueCalibration])
def test_what_was_added_is_drawn(kind: type[Metric]) -> None:
    figure, axes = filled(kind).plot()
    assert figure.number in pyplot.get_fignums()  # shown by a notebook, as torchmetrics' own are
    assert "n = 3 problems" in axes.get_title(loc="left")
    other, given = pyplot.subplots(1, 2)
    assert filled(kind).plot(ax=given[1]) == (other, given[1])
    assert (given[0].get_title(loc="left"), given[1].get_title(loc="left")) == ("", axes.get_title(loc="left"))
    figure.canvas.draw()


@pytest.mark.parametrize("kind", [PassRateCalibration, LengthCalibration, ValueCalibration])
def test_figures_are_drawn_as_torchmetrics_does(kind: type[Metric]) -> None:
    metric = filled(kind)
    values = [metric.compute(), metric.compute()]
    _, axes = metric.plot(values)
    names = {text.get_text() for text in axes.get_legend().get_texts()}
    assert {"pearson", "count"} <= names


def test_nothing_was_added() -> None:
    for metric in (PassRateCalibration(), LengthCalibration(), ValueCalibration()):
        figure, axes = metric.plot()
        assert "n = 0 problems" in axes.get_title(loc="left")
        figure.canvas.draw()


def test_pass_at_k_is_drawn_up_to_the_solutions_that_all_have() -> None:
    metric = PassAtK(k=(2,))
    metric.update(torch.tensor([1, 4]), torch.tensor([4, 8]))
    figure, axes = metric.plot()
    curve = axes.lines[0].get_xydata().tolist()
    assert [k for k, _ in curve] == [1, 2, 3, 4]
    assert [share for _, share in curve[:2]] == pytest.approx([metric.compute()[f"pass@{k}"].item() for k in (1, 2)])
    figure.canvas.draw()
    _, axes = metric.plot([metric.compute()] * 2)
    assert {"pass@2", "pass@1_low"} <= {text.get_text() for text in axes.get_legend().get_texts()}
    assert PassAtK().plot()[1].get_title(loc="left") == "pass@k: n/a, n = 0 problems"


def test_votes_are_drawn_as_torchmetrics_does() -> None:
    metric = MajorityVote()
    metric.update(torch.tensor([[1, 1, 2]]), torch.tensor([[True, True, False]]))
    assert metric.plot()[1].lines[0].get_ydata()[0] == 1
