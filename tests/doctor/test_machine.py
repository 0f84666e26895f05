"""Devices, cores, memory and disk, with what is wrong with them put in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from masa_lightning.doctor.check import Check
from masa_lightning.doctor.machine import (
    cores,
    cpu_quota,
    devices,
    disk,
    judge_disk,
    judge_memory,
    memory,
    memory_left,
    without_gpus,
)
from masa_lightning.doctor.runner import run

GIB = 2**30


def files(root: Path, **contents: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (root / name.replace("__", ".")).write_text(f"{text}\n")
    return root


def test_the_least_quota_of_all_groups_counts(tmp_path: Path) -> None:
    files(tmp_path, cpu__max="max 100000")
    files(tmp_path / "pods", cpu__max="150000 100000")
    files(tmp_path / "pods" / "mine", cpu__max="400000 100000")
    assert cpu_quota(tmp_path, "0::/pods/mine\n") == 1.5
    assert cpu_quota(tmp_path, "0::/\n") is None
    assert cpu_quota(tmp_path / "none", "0::/\n") is None


@pytest.mark.parametrize("text", ["", "max", "1.5 100000", "-1 100000", "100000 0", "0 100000", "a b", "1 2 3"])
def test_a_quota_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    """It is read before `masa` does anything."""
    files(tmp_path, cpu__max=text)
    files(tmp_path / "cpu", **{"cpu.cfs_quota_us": text, "cpu.cfs_period_us": "100000"})
    assert cpu_quota(tmp_path, "4:cpu,cpuacct:/\n0::/\n") is None


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    files(tmp_path, cpu__max="250000 100000", memory__max=str(8 * GIB), memory__current=str(6 * GIB))
    assert cpu_quota(tmp_path, "0::/docker/of-the-host\n") == 2.5
    assert memory_left(tmp_path, "0::/docker/of-the-host\n") == 2 * GIB


def test_quota_and_memory_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own = "4:cpu,cpuacct:/mine\n3:memory:/mine\n0::/\n"
    files(tmp_path / "cpu" / "mine", **{"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"})
    files(tmp_path / "cpu", **{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    files(tmp_path / "memory", **{"memory.limit_in_bytes": str(2**63 - 4096), "memory.usage_in_bytes": "1"})
    files(
        tmp_path / "memory" / "mine",
        **{
            "memory.limit_in_bytes": str(4 * GIB),
            "memory.usage_in_bytes": str(3 * GIB),
            "memory.stat": f"cache 5\ntotal_inactive_file {GIB}",
        },
    )
    assert cpu_quota(tmp_path, own) == 0.5
    assert memory_left(tmp_path, own) == 2 * GIB


def test_cached_files_are_no_used_memory(tmp_path: Path) -> None:
    stat = f"anon 1\ninactive_file {3 * GIB}"
    files(tmp_path, memory__max=str(8 * GIB), memory__current=str(7 * GIB), memory__stat=stat)
    assert memory_left(tmp_path, "0::/\n") == 4 * GIB
    files(tmp_path, memory__max="max")
    assert memory_left(tmp_path, "0::/\n") is None


@pytest.mark.parametrize(
    ("available", "left", "state", "said"),
    [
        (20 * GIB, None, "ok", "20.0 GiB free"),
        (20 * GIB, 30 * GIB, "ok", "20.0 GiB free"),
        (20 * GIB, 6 * GIB, "ok", "6.0 GiB free, by the limit of this container"),
        (20 * GIB, 2 * GIB, "failed", "2.0 GiB free, by the limit of this container"),
        (3 * GIB, None, "failed", "3.0 GiB free"),
    ],
)
def test_memory(available: int, left: int | None, state: str, said: str) -> None:
    found = judge_memory(available, left)
    assert (found.state, found.text) == (state, said)
    assert ("expected 4 GiB at least" in found.remedy) is (state == "failed")


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy() -> None:
    found = judge_disk({"temporary folder": Path("/proc/none"), "this folder": Path.cwd()})
    assert found.state == "failed"
    assert "/proc (temporary folder) cannot be written" in found.text
    assert found.remedy.startswith("set TMPDIR to a folder that can")


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((real.f_bsize, 4096, 0, 9, 9, 9, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    found = judge_disk({"this folder": tmp_path, "cache of models": tmp_path / "not" / "there"})
    assert found.state == "failed"
    assert found.text.startswith(
        f"the disk of {tmp_path} (this folder) is full; the disk of {tmp_path} (cache of models)"
    )
    assert found.remedy.startswith("make room")


def test_little_shared_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    small = os.statvfs_result((4096, 4096, 16384, 16384, 16384, 9, 0, 0, 0, 255))  # 64 MB, Docker's default
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    found = judge_disk({"/dev/shm": Path("/dev/shm")})
    assert (found.state, "--shm-size" in found.remedy) == ("note", True)


def test_this_machine() -> None:
    for check in (cores, memory, disk):
        [found] = check()
        assert found.state in ("ok", "note"), found.text
    [found] = cores()
    assert found.facts["affinity"] == len(os.sched_getaffinity(0))


def test_a_quota_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masa_lightning.doctor.machine.cpu_quota", lambda: 0.5)
    [found] = cores()
    assert "a quota of 0.5" in found.text and found.facts["quota"] == 0.5


@pytest.mark.parametrize(("load", "state"), [(0.5, "ok"), (1000.0, "note")])
def test_a_busy_machine_is_a_note(load: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masa_lightning.doctor.machine.cpu_quota", lambda: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    [found] = cores()
    assert (found.state, "not this machine's own" in found.remedy) == (state, state == "note")


@pytest.mark.parametrize(
    ("present", "version", "cuda", "words", "state", "said"),
    [
        ([], "2.13.0+cpu", None, "", "ok", "no GPU: runs are on the CPU, with torch 2.13.0+cpu"),
        ([], "2.13.0+cu130", "13.0", "", "ok", "no GPU: runs are on the CPU, with torch 2.13.0+cu130"),
        (["A100"], "2.13.0+cpu", None, "", "failed", "A100, and torch 2.13.0+cpu is built for CPU"),
        (["A100"], "2.13.0+cu130", "13.0", "The driver is too old.", "failed", "can use none: The driver is too old."),
        (["A100"], "2.13.0+cu130", "13.0", "", "failed", "can use none: it does not say why"),
    ],
)
def test_a_gpu_that_torch_cannot_use(
    present: list[str], version: str, cuda: str | None, words: str, state: str, said: str
) -> None:
    found = without_gpus(present, "535.1", version, cuda, words)
    assert found.state == state
    assert said in found.text
    assert bool(found.remedy) is (state == "failed")
    assert found.facts["gpus"] == []


def test_a_vllm_for_cuda_needs_a_gpu() -> None:
    """It said "ok" and "runs are on the CPU", and every engine failed."""
    found = without_gpus([], "", "2.13.0+cu130", "13.0", "", needed=True)
    assert (found.state, found.text) == (
        "failed",
        "no GPU, and the installed vLLM is built for CUDA; torch is 2.13.0+cu130",
    )
    assert "nvidia-smi" in found.remedy and "masa_lightning[cpu]" in found.remedy


def test_devices_asks_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with a GPU, and the torch of this environment."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch can use a GPU")
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho '470.57.02, Tesla K80'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    [line] = run(Check("devices", devices, seconds=200), tmp_path / "out")
    assert line.state == "failed"
    assert line.found.startswith("Tesla K80")
    assert line.facts["driver"] == "470.57.02"
