"""The engine's memory: asleep and awake again, beside another engine, and after its end. Sleep exists on CUDA alone."""

import gc

import pytest
import torch
from engines import Pair, large, make_checkpoint

pytestmark = pytest.mark.gpu
GIB, MIB = 2**30, 2**20
CACHE = 2.0  # GiB
OTHERS = "the driver counts all memory of this GPU: does another process take some?"
SLACK = 256 * MIB  # of cuBLAS, of libraries that are loaded late, and of blocks that torch keeps


@pytest.fixture(scope="module")
def cuda():
    vllm = pytest.importorskip("vllm.platforms", reason="vLLM is not installed")
    if not vllm.current_platform.is_cuda():
        pytest.skip("the installed vLLM does not run on CUDA")
    return torch.device("cuda", 0)


def free() -> int:
    """Bytes of the GPU that nobody has, as the driver counts them."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def sleeping(cuda, folder, **settings):
    path, model = large(folder, cuda, layers=4)
    return Pair(path, cuda, "bfloat16", model=model, kv_cache_gib=CACHE, enable_sleep_mode=True, **settings)


def check_cycles(pair, show, cycles):
    """Sleep gives the cache and the weights back, wake takes them again, and the engine draws from the policy of now."""
    engine = CACHE * GIB + sum(p.numel() * p.element_size() for p in pair.policy.parameters())
    show(f"more state than parameters and buffers: {getattr(pair.sampler, '_more_state', '') or 'none'}")
    requests = pair.requests(12)
    limit = pair.limit
    pair.change(2e-3)  # the first update loads what stays
    pair.sampler.sync_weights()
    before = pair.generate(requests)
    assert pair.differences(requests, before).mean() < limit
    asleep_at_first = 0
    for cycle in range(cycles):
        awake = free()
        pair.sampler.sleep()
        pair.sampler.sleep()
        asleep = free()
        asleep_at_first = asleep_at_first or asleep
        with pytest.raises(RuntimeError, match=r"asleep; call wake\(\)"):
            pair.generate(requests)
        pair.change(2e-3)
        pair.sampler.wake()
        with_weights = free()
        pair.sampler.sync_weights()
        again = free()
        stale = pair.differences(requests, before).mean()
        before = pair.generate(requests)
        found = pair.differences(requests, before)
        show(
            f"cycle {cycle + 1}: {(asleep - awake) / GIB:.2f} of {engine / GIB:.2f} GiB came back, "
            f"{(asleep - with_weights) / GIB:.2f} taken by weights, {(asleep - again) / GIB:.2f} by all; "
            f"log-probabilities differ by {found.mean():.1e}, from those of before by {stale:.2f}"
        )
        assert asleep - awake > 0.95 * engine, OTHERS
        assert asleep - with_weights < engine - 0.9 * CACHE * GIB  # the cache is not there yet
        assert abs(again - awake) < SLACK, OTHERS
        assert abs(asleep - asleep_at_first) < SLACK, OTHERS  # nothing piles up
        assert stale > 3 * limit
        assert found.mean() < limit


def test_two_engines_and_the_end_of_one(cuda, tmp_path):
    """Each draws from its own policy, also when the other is gone."""
    pairs = [Pair(make_checkpoint(tmp_path, name), cuda) for name in ("qwen3", "llama")]
    try:
        for _ in range(2):
            for pair in pairs:
                requests = pair.requests(12)
                assert pair.differences(requests, pair.generate(requests)).mean() < pair.limit
                pair.change()
                pair.sampler.sync_weights()
            pairs.pop(0).close()
    finally:
        for pair in pairs:
            pair.close()


def test_five_cycles_and_the_end(cuda, show, tmp_path):
    Pair(make_checkpoint(tmp_path, "qwen3"), cuda).close()  # loads libraries, which stay
    before = free()
    pair = sleeping(cuda, tmp_path / "first")
    try:
        check_cycles(pair, show, 5)
        for sleep in (True, False):  # one allocator of a process serves one engine that sleeps
            with pytest.raises(RuntimeError, match=r"one of the two has enable_sleep_mode; .* call close\(\)"):
                Pair(make_checkpoint(tmp_path, "qwen3"), cuda, enable_sleep_mode=sleep)
        requests = pair.requests(12)
        assert pair.differences(requests, pair.generate(requests)).mean() < pair.limit
    finally:
        pair.close()
    del pair
    left = before - free()
    show(f"{left / MIB:.0f} MiB of the GPU stay with the process after engine and policy")
    assert left < SLACK, OTHERS


def test_another_sleeping_engine_after_the_first(cuda, show, tmp_path):
    """With a level that keeps the weights, and torch's expandable segments, which vLLM's memory has to do without."""
    configure = getattr(torch._C, "_accelerator_setAllocatorSettings", torch.cuda.memory._set_allocator_settings)
    configure("expandable_segments:True")
    try:
        pair = sleeping(cuda, tmp_path, sleep_level=1)
        try:
            check_cycles(pair, show, 2)
        finally:
            pair.close()
    finally:
        configure("expandable_segments:False")
