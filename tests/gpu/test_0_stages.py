"""The stages themselves, where there is no GPU: what stands behind a failure is skipped, with the name of what failed."""

import shutil
import subprocess
import sys
from pathlib import Path

FIRST = """
import pytest

pytestmark = pytest.mark.gpu


def test_fails():
    raise AssertionError


def test_of_the_same_stage():
    pass
"""
SECOND = """
import pytest


@pytest.mark.gpu
def test_behind():
    raise AssertionError("it was to be skipped")


def test_on_the_cpu(device):
    assert device.type == "cpu"
"""


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200).stdout


def test_a_failure_ends_the_stages(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_1_first.py").write_text(FIRST)
    (tmp_path / "test_2_second.py").write_text(SECOND)
    (tmp_path / "as_with_a_gpu.py").write_text(
        "import torch\ntorch.version.cuda, torch.cuda.is_available = '13.0', lambda: True\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    slow\n")
    said = run(tmp_path, "-p", "as_with_a_gpu", "-m", "gpu")
    assert "1 failed, 1 passed, 2 skipped, 1 deselected" in said, said
    assert "an earlier stage failed: test_fails" in said
    said = run(tmp_path, "-m", "not gpu")
    assert "1 passed" in said and "failed" not in said, said
