"""Checks that end in all ways in which a process can, for tests/doctor."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from masa_lightning.doctor.check import Failed, Found


def ends(how: str) -> Iterator[Found]:
    """Finds something, and then ends."""
    yield Found("begun", facts={"number": 1})
    print("on the way", flush=True)
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            print("the last word", flush=True)
            os._exit(7)
        case "error":
            raise ValueError("weights | are\nnone")
        case "failed":
            raise Failed("no weights", "give some")
        case "hangs":
            while True:
                time.sleep(60)
    yield Found("done")
    if how == "dies late":
        os.kill(os.getpid(), signal.SIGSEGV)


def alone() -> Iterator[Found]:
    """The first process waits for the second one, which does not live."""
    if os.environ["RANK"] == "1":
        raise RuntimeError("the second one has no GPU")
    while True:
        time.sleep(60)
    yield Found("never")


def children(pids: str) -> Iterator[Found]:
    """Leaves a process of its own behind."""
    import subprocess

    process = subprocess.Popen(["sleep", "600"])
    with open(pids, "w") as file:
        file.write(str(process.pid))
    yield Found("started one")


def launched() -> Iterator[Found]:
    """Says what a launcher would have said."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
    yield Found(" ".join(os.environ.get(name, "-") for name in names))


def devices(gpus: tuple[str, ...]) -> Iterator[Found]:
    """Finds the GPUs that it is told."""
    yield Found(", ".join(gpus), facts={"gpus": gpus})


def named(name: str) -> Iterator[Found]:
    """Finds a name."""
    yield Found(name)


def hangs(pids: str) -> Iterator[Found]:
    """Says which process it is, and hangs."""
    with open(f"{pids}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{pids}.part", pids)
    while True:
        time.sleep(60)
    yield Found("never")


def ended(pid: int) -> bool:
    """Whether a process ends within some seconds, or waits for whoever adopts it to notice."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False
