#!/usr/bin/env python3
"""Steps of TRL's GRPO in turn with ours, for scripts/benchmark.py; runs in an environment that has TRL.

    python scripts/benchmark_trl.py transformers|vllm

It reads the task, a line of JSON, then a line before each step (`benchmark_turns.py`). vLLM's packing of weights on CPU
is off, as TRL's colocated hand-over does not work with it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile

from benchmark_turns import Turn


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def main() -> None:
    """Runs the command."""
    task, path = json.loads(sys.stdin.readline()), sys.argv[1]
    os.environ |= {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    if path == "vllm":  # which asks for a process group; with one of one process TRL trains by DDP
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    import torch
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    if path == "vllm":
        from torch.nn import functional as F
        from vllm.model_executor.layers import utils

        def plain(layer, remove_weight):
            layer.cpu_linear = F.linear

        utils.dispatch_cpu_unquantized_gemm = plain

    turn = Turn()

    class Watch(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            turn.begin()

        def on_log(self, args, state, control, logs=None, **kwargs):  # behind the step
            if "completions/mean_length" in (logs or {}):
                turn.end(logs["completions/mean_length"])

    def reward(completions, **kwargs):
        return [float(len(c) % 2) for c in completions]  # any that gives groups a variance

    prompts = [p for batch in task["prompts"] for p in batch]
    n = len(task["prompts"][0])
    extra = {}
    if task["at_limit"]:
        extra["generation_kwargs"] = {"ignore_eos": True} if path == "vllm" else {"min_new_tokens": task["max_tokens"]}
    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=n,  # the whole batch at once does not fit into 24 GiB
        num_generations=8,
        max_completion_length=task["max_tokens"],
        temperature=task["temperature"],
        learning_rate=task["learning_rate"],
        beta=0.0,
        max_steps=len(task["prompts"]),
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_vllm=path == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=512,
        model_init_kwargs={"dtype": "float32"},
        **extra,
    )
    trainer = trl.GRPOTrainer(
        model=task["model"],
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        callbacks=[Watch()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
