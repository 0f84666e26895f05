"""What precisions and dtypes a module trains with, on a tiny random model."""

import pytest
import torch
from conftest import make_tiny_checkpoint

from masa_lightning.models import loading
from masa_lightning.modules.settings import Algorithm


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("long"), context=1300)


def steps(before, after):
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_long_completions_under_autocast(loop, long_checkpoint, kl_coef):
    """1,200 tokens, one of them with attention of its own: the update is that of float32, as far as bfloat16 goes."""

    def answer(kind, text, index, call):
        words = "ab" * 600 if index == 0 else "cd " * 10 + f"\\boxed{{{index}}}"
        return (words, "length") if index == 0 else words

    moved = {}
    for precision in ("bf16-mixed", "32-true"):
        module = loop.scripted(
            answer,
            loop.SGD,
            model=str(long_checkpoint),
            max_completion_length=1200,
            learning_rate=0.1,
            algorithm=Algorithm(kl_coef=kl_coef, aggregation="seq-mean-token-mean"),
            num_iterations=2,
        )
        problems = [loop.problem("1+1"), loop.problem("1+2", answer="1")]
        recorder = loop.fit(module, loop.Problems(problems), precision=precision)
        assert max(r.length for g in recorder.groups[0] for r in g.rollouts) == 1200
        assert module.policy.model.dtype == torch.float32
        start = dict(loading.load_model(str(long_checkpoint), "float32").named_parameters())
        moved[precision] = steps(start, dict(module.policy.model.named_parameters())).detach()
    difference = moved["bf16-mixed"] - moved["32-true"]
    assert moved["32-true"].norm() > 1e-3
    assert difference.norm() < 0.1 * moved["32-true"].norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rollouts_of_transformers_under_autocast(loop, dtype):
    recorder = loop.fit(loop.module(dtype=dtype), loop.Problems(4), precision="bf16-mixed")
    for metrics in recorder.metrics:
        assert metrics["sampling/sampling_logp_difference/max"] < 0.1
