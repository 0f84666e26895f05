"""Runs a function in two processes that Lightning takes for those of a launcher like torchrun."""

import os
from collections.abc import Callable
from typing import Any

from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import distributed, multiprocessing

STRATEGIES = ("ddp", "fsdp2")


def strategy(name: str) -> Strategy:
    """One of `STRATEGIES`, for two processes."""
    return ModelParallelStrategy(2, 1, process_group_backend="gloo") if name == "fsdp2" else DDPStrategy()


def run(work: Callable[..., None], *args: Any) -> None:
    """Calls `work(rank, *args)` in each; it has to be a function of a module."""
    multiprocessing.spawn(_start, (find_free_network_port(), work, *args), nprocs=2)


def _start(rank: int, port: int, work: Callable[..., None], *args: Any) -> None:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment |= {"TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}  # Lightning then starts no processes
    os.environ |= {name: str(value) for name, value in environment.items()}
    work(rank, *args)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
