"""The real engine passes; one that does not get the weights is a failed line, and those behind it are still there."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from conftest import installed_vllm

from masa_lightning.doctor.engine import DTYPES, engine
from masa_lightning.modules.precision import PRECISIONS

pytest.importorskip("vllm")
on_cpu = pytest.mark.skipif(installed_vllm() != "cpu", reason="the installed vLLM is not built for CPU")


def test_all_precisions_of_training_are_tried() -> None:
    from masa_lightning.models.loading import DType

    assert tuple(DTYPES) == PRECISIONS
    assert {*DTYPES.values()} <= {*get_args(DType)}


@on_cpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_engine_is_tried(precision: str) -> None:
    start, parity, hand_over, generation = engine("cpu", precision)
    for found in (start, parity, hand_over, generation):
        assert (found.state, found.remedy) == ("ok", ""), found.text
    limit = 0.001 if precision == "32-true" else 0.15
    assert start.facts["shares_weights"] is True
    assert 0 < parity.facts["difference"] < limit == parity.facts["limit"]
    assert 0 < hand_over.facts["difference"] < limit
    assert generation.facts["tokens"] == 64 * 128


@on_cpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_weights_that_do_not_arrive_fail(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import masa_lightning

    class Stale(masa_lightning.VLLMSampler):
        def __init__(self, **settings):
            super().__init__(share_weights=False, **settings)

        def sync_weights(self):
            """Loses them, once the engine was made with the first ones."""

    monkeypatch.setattr(masa_lightning, "VLLMSampler", Stale, raising=False)
    found = [*engine("cpu", precision)]
    assert [each.state for each in found] == ["ok", "ok", "failed", "ok"]
    assert "the sampler does not draw from the policy after a hand-over" in found[2].text
    difference = re.search(r"differ by ([\d.]+) nats a token in the mean", found[2].text)
    assert difference is not None
    assert float(difference[1]) > 1
    assert found[2].remedy.startswith("the engine computes something else here")
