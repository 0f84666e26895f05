"""Runs a function in two processes that Lightning takes for those of a launcher like torchrun.

All of them are forked from one process, which has imported what takes seconds to import: it starts with the first of them
and ends with pytest.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import distributed, multiprocessing

STRATEGIES = ("ddp", "fsdp2")
_SERVER = "forkserver"
multiprocessing.set_forkserver_preload(["lightning.pytorch", "masa_lightning.modules.masa", "masa_lightning.export"])


def strategy(name: str) -> Strategy:
    """One of `STRATEGIES`, for two processes."""
    return ModelParallelStrategy(2, 1, process_group_backend="gloo") if name == "fsdp2" else DDPStrategy()


def run(work: Callable[..., None], *args: Any) -> None:
    """Calls `work(rank, *args)` in each; it has to be a function of a module."""
    start(2, _join, find_free_network_port(), work, *args)


def start(count: int, work: Callable[..., None], *args: Any) -> None:
    """Calls `work(rank, *args)` in processes of one thread each, and waits for their ends."""
    multiprocessing.start_processes(_here, (dict(os.environ), work, *args), nprocs=count, start_method=_SERVER)


def _here(rank: int, environment: dict[str, str], work: Callable[..., None], *args: Any) -> None:
    os.environ.clear()  # what it was when the server started
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(rank, *args)


def _join(rank: int, port: int, work: Callable[..., None], *args: Any) -> None:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment |= {"TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "lo"}  # Lightning then starts no processes
    os.environ |= {name: str(value) for name, value in environment.items()}
    work(rank, *args)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
