"""Engines in two trainer processes: under DDP, with FSDP2 weights, and as the halves of one engine."""

import os

import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3ForCausalLM

from masa_lightning.settings import SamplingSettings
from masa_lightning.types import SamplingRequest


def _work(rank, folder, path, tensor_parallel_size, fsdp):
    from masa_lightning.sampling.vllm import VLLMSampler

    os.environ |= {"LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    policy = Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32)
    if fsdp:
        for layer in policy.model.layers:
            fully_shard(layer)
        trained = fully_shard(policy)
    else:
        trained = DistributedDataParallel(policy)
    sampler = VLLMSampler(tensor_parallel_size, kv_cache_gib=0.02)
    sampler.setup(policy, path, max_model_length=64, stop_token_ids=[2])
    assert sampler.shares_weights is (tensor_parallel_size == 1 and not fsdp)
    requests = [SamplingRequest(prompt_ids=[5 + i, 50 + rank] * 9, max_tokens=9, seed=i) for i in range(2 + 3 * rank)]
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01)
    whole = Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32)
    for step in range(3):
        completions = sampler.generate(requests, SamplingSettings())
        weights = {k: v.full_tensor() if fsdp else v for k, v in policy.state_dict().items()}
        whole.load_state_dict(weights)
        for request, completion in zip(requests, completions, strict=True):
            ids = torch.tensor([request.prompt_ids + completion.token_ids])
            with torch.no_grad():
                logp = whole(ids).logits[0, 17:-1].log_softmax(-1)
            expected = logp.gather(1, ids[0, 18:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)
        ids = torch.randint(4, 250, (2, 16), generator=torch.Generator().manual_seed(10 * step + rank))
        trained(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sampler.sync_weights()


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_two_processes(tools, tmp_path, tensor_parallel_size, fsdp):
    pytest.importorskip("vllm")
    multiprocessing.spawn(_work, (tmp_path, tools.path(), tensor_parallel_size, fsdp), nprocs=2)
