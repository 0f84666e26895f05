"""Fixtures of graded programs."""

import shutil
import time
from pathlib import Path

import pytest
from programs import alive

from masa_lightning.grading.programs import launch


@pytest.fixture
def nothing_stays(tmp_path, monkeypatch):
    """Fails if a process of a sandbox outlives the test."""
    worker = Path(shutil.copy(launch.WORKER, tmp_path / "worker_of_this_test.py"))
    monkeypatch.setattr(launch, "WORKER", worker)
    yield worker
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert alive(worker) == []
