"""The engine follows the policy: weights tied, untied, with adapters, with experts. Into captured graphs: test_4_engine.py.

On CPU more of this is in tests/sampling/vllm/test_sampler.py, test_lora.py and vllm/test_architectures.py.
"""

import pytest
from engines import GREEDY, Pair, make_checkpoint

GPU = pytest.mark.gpu
KINDS = [
    pytest.param("qwen2-tied", {}, id="tied"),
    pytest.param("qwen3", {}, id="untied"),
    pytest.param("llama", {"lora": True}, id="lora"),
    pytest.param("qwen3-moe", {}, id="experts"),
    pytest.param("qwen3", {"share_weights": True}, id="one storage", marks=GPU),
    pytest.param("qwen3-moe", {"dtype": "bfloat16"}, id="experts in bfloat16", marks=GPU),
]


@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_the_engine_follows_the_policy(engine_device, show, tmp_path, name, settings):
    pair = Pair(make_checkpoint(tmp_path, name), engine_device, **{"share_weights": False} | settings)
    # A router that is near a tie takes another expert, and the token's log-probability is then another one.
    limit = pair.limit * (3 if name == "qwen3-moe" else 1)
    try:
        assert pair.sampler.shares_weights is settings.get("share_weights", False)
        requests = pair.requests()
        before = pair.generate(requests)
        found = [pair.differences(requests, before)]
        for _ in range(2):
            pair.change()
            stale = pair.differences(requests, before)
            assert stale.mean() > max(3 * limit, 0.3)
            if settings.get("share_weights"):
                pair.sampler.sync_weights()  # forgets cached prompts
            else:
                old = pair.differences(requests, pair.generate(requests))
                assert old.mean() > max(3 * limit, 0.3)  # the engine has the weights of before
                pair.sampler.sync_weights()
            before = pair.generate(requests)
            found.append(pair.differences(requests, before))
            gaps = pair.gaps(requests, pair.generate(requests, GREEDY))
            assert gaps.median() == 0
            assert gaps.mean() < limit
        private = getattr(pair.sampler._hand_over, "_private", "")
        layout = f"through vLLM's reload ({private})" if private else "copied in place"
        means, medians = [f"{x.mean():.1e}" for x in found], [f"{x.median():.1e}" for x in found]
        show(
            f"{name}, {layout}: differ by {', '.join(means)} in the mean, {', '.join(medians)} in the median; "
            f"from the weights of before by {stale.mean():.1f}"
        )
        for differences in found:
            assert differences.mean() < limit
            assert differences.median() < pair.limit
    finally:
        pair.close()
